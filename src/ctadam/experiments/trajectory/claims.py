"""Claims T1-T4: how closely the differential equations track the optimizer (paper, section 2)."""
