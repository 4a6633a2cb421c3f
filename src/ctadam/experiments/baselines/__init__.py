"""2-Adam compared with tuned baselines on images and text: claims K4 and K5."""

#: File name of the figure, and the experiments whose results it shows.
FIGURE = "fig9_baselines"
NEEDS = ("baselines",)
