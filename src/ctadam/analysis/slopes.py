"""Growth of the largest update, and slopes of time series with errors that account for autocorrelated residuals."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

# Not a prediction: the bias correction is part of the update's definition, and the claims are about the other factor.
from ctadam.optim import prefactor

#: Residuals below this size are rounding errors. If an update grows by the same factor at every step, they are about 1e-15
#: and their signs depend on the processor's logarithm. In all other shipped runs the residuals are much larger.
ROUNDING = 1e-8


def slope(x: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """Return the least-squares slope of y on x with a standard error for autocorrelated residuals.

    The same row holds the largest update for many steps, so the residuals are strongly autocorrelated. Both the standard error
    and the degrees of freedom use the effective sample size n·(1−r)/(1+r), where r is the lag-one autocorrelation of the
    residuals (Santer et al. 2000, doi:10.1029/1999JD901105). It is never below 3.

    In simulations with r up to 0.98, the 95 % intervals cover the true slope in at least about 90 % of cases. Newey-West errors
    reach at most 78 %. `ROUNDING` is added to the residuals' variance, so that neither r nor the error depends on how a
    processor rounds.

    Args:
        x: sequence of length n.
        y: sequence of length n. Points where x or y is not finite are dropped.

    Returns:
        dict of ``slope``, ``se`` (standard error), ``df`` (degrees of freedom, not an integer) and ``r_squared``. With fewer than
        five points, ``df`` is 0 and the rest are NaN.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    good = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[good], ys[good]
    n = len(xs)
    if n < 5:
        return {"slope": np.nan, "se": np.nan, "df": 0.0, "r_squared": np.nan}
    fit = stats.linregress(xs, ys)
    residuals = ys - fit.intercept - fit.slope * xs
    total = float((residuals**2).sum()) + n * ROUNDING**2
    r = max(0.0, float((residuals[1:] * residuals[:-1]).sum()) / total)
    df = max(3.0, n * (1 - r) / (1 + r)) - 2
    se = float(np.sqrt(total / df / ((xs - xs.mean()) ** 2).sum()))
    return {"slope": fit.slope, "se": se, "df": df, "r_squared": fit.rvalue**2}


def half_width(se: Any, df: Any, level: float = 0.95) -> Any:
    """Return the half width of a slope's two-sided interval, elementwise.

    Args:
        se: standard error from `slope`, scalar or array.
        df: degrees of freedom from `slope`, broadcast against ``se``.
        level: confidence level.
    """
    return stats.t.ppf((1 + level) / 2, df) * se


def held(steps: pd.DataFrame) -> pd.Series:
    """Return whether the largest update of each step is in the same row as that of the step before.

    Where another row takes over, the maximum jumps, which is no growth.

    Args:
        steps: consecutive recorded steps of one run, with ``step``, ``update_tensor`` and ``update_row``. If the step before is
            not recorded, the result is False.
    """
    rows = steps[["update_tensor", "update_row"]]
    return (rows == rows.shift()).all(axis=1) & (steps["step"].diff() == 1)


def log_update(steps: pd.DataFrame) -> pd.Series:
    """Return ln(‖u_n‖_∞ / bias correction) of the steps of one run; −inf where the update is 0.

    Args:
        steps: steps of one run, with ``beta1``, ``beta2``, ``step`` and ``update_max``.
    """
    pair = {name: steps[name].iloc[0] for name in ("beta1", "beta2")}
    with np.errstate(divide="ignore"):
        return pd.Series(np.log(steps["update_max"] / prefactor(**pair, step=steps["step"].to_numpy())))
