"""Predict the bounds on the updates of `ctadam.experiments.tightness.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.theory.stability import growth_rate, stability_coefficient, update_bound

#: Parameters of a run that the predictions use.
COLUMNS = ["draw", "place", "beta1", "beta2", "step"]


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions, one row per draw and position of the unstable stage.

    They hold for any gradients. With k stages they are those of the last stage.

    Args:
        points: DataFrame with `COLUMNS`.

    Returns:
        DataFrame with `COLUMNS` and

        - ``C``: the paper's stability coefficient;
        - ``rate_exact``: growth rate per step by the exact law;
        - ``limit_exact``: limit of the exact bound for n → ∞;
        - ``bound_paper``, ``bound_exact``: bounds on |u_n| at the draw's own step n.
    """
    arguments: dict[str, Any] = {name: points[name].to_numpy() for name in ("beta1", "beta2", "step")}
    pair: dict[str, Any] = {name: arguments[name] for name in ("beta1", "beta2")}
    return points[COLUMNS].assign(
        C=stability_coefficient(**pair),
        rate_exact=growth_rate(**pair, law="exact"),
        limit_exact=update_bound(**pair, step=np.inf, law="exact"),
        bound_paper=update_bound(**arguments, law="paper"),
        bound_exact=update_bound(**arguments, law="exact"),
    )
