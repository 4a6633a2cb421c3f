"""A small language model trained at points of the normal curve: claims S1-S6 and S10."""

#: Name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig2_stability"
NEEDS = ("growth",)
