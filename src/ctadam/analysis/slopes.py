"""Growth of the largest update, and slopes of time series."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

# Not a prediction: the bias correction is part of the update's definition, and the claims are about the other factor.
from ctadam.optim import prefactor


def slope(x: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """Return the least-squares slope of y on x.

    Args:
        x: sequence of length n.
        y: sequence of length n. Points where x or y is not finite are dropped.

    Returns:
        dict of ``slope`` and ``r_squared``, both NaN with fewer than five points. There is no standard error: the residuals of
        these time series are strongly correlated, and claims take their intervals over seeds or runs.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    good = np.isfinite(xs) & np.isfinite(ys)
    if good.sum() < 5:
        return {"slope": np.nan, "r_squared": np.nan}
    fit = stats.linregress(xs[good], ys[good])
    return {"slope": fit.slope, "r_squared": fit.rvalue**2}


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
