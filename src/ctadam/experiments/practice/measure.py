"""Peaks, growth rates and losses from the runs of `ctadam.experiments.practice.runs`."""

import numpy as np
import pandas as pd

from ctadam.analysis.slopes import slope
from ctadam.experiments.growth import measure as growth
from ctadam.theory.stability import prefactor

#: Columns that say which run it is.
KEYS = [*growth.KEYS, "clip", "precision"]


def _unseen(steps):
    """How the largest update depends on the time for which its token has been unseen, over all of a run."""
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


def measure(runs):
    """Measurements per run.

    Args:
        runs: the raw table of `ctadam.experiments.practice.runs.run`.

    Returns:
        DataFrame, a row a run: as `ctadam.experiments.growth.measure.measure` with ``clip`` and ``precision`` besides, and, from
        the steps whose largest update is in the row of a token unseen for at least 1/(1−β) steps,

        - ``unseen_rate`` (``_se``, ``_df``): slope of ln(‖u_n‖_∞ / bias correction) on the steps since that token was
          seen, over all of the run;
        - ``longest_unseen``: the longest of these times;

        and ``train_loss_max``, the largest training loss of the run. The step at which a run diverged is left out everywhere.
    """
    losses = runs["train_loss"].where(runs["step"] != runs["diverged_at"])
    largest = losses.groupby(runs["run"]).max()
    rows = [{"run": run} | _unseen(steps) | {"train_loss_max": largest[run]} for run, steps in runs.groupby("run")]
    return growth.measure(runs, KEYS).merge(pd.DataFrame(rows), on="run", validate="one_to_one")
