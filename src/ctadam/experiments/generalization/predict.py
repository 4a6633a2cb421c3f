"""Compute the stability coefficients for `ctadam.experiments.generalization.runs`. Theory does not predict the losses."""

import pandas as pd

from ctadam.theory.stability import stability_coefficient

#: Parameters of a run that the predictions use.
COLUMNS = ["run", "beta1", "beta2", "step"]


def predict(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions, one row per run.

    Args:
        runs: DataFrame with `COLUMNS`.

    Returns:
        DataFrame with ``run``, ``beta1``, ``beta2`` and the paper's stability coefficient ``C``.
    """
    runs = runs[["run", "beta1", "beta2"]]
    return runs.assign(C=stability_coefficient(beta1=runs["beta1"].to_numpy(), beta2=runs["beta2"].to_numpy()))
