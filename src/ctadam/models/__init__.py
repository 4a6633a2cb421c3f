"""The networks that the experiments train, small enough to read whole."""
