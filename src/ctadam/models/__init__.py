"""The networks that the experiments train, each small enough to read in full."""
