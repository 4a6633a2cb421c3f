"""Statistics over seeds: means with an interval for the few there are, rank correlations, and choices by the other seeds."""

import warnings

import numpy as np
import pandas as pd
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


def spearman(table, x, y):
    """Return Spearman's correlation of two columns over the rows of each seed.

    Args:
        table: DataFrame with a column ``seed``; one row per pair and seed.
        x, y: names of the columns; inf has the largest rank.

    Returns:
        float64 array, one number per seed, in the order of the seeds; NaN where a column is constant or holds NaN.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return np.array([stats.spearmanr(rows[x], rows[y]).statistic for _, rows in table.groupby("seed", sort=True)])


def means_of_others(table):
    """Return for each row and seed the mean of the row over the other seeds, so that no seed chooses by its own luck.

    Args:
        table: DataFrame, one row per setting, one column per seed. A single seed has no others and keeps its own values.
    """
    if table.shape[1] < 2:
        return table
    return pd.DataFrame({seed: table.drop(columns=seed).mean(axis=1) for seed in table})
