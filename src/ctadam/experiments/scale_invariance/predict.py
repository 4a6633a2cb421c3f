"""Predict steady states and what remains of the start, for `ctadam.experiments.scale_invariance.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.theory import scale_invariance as theory

#: Parameters of a run that the predictions use.
COLUMNS = ["run", "variant", "model", "batching", "beta1", "beta2", "lr", "weight_decay", "step"]


def predict(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions, one row per run.

    Args:
        runs: DataFrame with `COLUMNS`; ``step`` is the last step of the run.

    Returns:
        DataFrame, one row per run: `COLUMNS` without ``step``, and

        - ``amplification``: long-run ratio of ‖W‖² by the inertial law to ‖W‖² by the paper's law, (1+aγ)/(1−aγ) ≈ (1+γ)/(1−γ);
        - ``remembered``: share of ‖W_0‖² that is left in ‖W‖² at the end.

        In the steady state, by each law, and NaN without weight decay:

        - ``norm_paper``, ``norm_inertial``: ‖W‖² over the mean of ‖u‖²;
        - ``angle_paper``, ``angle_inertial``: angle per step in radians.
    """
    table = runs[COLUMNS].drop(columns="step")
    rates: dict[str, Any] = {name: runs[name].to_numpy() for name in ("lr", "weight_decay")}
    beta1 = runs["beta1"].to_numpy()
    table["amplification"] = theory.amplification(beta1=beta1, **rates)
    table["remembered"] = theory.remembered(steps=runs["step"].to_numpy(), **rates)
    decayed = rates["weight_decay"] > 0
    with_decay = {name: values[decayed] for name, values in rates.items()}
    factor = table.loc[decayed, "amplification"].to_numpy()
    for name, values in (
        ("norm_paper", theory.steady_norm_sq(1.0, **with_decay)),
        ("norm_inertial", theory.steady_norm_sq(1.0, factor=factor, **with_decay)),
        ("angle_paper", theory.steady_angular_step(**with_decay)),
        ("angle_inertial", theory.steady_angular_step(beta1=beta1[decayed], **with_decay)),
    ):
        table[name] = np.nan
        table.loc[decayed, name] = values
    return table
