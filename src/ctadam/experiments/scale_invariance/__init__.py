"""Scale-invariant weights, the laws of their norm, and 2-Adam in the norm's place: claims N1-N9."""

#: Name of the figure's files, and the experiments whose results it shows.
FIGURE = "fig4_scale_invariance"
NEEDS = ("scale_invariance",)
