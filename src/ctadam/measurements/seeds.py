"""Means over seeds, with an interval for the few there are."""

import numpy as np
from scipy import stats


def over_seeds(values, within=(-np.inf, np.inf)):
    """Mean over seeds and its 95 % interval by Student's t, ``(mean, low, high)``; infinite with fewer than two seeds.

    ``within``: what such values can be at all, a correlation or a share; the interval ends there.
    """
    values = np.asarray(values, dtype=np.float64)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, -np.inf, np.inf
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return mean, max(mean - half, within[0]), min(mean + half, within[1])
