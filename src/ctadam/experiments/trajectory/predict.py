"""Predicted lag and curvature limit of the equations of `ctadam.experiments.trajectory.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.theory import flow

#: Columns that `predict` reads.
COLUMNS = ["run", "variant", "model", "order", "kernel", "p", "lr", "weight_decay", "beta1", "step"]


def predict(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions for each run (derived for this artifact).

    Args:
        runs: DataFrame with `COLUMNS`, one row per run.

    Returns:
        DataFrame with one row per run. It has `COLUMNS` without ``step`` and

        - ``lag_error``: lag of the equation minus that of the optimizer, in steps; NaN for the optimizer. See
          `ctadam.theory.flow.lag_error`;
        - ``curvature_limit``: largest η times preconditioned sharpness at which both the equation and the optimizer are
          stable. Beyond it they part. See `ctadam.theory.flow.curvature_limit`.
    """
    table = runs[COLUMNS].drop(columns="step")
    lags, limits = [], []
    for row in table.to_dict("records"):
        limit, lag = flow.curvature_limit(beta1=row["beta1"]), np.nan
        if row["variant"] != "discrete":
            equation: dict[str, Any] = {"beta1": row["beta1"], "order": row["order"], "kernel": row["kernel"]}
            limit, lag = min(limit, flow.curvature_limit(**equation)), flow.lag_error(**equation)
        lags.append(lag)
        limits.append(limit)
    return table.assign(lag_error=lags, curvature_limit=limits)
