"""Claims E1, E2 and L1: limits of the growth in practice, gradient precision, and long runs."""
