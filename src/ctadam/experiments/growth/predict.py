"""Predicted growth rates and bounds for the runs of `ctadam.experiments.growth.runs`."""

from collections.abc import Sequence

import pandas as pd

from ctadam.theory import stability

#: Columns that `predict` reads.
COLUMNS = ["run", "variant", "point", "beta1", "beta2", "lr", "eps", "state_dtype", "step"]


def predict(points: pd.DataFrame, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Return the predictions of both laws for each run (see `ctadam.theory.stability`).

    Args:
        points: DataFrame with ``columns``, one row per run; ``step`` is the index of the run's last step.
        columns: ``step``, and the parameters to copy to the result. They include ``beta1`` and ``beta2``.

    Returns:
        DataFrame with one row per run. It has ``columns`` without ``step`` and

        - ``C``, ``C_exact``: stability coefficients of the paper's law and the exact law;
        - ``rate_paper``, ``rate_exact``: growth rates per step;
        - ``bound_paper``, ``bound_exact``: upper bounds on ‖u_n‖_∞ at the last step.
    """
    table = points[list(columns)].drop(columns="step")
    pair = {"beta1": points["beta1"].to_numpy(), "beta2": points["beta2"].to_numpy()}
    laws: tuple[tuple[stability.Law, str], ...] = (("paper", "C"), ("exact", "C_exact"))
    for law, name in laws:
        table[name] = stability.stability_coefficient(**pair, law=law)
        table[f"rate_{law}"] = stability.growth_rate(**pair, law=law)
        table[f"bound_{law}"] = stability.update_bound(**pair, step=points["step"].to_numpy(), law=law)
    return table
