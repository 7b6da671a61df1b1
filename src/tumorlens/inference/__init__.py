"""From files to verdicts, by a checkpoint or by an exported network. No torch before it is used."""
