"""Predicted growth rates, caps by ε, and ends of the growth by underflow for the runs of `ctadam.experiments.practice.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.theory import stability

#: Columns that `predict` reads.
COLUMNS = ["run", "variant", "point", "beta1", "beta2", "lr", "weight_decay", "eps", "state_dtype", "clip", "precision"]
COLUMNS += ["seed", "step"]


def predict(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions for each run.

    The last three are those of a coordinate that receives no more gradients, with √v = 1 at its last gradient; see
    `ctadam.theory.stability.epsilon_cap`.

    Args:
        runs: DataFrame with `COLUMNS`, one row per run; ``step`` is the index of the run's last step.

    Returns:
        DataFrame with one row per run. It has `COLUMNS` without ``step`` and

        - ``C``, ``C_exact``: stability coefficients of the paper's law and the exact law;
        - ``rate_exact``: growth rate per step by the exact law;
        - ``cap_unseen``: steps from the last gradient to the largest update;
        - ``cap``: largest update, relative to the update at the last gradient;
        - ``underflow_unseen``: steps from the last gradient until v underflows in the precision of the state.

        ``cap_unseen`` and ``cap`` are NaN for ε = 0 and for pairs that are not unstable by the exact law.
    """
    table = runs[COLUMNS].drop(columns="step").reset_index(drop=True)
    pair: dict[str, Any] = {name: table[name].to_numpy() for name in ("beta1", "beta2")}
    table["C"] = stability.stability_coefficient(**pair)
    table["C_exact"] = stability.stability_coefficient(**pair, law="exact")
    table["rate_exact"] = stability.growth_rate(**pair, law="exact")
    table["cap_unseen"], table["cap"] = np.nan, np.nan
    capped = (table["eps"] > 0) & (table["C_exact"] < 0)
    if capped.any():
        values = {name: table.loc[capped, name].to_numpy() for name in ("beta1", "beta2", "eps")}
        table.loc[capped, "cap_unseen"], table.loc[capped, "cap"] = stability.epsilon_cap(**values)
    smallest = table["state_dtype"].map({str(d): float(np.finfo(d).smallest_subnormal) for d in ("float32", "float64")})
    with np.errstate(divide="ignore"):
        table["underflow_unseen"] = np.log(smallest.astype(float)) / np.log(table["beta2"])
    return table
