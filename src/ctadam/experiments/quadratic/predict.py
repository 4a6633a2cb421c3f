"""Predicted stability coefficients of the pairs of `ctadam.experiments.quadratic.runs`.

There is one row per pair, because learning rate, noise and weight decay do not enter the laws.
"""

from typing import Any

import pandas as pd

from ctadam.theory.stability import stability_coefficient

#: Columns that `predict` reads.
COLUMNS = ["beta1", "beta2", "step"]


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Return the stability coefficients of each pair (see `ctadam.theory.stability.stability_coefficient`).

    Args:
        points: DataFrame with ``beta1`` and ``beta2``, one row per pair.

    Returns:
        DataFrame with one row per pair: ``beta1``, ``beta2``, ``C`` (paper's law) and ``C_exact`` (exact law).
    """
    pair: dict[str, Any] = {"beta1": points["beta1"].to_numpy(), "beta2": points["beta2"].to_numpy()}
    return points[["beta1", "beta2"]].assign(
        C=stability_coefficient(**pair), C_exact=stability_coefficient(**pair, law="exact")
    )
