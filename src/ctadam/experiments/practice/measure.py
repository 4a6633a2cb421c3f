"""Peaks, growth rates and losses of the runs of `ctadam.experiments.practice.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.slopes import slope
from ctadam.experiments.growth import measure as growth
from ctadam.theory.stability import prefactor

#: Columns that identify a run.
KEYS = [*growth.KEYS, "clip", "precision"]


def _unseen(steps: pd.DataFrame) -> dict[str, Any]:
    """Return how the largest update of one run depends on the number of steps for which its token has been unseen."""
    steps = steps[(steps["step"] != steps["diverged_at"]) & (steps["unseen"] >= 1 / (1 - steps["beta2"]))]
    with np.errstate(divide="ignore"):
        update = np.log(steps["update_max"] / prefactor(**steps[["beta1", "beta2", "step"]]))
    fit = slope(steps["unseen"], update)
    return {
        "unseen_rate": fit["slope"],
        "unseen_rate_se": fit["se"],
        "unseen_rate_df": fit["df"],
        "longest_unseen": steps["unseen"].max(),
    }


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of each run. The step at which a run diverged is excluded from all of them.

    Args:
        runs: raw table with one row per step, as returned by `ctadam.experiments.practice.runs.run`.

    Returns:
        DataFrame with one row per run. It has the columns of `ctadam.experiments.growth.measure.measure`, with `KEYS`, and

        - ``unseen_rate``, ``unseen_rate_se``, ``unseen_rate_df``: slope of ln(‖u_n‖_∞ / bias correction) on the number of
          steps since the token of the largest update was last seen, its standard error and degrees of freedom. It uses
          all steps of the run with at least 1/(1−β) such steps;
        - ``longest_unseen``: largest number of such steps;
        - ``train_loss_max``: largest training loss, in nats per token.
    """
    losses = runs["train_loss"].where(runs["step"] != runs["diverged_at"])
    largest = losses.groupby(runs["run"]).max()
    rows = [{"run": run, **_unseen(steps), "train_loss_max": largest.loc[run]} for run, steps in runs.groupby("run")]
    return growth.measure(runs, KEYS).merge(pd.DataFrame(rows), on="run", validate="one_to_one")
