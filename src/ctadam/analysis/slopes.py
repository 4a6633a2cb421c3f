"""Slopes of time series with an honest interval: neighbouring steps are not independent measurements."""

import numpy as np
from scipy import stats

#: Residuals smaller than this are rounding: in a run whose update grows by the same factor at every step they are about
#: 1e-15, and their signs are those of the processor's logarithm. In all other runs shipped they exceed it many times.
ROUNDING = 1e-8


def slope(x, y):
    """Least-squares slope of y on x with a standard error for correlated residuals.

    The largest update is held by the same row for many steps, so residuals stay correlated for long. The n points
    count as n·(1−r)/(1+r), r the residuals' lag-one correlation, both in the error and in the degrees of freedom (the
    effective sample size of Santer et al. 2000, doi:10.1029/1999JD901105); never as fewer than 3. In simulations with
    r up to 0.98 its 95 % intervals cover the truth in about 90 % and more, where Newey-West errors cover 78 % and less.
    Independent rounding errors of size `ROUNDING` are added to the residuals' variance, so that neither r nor the error
    depends on how a processor rounds.

    Args:
        x, y: sequences of equal length n; points that are not finite are left out.

    Returns:
        dict of ``slope``, ``se`` (standard error), ``df`` (degrees of freedom, not a whole number) and ``r_squared``;
        NaN (df 0) if fewer than five points remain.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    n = len(x)
    if n < 5:
        return {"slope": np.nan, "se": np.nan, "df": 0.0, "r_squared": np.nan}
    fit = stats.linregress(x, y)
    residuals = y - fit.intercept - fit.slope * x
    total = float((residuals**2).sum()) + n * ROUNDING**2
    r = max(0.0, float((residuals[1:] * residuals[:-1]).sum()) / total)
    df = max(3.0, n * (1 - r) / (1 + r)) - 2
    se = float(np.sqrt(total / df / ((x - x.mean()) ** 2).sum()))
    return {"slope": fit.slope, "se": se, "df": df, "r_squared": fit.rvalue**2}


def half_width(se, df, level=0.95):
    """Half the width of the two-sided interval of a slope, from `slope`'s ``se`` and ``df``. Elementwise."""
    return stats.t.ppf((1 + level) / 2, df) * se
