"""Tightness of the exact bound under worst-case gradients, and k-Adam with one unstable stage: claims S7, S8 and K3."""

#: File name of the figure, and the experiments whose results it shows.
FIGURE = "fig7_tightness"
NEEDS = ("growth", "quadratic", "tightness")
