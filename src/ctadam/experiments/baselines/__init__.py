"""2-Adam against tuned baselines on images and text: claims K4 and K5."""

#: Name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig9_baselines"
NEEDS = ("baselines",)
