"""Test loss over pairs of betas on two tasks: claims G1-G4."""

#: Name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig3_generalization"
NEEDS = ("generalization",)
