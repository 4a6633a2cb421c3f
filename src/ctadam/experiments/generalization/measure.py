"""Test losses at fixed steps, and steps to a fixed loss, from the runs of `ctadam.experiments.generalization.runs`."""

import numpy as np
import pandas as pd

from ctadam.analysis.seeds import means_of_others

#: Columns that say which run it is.
KEYS = ["run", "task", "curve", "level", "point", "beta1", "beta2", "lr", "fixed", "seed"]
#: Parts of a run's steps after which its test loss is taken.
PARTS = {"loss_quarter": 0.25, "loss_half": 0.5, "loss_end": 1.0}


def _steps_to(steps, losses, target):
    """Steps until the test loss first falls to a target, interpolated between two tests; inf if it never does.

    NaN if the target is not finite, which every run would reach at once.
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
    # From a loss that is not finite there is nothing to interpolate.
    return float(steps[i - 1] + (steps[i] - steps[i - 1]) * share) if np.isfinite(share) else float(steps[i])


def measure(runs):
    """Measurements per run.

    The loss that has to be reached is the one that the usual pair (the first with ``curve`` = ``usual``) has, on average
    over seeds, at the fixed learning rate after half of the steps of its task.

    Args:
        runs: the raw table of `ctadam.experiments.generalization.runs.run`.

    Returns:
        DataFrame, a row a run: `KEYS`, and

        - ``loss_quarter``, ``loss_half``, ``loss_end``: test loss after a quarter, half and all of the task's steps (at
          the last test by then); inf from the step on at which the run diverged, or without a loss;
        - ``target`` and ``steps_to_target``: the loss to be reached, and after how many steps it is (inf: never; NaN: the
          usual pair has no finite loss to be reached);
        - ``tuned``: whether ``lr`` is the best for this pair and seed: the one whose ``loss_end`` is the smallest on
          average over the *other* seeds (its own if there is no other), so that no run is chosen by its own luck;
        - ``diverged_at``: first step that was not finite, or −1.
    """
    length = (runs.groupby("task")["step"].max() + 1).to_dict()
    rows, tests = [], {}
    for run, steps in runs.groupby("run", sort=True):
        row = {key: steps[key].iloc[0] for key in KEYS} | {"diverged_at": int(steps["diverged_at"].iloc[0])}
        # The test after step n is one of n + 1 steps. A run that diverged ends with a row without a test loss.
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


def _best_by_others(table):
    """For each run, whether its learning rate is the one with the smallest mean loss over the other seeds' runs."""
    pair = ["task", "curve", "level", "point"]
    keys = pd.MultiIndex.from_frame(table[[*pair, "lr"]].fillna({"level": 0.0}))
    losses = pd.Series(table["loss_end"].to_numpy(), index=[keys.to_flat_index(), table["seed"]])
    losses = means_of_others(losses.unstack())
    losses.index = pd.MultiIndex.from_tuples(losses.index, names=keys.names)
    best = losses.groupby(level=pair).transform("min")
    return [bool(losses.at[key, seed] == best.at[key, seed]) for key, seed in zip(keys, table["seed"], strict=True)]
