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


def chosen_by_others(scores: pd.Series, setting: pd.Series, group: pd.Series, seed: pd.Series) -> pd.Series:
    """Return for each run whether its setting has the best mean score over the other seeds of its group.

    Args:
        scores: one number per run, larger is better. Numbers that are not finite do not count.
        setting: setting of each run, such as its learning rate; unique within a group.
        group: group of each run, within which one setting is chosen; a run with the group NaN is never chosen.
        seed: seed of each run. A single seed chooses by its own runs.

    Returns:
        Series of bool, True for exactly one run per group and seed. Ties go to the first run.
    """
    known = np.isfinite(scores)
    filled = scores.where(known, 0.0)
    keys = [group, setting]
    total, count = (values.groupby(keys).transform("sum") for values in (filled, known.astype(float)))
    others = (total - filled) / (count - known)
    # Rounding makes ties of accuracies exact.
    others = others.where(count - known > 0, scores.where(known, -np.inf)).round(12)
    return scores.index.to_series().isin(others.groupby([group, seed]).idxmax())
