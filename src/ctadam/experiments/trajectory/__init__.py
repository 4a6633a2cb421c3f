"""The differential equations against the optimizer: claims T1-T4."""

#: Name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig1_trajectory"
NEEDS = ("trajectory",)
