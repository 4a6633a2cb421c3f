"""Measure test losses at fixed steps, and steps to a fixed loss, in the runs of `ctadam.experiments.generalization.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.seeds import means_of_others

#: Columns that identify a run.
KEYS = ["run", "task", "curve", "level", "point", "beta1", "beta2", "lr", "fixed", "seed"]
#: Column -> fraction of the steps after which it takes the test loss.
PARTS = {"loss_quarter": 0.25, "loss_half": 0.5, "loss_end": 1.0}


def _steps_to(steps: np.ndarray, losses: np.ndarray, target: float) -> float:
    """Return the number of steps until the test loss first falls to a target, interpolated between two tests.

    Args:
        steps: numbers of steps before the tests, shape (tests,).
        losses: test losses, shape (tests,).
        target: the loss to be reached.

    Returns:
        inf if the loss is never reached. NaN if the target is not finite, because every run would reach it at once.
    """
    if not np.isfinite(target):
        return np.nan
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return np.inf
    i = below[0]
    if i == 0:
        return float(steps[0])
    share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    # A loss that is not finite cannot be interpolated.
    return float(steps[i - 1] + (steps[i] - steps[i - 1]) * share) if np.isfinite(share) else float(steps[i])


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    The target loss of a task is the mean test loss of the usual pair (the first with ``curve`` = ``usual``) over seeds, at the
    fixed learning rate and after half of the steps.

    Args:
        runs: the raw table, see `ctadam.experiments.generalization.runs.run`.

    Returns:
        DataFrame, one row per run: `KEYS`, and

        - ``loss_quarter``, ``loss_half``, ``loss_end``: test loss (nats) at the last test within a quarter, half and all of the
          task's steps; inf once the run has diverged or if the loss is NaN;
        - ``target``: the target loss of the task;
        - ``steps_to_target``: steps until the target is reached; inf if it never is, NaN if the target is not finite;
        - ``tuned``: whether ``lr`` is the best learning rate for this pair and seed. It has the smallest mean ``loss_end`` over
          the *other* seeds, so that no run is chosen by its own luck. A single seed decides for itself;
        - ``diverged_at``: first step with a record that is not finite, −1 if none.
    """
    length = (runs.groupby("task")["step"].max() + 1).to_dict()
    rows = []
    tests: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
    for run, steps in runs.groupby("run", sort=True):
        row = {key: steps[key].iloc[0] for key in KEYS} | {"diverged_at": int(steps["diverged_at"].iloc[0])}
        # n + 1 steps are done after step n. A run that diverged may end with a row without a test loss.
        done, losses = tests[run] = steps["step"].to_numpy() + 1, steps["test_loss"].fillna(np.inf).to_numpy()
        for name, part in PARTS.items():
            by = np.flatnonzero(done <= part * length[row["task"]])
            row[name] = losses[by[-1]] if len(by) else np.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    usual = table.query("curve == 'usual' and point == 0 and fixed")
    table["target"] = table["task"].map(usual.groupby("task")["loss_half"].mean(skipna=False))
    reached = [_steps_to(*tests[run], target) for run, target in zip(table["run"], table["target"], strict=True)]
    return table.assign(steps_to_target=reached, tuned=_best_by_others(table))


def _best_by_others(table: pd.DataFrame) -> list[bool]:
    """Return for each run whether its learning rate has the smallest mean final loss over the other seeds."""
    pair = ["task", "curve", "level", "point"]
    keys = pd.MultiIndex.from_frame(table[[*pair, "lr"]].fillna({"level": 0.0}))
    by_seed = pd.Series(table["loss_end"].to_numpy(), index=[keys.to_flat_index(), table["seed"]])
    losses = means_of_others(by_seed.unstack())
    losses.index = pd.MultiIndex.from_tuples(losses.index, names=keys.names)
    best = losses == losses.groupby(level=pair).transform("min")
    return [bool(best.at[key, seed]) for key, seed in zip(keys, table["seed"], strict=True)]
