"""Limits of the growth in practice, and long runs (claims E1, E2 and L1)."""

#: Base name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig8_practice"
NEEDS = ("growth", "practice")
#: A further figure, drawn by the function of ``figure.py`` named after it, and the experiments that it needs.
FURTHER_FIGURES = {"fig13_protection": ("practice",)}
