"""Predicted lag and stability limit of the equations of `ctadam.experiments.trajectory.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.theory import flow

#: Columns that `predict` reads.
COLUMNS = ["run", "variant", "model", "order", "kernel", "p", "lr", "weight_decay", "beta1", "step"]


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions for each run (derived for this artifact).

    Args:
        points: DataFrame with `COLUMNS`, one row per run.

    Returns:
        DataFrame with one row per run. It has `COLUMNS` without ``step`` and

        - ``lag_error``: lag of the equation minus that of the optimizer, in steps; NaN for the optimizer. See
          `ctadam.theory.flow.lag_error`;
        - ``curvature_limit``: largest η times preconditioned curvature at which the equation (or the optimizer, on its own
          rows) is stable. See `ctadam.theory.flow.curvature_limit`.
    """
    table = points[COLUMNS].drop(columns="step")
    lags, limits = [], []
    for row in table.to_dict("records"):
        equation: dict[str, Any] = {"beta1": row["beta1"], "order": row["order"], "kernel": row["kernel"]}
        discrete = row["variant"] == "discrete"
        lags.append(np.nan if discrete else flow.lag_error(**equation))
        limits.append(flow.curvature_limit(**({"beta1": row["beta1"]} if discrete else equation)))
    return table.assign(lag_error=lags, curvature_limit=limits)
