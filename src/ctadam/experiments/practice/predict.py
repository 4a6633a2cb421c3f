"""Predicted growth rates, bounds and caps by ε for the runs of `ctadam.experiments.practice.runs`."""

import numpy as np
import pandas as pd

from ctadam.experiments.growth import predict as growth
from ctadam.theory import stability

#: Columns that `predict` reads.
COLUMNS = ["run", "variant", "point", "beta1", "beta2", "lr", "weight_decay", "eps", "state_dtype", "clip"]
COLUMNS += ["seed", "step"]


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions for each run.

    The cap is that of a coordinate that receives no more gradients, with √v = 1 at its last gradient; see
    `ctadam.theory.stability.epsilon_cap`.

    Args:
        points: DataFrame with `COLUMNS`, one row per run; ``step`` is the index of the run's last step.

    Returns:
        DataFrame with one row per run. It has the columns of `ctadam.experiments.growth.predict.predict` and

        - ``cap_unseen``: steps from the last gradient to the largest update;
        - ``cap``: largest update, relative to the update at the last gradient.

        Both are NaN for ε = 0 and for pairs that are not unstable by the exact law.
    """
    table = growth.predict(points, COLUMNS)
    table["cap_unseen"], table["cap"] = np.nan, np.nan
    capped = (table["eps"] > 0) & (table["C_exact"] < 0)
    if capped.any():
        unseen, cap = stability.epsilon_cap(
            **{name: table.loc[capped, name].to_numpy() for name in ("beta1", "beta2", "eps")}
        )
        table.loc[capped, "cap_unseen"], table.loc[capped, "cap"] = unseen, cap
    return table
