"""Claims K1 and K2: accuracy of k-Adam against the number of stages, for four strategies (arXiv 2411.05746, k-Adam)."""
