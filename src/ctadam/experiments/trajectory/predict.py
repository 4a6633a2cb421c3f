"""What theory says about the equations of `ctadam.experiments.trajectory.runs` before any is integrated."""

import numpy as np

from ctadam.theory import flow

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "variant", "model", "order", "kernel", "p", "lr", "weight_decay", "beta1", "step"]


def predict(points):
    """Predictions per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the run's last step.

    Returns:
        DataFrame, a row a run: the parameters without ``step``, and (both derived for this artifact)

        - ``lag_error``: by how many steps the equation lags more than the optimizer, `ctadam.theory.flow.lag_error`;
        - ``curvature_limit``: largest curvature, preconditioned and times η, at which it is stable,
          `ctadam.theory.flow.curvature_limit`; on the optimizer's own rows the optimizer's.
    """
    table = points[COLUMNS].drop(columns="step")
    lags, limits = [], []
    for row in table.to_dict("records"):
        equation = {"beta1": row["beta1"], "order": row["order"], "kernel": row["kernel"]}
        discrete = row["variant"] == "discrete"
        lags.append(np.nan if discrete else flow.lag_error(**equation))
        limits.append(flow.curvature_limit(**({"beta1": row["beta1"]} if discrete else equation)))
    return table.assign(lag_error=lags, curvature_limit=limits)
