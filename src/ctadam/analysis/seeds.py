"""Statistics over seeds: means with t intervals, rank correlations and leave-one-seed-out means."""

import warnings

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def over_seeds(values: ArrayLike, within: tuple[float, float] = (-np.inf, np.inf)) -> tuple[float, float, float]:
    """Return the mean over seeds with its 95 % interval by Student's t.

    Args:
        values: one number per seed.
        within: range of possible values, such as (−1, 1) for a correlation. The interval is clipped to it.

    Returns:
        ``(mean, low, high)``. The interval is (−inf, inf) with fewer than two seeds. With a non-finite value the mean is NaN too.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    mean = float(values.mean()) if np.isfinite(values).all() and n else np.nan
    if n < 2 or np.isnan(mean):
        return mean, -np.inf, np.inf
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return mean, max(mean - half, within[0]), min(mean + half, within[1])


def spearman(table: pd.DataFrame, x: str, y: str) -> NDArray[np.float64]:
    """Return Spearman's rank correlation of two columns, computed per seed.

    Args:
        table: DataFrame with a column ``seed`` and one row per pair and seed.
        x: name of the first column. inf has the largest rank.
        y: name of the second column.

    Returns:
        float64 array with one number per seed, in ascending order of the seeds. NaN where a column is constant or holds NaN.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return np.array([stats.spearmanr(rows[x], rows[y]).statistic for _, rows in table.groupby("seed", sort=True)])


def means_of_others(table: pd.DataFrame) -> pd.DataFrame:
    """Return the leave-one-seed-out mean of each row.

    A setting chosen by these means is not favoured by the noise of the seed that evaluates it.

    Args:
        table: DataFrame with one row per setting and one column per seed.

    Returns:
        DataFrame of the same shape. A single seed keeps its own values, because there is no other.
    """
    if table.shape[1] < 2:
        return table
    return pd.DataFrame({seed: table.drop(columns=seed).mean(axis=1) for seed in table})
