"""Growth rates, bounds and the end that ε puts to growth, for the runs of `ctadam.experiments.practice.runs`."""

import numpy as np

from ctadam.experiments.growth import predict as growth
from ctadam.theory import stability

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "variant", "point", "beta1", "beta2", "lr", "weight_decay", "eps", "state_dtype", "clip"]
COLUMNS += ["seed", "step"]


def predict(points):
    """Predictions per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the run's last step.

    Returns:
        DataFrame, a row a run: as `ctadam.experiments.growth.predict.predict`, and ``cap``, ``cap_unseen``: for ε > 0 outside the
        exact stable region, the largest update of a coordinate whose gradients stop, over what it is when they do, and
        how many steps later it comes (`ctadam.theory.stability.epsilon_cap`), for a second moment of root 1.
    """
    table = growth.predict(points, COLUMNS)
    table["cap_unseen"], table["cap"] = np.nan, np.nan
    capped = (table["eps"] > 0) & (table["C_exact"] < 0)
    if capped.any():
        some = table.loc[capped, ["beta1", "beta2", "eps"]]
        unseen, cap = stability.epsilon_cap(**{name: values.to_numpy() for name, values in some.items()})
        table.loc[capped, "cap_unseen"], table.loc[capped, "cap"] = unseen, cap
    return table
