"""Measure the test results of the runs of `ctadam.experiments.baselines.runs`, and choose the tuned setting of each contender.

The best result of a sweep is biased if the runs that chose the setting also judge it. Each seed is therefore judged at the
setting with the best mean over the *other* seeds. Learning rate, weight decay and, for a family, the strategy are chosen
separately for each seed.
"""

import numpy as np
import pandas as pd

from ctadam.storage.tables import sort_rows

#: Task -> sign that makes a larger test result better.
SIGNS = {"images": 1.0, "text": -1.0}
#: Columns that identify a run.
KEYS = ["run", "task", "contender", "family", "lr", "weight_decay", "seed"]


def result(rows: pd.DataFrame) -> pd.Series:
    """Return the test result of each row, larger is better.

    It is the test accuracy for images and minus the test loss (nats per token) for text. A run that diverged or whose test result
    is not finite gets the result of a guess.

    Args:
        rows: DataFrame with the columns ``task``, ``test_score``, ``test_loss``, ``diverged_at`` and ``guess``.
    """
    sign = pd.Series([SIGNS[task] for task in rows["task"]], index=rows.index, dtype=float)
    value = sign * rows["test_score"].where(rows["task"] == "images", rows["test_loss"])
    return value.where((rows["diverged_at"] < 0) & np.isfinite(value), sign * rows["guess"])


def choose(table: pd.DataFrame, by: str) -> pd.Series:
    """Return for each run whether the other seeds choose its setting.

    Args:
        table: DataFrame with one row per run and the columns ``task``, ``contender``, ``lr``, ``weight_decay``, ``seed``,
            ``value`` and ``by``.
        by: ``"contender"`` to choose among the settings of a contender, ``"family"`` to choose among those of a family.

    Returns:
        Series of bool, True for exactly one run per task, ``by`` and seed. A single seed chooses by its own runs.
    """
    setting = table.groupby(["task", "contender", "lr", "weight_decay"])["value"]
    count, total = setting.transform("size"), setting.transform("sum")
    others = ((total - table["value"]) / (count - 1)).where(count > 1, table["value"])
    # Rounding makes ties of accuracies exact. `idxmax` resolves them to the first setting of the grid.
    best = others.round(12).groupby([table["task"], table[by], table["seed"]]).idxmax()
    return table.index.to_series().isin(best)


def _last(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of each run. A run that diverged gets its last test result."""
    rows = sort_rows(runs, ["run", "step"]).groupby("run")
    last, tested = rows.tail(1).set_index("run", drop=False), rows.last()
    for name in ("test_loss", "test_score"):
        last[name] = last[name].where(last["diverged_at"] < 0, tested[name])
    return last.reset_index(drop=True)


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    Args:
        runs: the raw table, see `ctadam.experiments.baselines.runs.run`.

    Returns:
        DataFrame, one row per run: `KEYS` and

        - ``steps``: number of steps;
        - ``test_loss``, ``test_score``: after the last step, or at the last test if the run diverged;
        - ``diverged_at``, ``guess``: as in the raw table;
        - ``value``: see `result`;
        - ``chosen``, ``chosen_in_family``: whether the other seeds choose this setting within its contender and within its
          family, see `choose`.
    """
    last = _last(runs)
    last["steps"] = last["step"] + 1
    table = last[[*KEYS, "steps", "test_loss", "test_score", "diverged_at", "guess"]].assign(value=result(last))
    return table.assign(chosen=choose(table, "contender"), chosen_in_family=choose(table, "family"))


def at_share(runs: pd.DataFrame, share: pd.Series) -> pd.DataFrame:
    """Return the measurements after a fraction of the steps of each run, interpolated between tests.

    The learning rates are constant, so the first part of a run equals a shorter run.

    Args:
        runs: the raw table, see `ctadam.experiments.baselines.runs.run`.
        share: fraction of the steps in (0, 1], indexed by ``run``.

    Returns:
        DataFrame, one row per run: `KEYS`, ``value``, ``chosen`` and ``chosen_in_family``, as from `measure`.
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
