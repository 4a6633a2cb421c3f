"""Measure test accuracy and losses of the runs of `ctadam.experiments.k_sweep.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.storage.tables import sort_rows

#: Columns that identify a run.
KEYS = ["run", "norm", "k", "stages", "lr", "weight_decay", "seed"]


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    Args:
        runs: the raw table, see `ctadam.experiments.k_sweep.runs.run`.

    Returns:
        DataFrame, one row per run: `KEYS` and

        - ``steps``: number of steps;
        - ``accuracy``, ``test_loss``: on the test set after the last step; for a run that diverged the accuracy is ``guess``
          and the loss is NaN;
        - ``train_loss``: loss of the last batch, NaN if the run diverged;
        - ``update_max``: largest ‖u_n‖_∞ over the tested steps;
        - ``diverged_at``: first step with a record that is not finite, −1 if none;
        - ``guess``: accuracy of always predicting the most frequent class.
    """
    # `last()` would skip the NaN of the last row and return an earlier value.
    last = sort_rows(runs, ["run", "step"]).groupby("run").tail(1).reset_index(drop=True)
    largest = runs.groupby("run")["update_max"].max()
    diverged = last["diverged_at"] >= 0
    return last[KEYS].assign(
        steps=last["step"] + 1,
        accuracy=last["test_score"].where(~diverged, last["guess"]),
        test_loss=last["test_loss"].where(~diverged),
        train_loss=last["train_loss"].where(~diverged),
        update_max=last["run"].map(largest),
        diverged_at=last["diverged_at"],
        guess=last["guess"],
    )


def differences(table: pd.DataFrame) -> dict[tuple[bool, str], np.ndarray]:
    """Return the accuracy of k = 2 minus that of k = 1 with the same seed.

    Args:
        table: measurements, as `measure` returns them.

    Returns:
        ``{(norm, strategy): differences}`` with one entry per seed that has a run of both.
    """
    found = {}
    norm: Any
    strategy: Any
    for norm, group in table.groupby("norm"):
        adam = group.query("k == 1").set_index("seed")["accuracy"]
        for strategy, runs in group.query("k == 2").groupby("stages", sort=False):
            found[norm, strategy] = (runs.set_index("seed")["accuracy"] - adam).dropna().to_numpy()
    return found
