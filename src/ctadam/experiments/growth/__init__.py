"""Growth of Adam's updates along the normal curve, for a small language model (claims S1-S6 and S10)."""

#: Base name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig2_stability"
NEEDS = ("growth",)
