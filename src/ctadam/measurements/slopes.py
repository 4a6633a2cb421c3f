"""Slopes of time series with an honest interval: neighbouring steps are not independent measurements."""

import numpy as np
from statsmodels.regression.linear_model import OLS
from statsmodels.tools import add_constant


def slope(x, y):
    """Least-squares slope of y on x with a heteroscedasticity- and autocorrelation-consistent standard error.

    Newey-West weights over √n lags: the largest update is held by the same coordinate for many steps, so residuals stay
    correlated for long, and the usual rule's four or five lags would make the interval far too narrow.

    Args:
        x, y: sequences of equal length n; entries that are not finite are left out.

    Returns:
        dict of ``slope``, ``se`` (standard error), ``df`` (degrees of freedom) and ``r_squared``; NaN (df 0) if fewer
        than five points remain.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    n = int(good.sum())
    if n < 5:
        return {"slope": np.nan, "se": np.nan, "df": 0, "r_squared": np.nan}
    fit = OLS(y[good], add_constant(x[good])).fit(
        cov_type="HAC", cov_kwds={"maxlags": int(np.sqrt(n)), "use_correction": True}, use_t=True
    )
    # A standard error below 1e-12 is rounding, and not the same on every processor.
    return {"slope": fit.params[1], "se": round(fit.bse[1], 12), "df": n - 2, "r_squared": fit.rsquared}
