"""Tightness of the exact bound under worst-case gradients, its edges, and k-Adam with one unstable stage (S7, S8, S13, K3)."""

#: File name of the figure, and the experiments whose results it shows.
FIGURE = "fig7_tightness"
NEEDS = ("growth", "quadratic", "tightness")
