"""k-Adam with different numbers of stages under four strategies: claims K1 and K2."""

#: File name of the figure, and the experiments whose results it shows.
FIGURE = "fig5_k_sweep"
NEEDS = ("k_sweep",)
