"""Growth of Adam's updates along the normal curve, for a small language model (claims S1-S6, S10, S11, S14 and S15)."""

#: Base name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig2_stability"
NEEDS = ("growth",)
#: Further figures, each drawn by the function of ``figure.py`` named after it, and the experiments that they need.
FURTHER_FIGURES = {"fig10_growth": NEEDS, "fig11_batch_size_rule": NEEDS}
