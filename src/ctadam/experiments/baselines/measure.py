"""What the runs of `ctadam.experiments.baselines.runs` come to, and which setting of each contender tuning would choose.

The best of a sweep, judged by the runs that it was chosen by, is too good. So each seed is judged at the setting that the
*other* seeds choose: the setting with the best mean over them. Every seed gives one such value; learning rate, weight decay and,
for a family, the strategy are chosen anew for each.
"""

import numpy as np
import pandas as pd

from ctadam.storage.tables import sort_rows

#: Tasks, and whether more of their result is better.
SIGNS = {"images": 1.0, "text": -1.0}
KEYS = ["run", "task", "contender", "family", "lr", "weight_decay", "seed"]


def result(rows):
    """The larger, the better: test accuracy for images, minus the test loss for text; a guess's if the run failed.

    A run failed if it diverged, or if its test gave no finite number.
    """
    sign = pd.Series([SIGNS[task] for task in rows["task"]], index=rows.index, dtype=float)
    value = sign * rows["test_score"].where(rows["task"] == "images", rows["test_loss"])
    return value.where((rows["diverged_at"] < 0) & np.isfinite(value), sign * rows["guess"])


def choose(table, by):
    """Whether each run is at the setting that the other seeds choose among those of its task and its ``by``.

    Args:
        table: a row a run: ``task``, ``contender``, ``lr``, ``weight_decay``, ``seed``, ``value``, and ``by``.
        by: ``contender`` or ``family``.

    Returns:
        Series of bool: one run True for each task, ``by`` and seed. With a single seed there are no others, and the run
        itself decides.
    """
    setting = table.groupby(["task", "contender", "lr", "weight_decay"])["value"]
    count, total = setting.transform("size"), setting.transform("sum")
    others = ((total - table["value"]) / (count - 1)).where(count > 1, table["value"])
    # Ties, which an accuracy has, go to the first of the grid, whatever the rounding of the difference.
    best = others.round(12).groupby([table["task"], table[by], table["seed"]]).idxmax()
    return table.index.to_series().isin(best)


def _last(runs):
    """The last row of each run; where it diverged, with the last test before."""
    rows = sort_rows(runs, ["run", "step"]).groupby("run")
    last, tested = rows.tail(1).set_index("run", drop=False), rows.last()
    for name in ("test_loss", "test_score"):
        last[name] = last[name].where(last["diverged_at"] < 0, tested[name])
    return last.reset_index(drop=True)


def measure(runs):
    """Measurements per run.

    Args:
        runs: the raw table, see `ctadam.experiments.baselines.runs.run`.

    Returns:
        DataFrame, a row a run: `KEYS`, ``steps``; ``test_loss``, ``test_score`` after the last step, or at the last test before a
        run diverged; ``diverged_at``, ``guess``;
        ``value`` (see `result`); ``chosen``, ``chosen_in_family``: whether the other seeds choose this setting among its
        contender's, and among its family's.
    """
    last = _last(runs)
    last["steps"] = last["step"] + 1
    table = last[[*KEYS, "steps", "test_loss", "test_score", "diverged_at", "guess"]].assign(value=result(last))
    return table.assign(chosen=choose(table, "contender"), chosen_in_family=choose(table, "family"))


def at_share(runs, share):
    """The measurements, had each run ended after a part of its steps, by interpolation between its tests.

    The learning rates are constant, so the first part of a run is the shorter run.

    Args:
        runs: the raw table.
        share: Series by ``run``: part of the steps, in (0, 1].

    Returns:
        DataFrame, a row a run: `KEYS`, ``value``, ``chosen`` and ``chosen_in_family`` as in `measure`.
    """
    tests = runs[runs["test_loss"].notna()].assign(value=lambda rows: result(rows))
    last = sort_rows(runs, ["run", "step"]).groupby("run", as_index=False).last()
    steps = runs.groupby("task")["step"].max() + 1
    curves = dict(list(tests.groupby("run")))
    values = []
    for row, guess in zip(last.to_dict("records"), result(last.assign(diverged_at=0)), strict=True):
        curve = curves.get(row["run"])
        if row["diverged_at"] >= 0 or curve is None:
            values.append(guess)
        else:
            values.append(np.interp(steps[row["task"]] * share[row["run"]], curve["step"] + 1, curve["value"]))
    table = last[KEYS].assign(value=pd.Series(values, index=last.index))
    return table.assign(chosen=choose(table, "contender"), chosen_in_family=choose(table, "family"))
