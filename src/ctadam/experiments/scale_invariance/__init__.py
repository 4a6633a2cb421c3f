"""Scale-invariant weights: laws of their norm, and 2-Adam as a substitute for the norm. Claims N1-N6 and N8-N10."""

#: File name of the figure, and the experiments whose results it shows.
FIGURE = "fig4_scale_invariance"
NEEDS = ("scale_invariance",)
#: A further figure, drawn by the function of ``figure.py`` named after it, and the experiments that it needs.
FURTHER_FIGURES = {"fig12_directions": NEEDS}
