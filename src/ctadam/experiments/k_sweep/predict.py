"""Predict the stability of the runs of `ctadam.experiments.k_sweep.runs`, and the lag of their averages."""

import pandas as pd

from ctadam.theory.stability import stability_coefficient

#: Parameters of a run that the predictions use.
COLUMNS = ["run", "norm", "k", "strategy", "lr", "seed", "last_beta1", "last_beta2", "step"]


def predict(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions, one row per run.

    Args:
        runs: DataFrame with `COLUMNS`; ``step`` is the last step of the run. All stages of a strategy have the same
            pair of betas.

    Returns:
        DataFrame, one row per run: `COLUMNS` without ``step``, and

        - ``C``: the paper's stability coefficient of the last stage, which alone decides stability;
        - ``lag``: total lag of the k first moments in steps, k·γ/(1−γ).
    """
    beta1, beta2 = runs["last_beta1"].to_numpy(), runs["last_beta2"].to_numpy()
    return (
        runs[COLUMNS]
        .drop(columns="step")
        .assign(
            C=stability_coefficient(beta1=beta1, beta2=beta2),
            lag=runs["k"] * beta1 / (1 - beta1),
        )
    )
