"""Intervals over seeds."""

import numpy as np

from ctadam.analysis.seeds import over_seeds


def test_interval_over_seeds_covers_the_mean():
    rng = np.random.default_rng(0)
    inside = [low < 1 < high for _, low, high in (over_seeds(rng.normal(1, 2, 5)) for _ in range(400))]
    assert 0.92 < np.mean(inside) < 0.98
    assert over_seeds([2.0]) == (2.0, -np.inf, np.inf)
    # The interval is clipped to the range of possible values.
    mean, low, high = over_seeds([0.9, 0.99, 1.0])
    assert high > 1 and over_seeds([0.9, 0.99, 1.0], within=(-1, 1)) == (mean, low, 1)
