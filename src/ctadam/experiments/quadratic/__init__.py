"""Learning rates, noise and weight decay on a convex quadratic, all over the square of betas: claim S9."""

#: Name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig6_quadratic"
NEEDS = ("quadratic",)
