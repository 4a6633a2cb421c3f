"""Comparison of the differential equations with the optimizer (claims T1-T6)."""

#: Base name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig1_trajectory"
NEEDS = ("trajectory",)
