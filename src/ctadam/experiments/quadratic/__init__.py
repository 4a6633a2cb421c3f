"""Learning rate, noise and weight decay on a convex quadratic, over the whole square of betas (claims S9, S12)."""

#: Base name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig6_quadratic"
NEEDS = ("quadratic",)
