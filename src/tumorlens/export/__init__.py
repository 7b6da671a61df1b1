"""From a checkpoint to one file that other programs run."""
