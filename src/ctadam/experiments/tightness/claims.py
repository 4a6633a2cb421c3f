"""Claims S7, S8 and K3: the exact bound is attained and never exceeded, and the last stage bounds k-Adam."""
