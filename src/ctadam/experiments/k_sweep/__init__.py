"""k-Adam with k stages under four strategies: claims K1 and K2."""

#: Name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig5_k_sweep"
NEEDS = ("k_sweep",)
