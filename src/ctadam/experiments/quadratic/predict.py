"""Predictions for the pairs of `ctadam.experiments.quadratic.runs`.

There is one row per pair, because learning rate, noise and weight decay do not enter the laws.
"""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.theory.stability import stability_coefficient, update_bound

#: Columns that `predict` reads.
COLUMNS = ["pair", "beta1", "beta2", "step"]


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Return coefficient and bound of each pair.

    Args:
        points: DataFrame with ``pair``, ``beta1`` and ``beta2``, one row per pair.

    Returns:
        DataFrame with one row per pair: ``pair``; ``C``, the paper's stability coefficient; ``limit_exact``, the limit of the
        exact bound on ‖u_n‖_∞ for n → ∞. Where it is finite, the exact bound is below it at every n, because
        (1 − βᴺ)(1 − rᴺ) ≤ (1 − γᴺ)² for r = γ²/β and every N.
    """
    pair: dict[str, Any] = {"beta1": points["beta1"].to_numpy(), "beta2": points["beta2"].to_numpy()}
    return points[["pair"]].assign(
        C=stability_coefficient(**pair), limit_exact=update_bound(**pair, step=np.inf, law="exact")
    )
