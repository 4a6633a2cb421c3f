"""Claims S1-S6 and S10: the stable region and exponential growth (paper, section 3)."""
