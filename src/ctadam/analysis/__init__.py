"""Statistics, verdicts and figure style that the experiments share."""
