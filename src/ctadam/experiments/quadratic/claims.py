"""Claim S9: learning rate, noise and weight decay do not move the guarantee."""
