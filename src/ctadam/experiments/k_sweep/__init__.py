"""k-Adam by learning rate, strategy and number of stages, with and without normalization layers: claims K1, K2, K6, K7."""

#: File name of the figure, and the experiments whose results it shows.
FIGURE = "fig5_k_sweep"
NEEDS = ("k_sweep",)
