"""Rank correlations with an interval over seeds: the pairs are given, the seeds are what could have been others."""

import numpy as np
from scipy import stats


def spearman(table, x, y):
    """Spearman's correlation of two columns over the rows of each seed.

    Args:
        table: DataFrame with a column ``seed``; a row a pair and seed.
        x, y: names of the columns; inf has the largest rank.

    Returns:
        float64 array, a number a seed, in the order of the seeds; NaN where a column is constant or holds NaN.
    """

    def one(rows):
        if rows[[x, y]].isna().any(axis=None):
            return np.nan
        ranks = [stats.rankdata(rows[name]) for name in (x, y)]
        if any(np.ptp(rank) == 0 for rank in ranks):
            return np.nan
        return float(np.corrcoef(*ranks)[0, 1])

    return np.array([one(rows) for _, rows in table.groupby("seed", sort=True)])
