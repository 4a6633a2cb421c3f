"""Compute the stability coefficients for `ctadam.experiments.generalization.runs`. Theory does not predict the losses."""

from typing import Any

import pandas as pd

from ctadam.theory.stability import stability_coefficient

#: Parameters of a run that the predictions use.
COLUMNS = ["run", "beta1", "beta2", "step"]


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions, one row per run.

    Args:
        points: DataFrame with `COLUMNS`.

    Returns:
        DataFrame with ``run``, ``beta1``, ``beta2``, the paper's stability coefficient ``C`` and the exact one ``C_exact``.
    """
    pair: dict[str, Any] = {"beta1": points["beta1"].to_numpy(), "beta2": points["beta2"].to_numpy()}
    return points[["run", "beta1", "beta2"]].assign(
        C=stability_coefficient(**pair), C_exact=stability_coefficient(**pair, law="exact")
    )
