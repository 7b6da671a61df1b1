"""From files to decisions, by a checkpoint or an exported network. No torch before its use."""
