"""Claims N1-N9 on scale-invariant weights: both assumptions, the norm laws, and 2-Adam as a substitute for the norm."""
