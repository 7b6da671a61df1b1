"""Many runs: grids of networks, seeds and folds, and what they say together."""
