"""Predict the stability of the runs of `ctadam.experiments.k_sweep.runs`, and the lag of their averages."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.theory.stability import stability_coefficient, update_bound

#: Parameters of a run that the predictions use.
COLUMNS = ["run", "norm", "k", "stages", "seed", "last_beta1", "last_beta2", "step"]


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions, one row per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the last step of the run. All stages of a strategy have the same
            pair of betas.

    Returns:
        DataFrame, one row per run: `COLUMNS` without ``step``, and

        - ``C``: the paper's stability coefficient of the last stage, which alone decides stability;
        - ``limit_exact``: limit of the exact bound on ‖u_n‖_∞ for n → ∞;
        - ``lag``: total lag of the k first moments in steps, k·γ/(1−γ).
    """
    pair: dict[str, Any] = {"beta1": points["last_beta1"].to_numpy(), "beta2": points["last_beta2"].to_numpy()}
    return (
        points[COLUMNS]
        .drop(columns="step")
        .assign(
            C=stability_coefficient(**pair),
            limit_exact=update_bound(**pair, step=np.inf, law="exact"),
            lag=points["k"] * pair["beta1"] / (1 - pair["beta1"]),
        )
    )
