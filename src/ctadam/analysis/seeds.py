"""Means over seeds, with an interval for the few there are."""

import numpy as np
from scipy import stats


def over_seeds(values, within=(-np.inf, np.inf)):
    """Mean over seeds and its 95 % interval by Student's t, ``(mean, low, high)``.

    The interval is infinite with fewer than two seeds, or if a value is not finite.

    ``within``: what such values can be at all, a correlation or a share; the interval ends there.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    mean = float(values.mean()) if np.isfinite(values).all() and n else np.nan
    if n < 2 or np.isnan(mean):
        return mean, -np.inf, np.inf
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return mean, max(mean - half, within[0]), min(mean + half, within[1])
