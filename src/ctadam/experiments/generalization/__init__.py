"""Test losses of two tasks over pairs of betas: claims G1–G4."""

#: File name of the figure, and the experiments whose results it shows.
FIGURE = "fig3_generalization"
NEEDS = ("generalization",)
