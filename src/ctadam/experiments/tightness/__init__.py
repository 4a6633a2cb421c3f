"""Gradients chosen to attain the bound, and k-Adam with one unstable stage: claims S7, S8 and K3."""

#: Name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig7_tightness"
NEEDS = ("growth", "quadratic", "tightness")
