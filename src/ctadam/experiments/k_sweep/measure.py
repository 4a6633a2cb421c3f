"""Measure test accuracy and size of the updates of the runs of `ctadam.experiments.k_sweep.runs`."""

import numpy as np
import pandas as pd

from ctadam.analysis.seeds import chosen_by_others
from ctadam.storage.tables import sort_rows

#: Columns that identify a run.
KEYS = ["run", "norm", "k", "strategy", "lr", "weight_decay", "seed"]


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    Args:
        runs: the raw table, see `ctadam.experiments.k_sweep.runs.run`.

    Returns:
        DataFrame, one row per run: `KEYS` and

        - ``steps``: number of steps;
        - ``accuracy``, ``test_loss``: on the test set after the last step; for a run that diverged the accuracy is
          ``chance_level`` and the loss is NaN;
        - ``update_rms``: root mean square of the updates over all weights and steps, NaN if the run diverged;
        - ``diverged_at``: first step with a record that is not finite, −1 if none;
        - ``chance_level``: accuracy of always predicting the most frequent class.
    """
    # `last()` would skip the NaN of the last row and return an earlier value.
    last = sort_rows(runs, ["run", "step"]).groupby("run").tail(1).reset_index(drop=True)
    last = last.astype(dict.fromkeys(["test_score", "test_loss", "update_rms"], float))
    diverged = last["diverged_at"] >= 0
    return last[KEYS].assign(
        steps=last["step"] + 1,
        accuracy=last["test_score"].where(~diverged, last["chance_level"]),
        test_loss=last["test_loss"].where(~diverged),
        update_rms=last["update_rms"].where(~diverged),
        diverged_at=last["diverged_at"],
        chance_level=last["chance_level"],
    )


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return each run of 2-Adam beside that of Adam with the same network, learning rate and seed.

    Args:
        table: measurements, as `measure` returns them.

    Returns:
        DataFrame, one row per run of 2-Adam: ``norm``, ``strategy``, ``lr``, ``seed`` and

        - ``gain``: accuracy minus Adam's;
        - ``rms_ratio``: root mean square of the updates over that of Adam's;
        - ``raised_lr``: learning rate times that ratio, at which Adam takes steps of the same size;
        - ``raised_gain``: accuracy minus Adam's at ``raised_lr``, interpolated linearly in ln(lr) between the runs of Adam with
          the same network and seed; NaN beyond their learning rates.
    """
    adam = table[table["k"] == 1]
    numbers = adam[["norm", "lr", "seed", "accuracy", "update_rms"]]
    both = table[table["k"] == 2].merge(numbers, on=["norm", "lr", "seed"], suffixes=("", "_adam"))
    ratio = both["update_rms"] / both["update_rms_adam"]
    both = both.assign(rms_ratio=ratio, raised_lr=both["lr"] * ratio)
    raised = pd.Series(np.nan, index=both.index)
    for (norm, seed), rows in both.groupby(["norm", "seed"]):
        curve = adam[(adam["norm"] == norm) & (adam["seed"] == seed)].sort_values("lr", kind="stable")
        with np.errstate(divide="ignore"):
            rates = np.log(rows["raised_lr"]), np.log(curve["lr"])
        raised[rows.index] = np.interp(*rates, curve["accuracy"], left=np.nan, right=np.nan)
    gains = both.assign(gain=both["accuracy"] - both["accuracy_adam"], raised_gain=both["accuracy"] - raised)
    return gains[["norm", "strategy", "lr", "seed", "gain", "rms_ratio", "raised_lr", "raised_gain"]]


def tuned(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of Adam and 2-Adam at the learning rate that is best on the other seeds.

    Args:
        table: measurements, as `measure` returns them.

    Returns:
        DataFrame, one row per network, optimizer and seed: ``norm``, ``k``, ``strategy``, ``seed``, ``lr``, ``accuracy`` and
        ``at_end``, whether the learning rate is the lowest or highest. Only the rates that 2-Adam has, too, are used.
    """
    rates = sorted(table.loc[table["k"] == 2, "lr"].unique())
    both = table[(table["k"] <= 2) & table["lr"].isin(rates)].sort_values("lr", kind="stable")
    optimizer = both.groupby(["norm", "k", "strategy"]).ngroup()
    best = both[chosen_by_others(both["accuracy"], both["lr"], optimizer, both["seed"])]
    columns = ["norm", "k", "strategy", "seed", "lr", "accuracy"]
    return (
        best[columns].assign(at_end=best["lr"].isin([*rates[:1], *rates[-1:]])).sort_values(columns[:4], kind="stable")
    )
