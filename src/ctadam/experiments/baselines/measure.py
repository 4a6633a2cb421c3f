"""Measure the results of the runs of `ctadam.experiments.baselines.runs`, and choose the tuned setting of each contender.

The best result of a sweep is biased if the runs that chose the setting also judge it. Settings are therefore chosen by results
on the validation set and on *other* seeds, and judged on the test set. Learning rate, weight decay and, for a family, the
strategy are chosen separately for each seed.
"""

import numpy as np
import pandas as pd

from ctadam.analysis.seeds import chosen_by_others
from ctadam.storage.tables import sort_rows

#: Task -> sign that makes a larger result better.
SIGNS = {"images": 1.0, "text": -1.0}
#: Columns that identify a run.
KEYS = ["run", "task", "contender", "family", "lr", "weight_decay", "seed"]
#: Families whose best is the rival of 2-Adam beside AdamW: all but these.
NO_RIVALS = ("2-Adam", "2-Adam unsmoothed", "AdamW")


def result(rows: pd.DataFrame, part: str) -> pd.Series:
    """Return the result of each row on the test or validation set, larger is better.

    It is the accuracy for images and minus the loss (nats per token) for text. A result that is not finite, or that of a run
    that diverged, is replaced by the chance level.

    Args:
        rows: DataFrame with the columns ``task``, ``diverged_at``, ``chance_level``, and ``<part>_score`` and ``<part>_loss``.
        part: ``"test"`` or ``"validation"``.
    """
    sign = pd.Series([SIGNS[task] for task in rows["task"]], index=rows.index, dtype=float)
    value = sign * rows[f"{part}_score"].where(rows["task"] == "images", rows[f"{part}_loss"]).astype(float)
    return value.where((rows["diverged_at"] < 0) & np.isfinite(value), sign * rows["chance_level"])


def choose(table: pd.DataFrame, group: pd.Series) -> pd.Series:
    """Return for each run whether the other seeds choose its setting by validation.

    Args:
        table: DataFrame with one row per run and the columns ``task``, ``contender``, ``lr``, ``weight_decay``, ``seed``,
            ``validation``.
        group: group of each run, within which one setting is chosen; a run without a group is never chosen.

    Returns:
        Series of bool, True for exactly one run per task, group and seed.
    """
    setting = table.groupby(["contender", "lr", "weight_decay"]).ngroup()
    own = (table["task"] + ": " + group).where(group.notna())
    return chosen_by_others(table["validation"], setting, own, table["seed"])


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    Args:
        runs: the raw table, see `ctadam.experiments.baselines.runs.run`.

    Returns:
        DataFrame, one row per run: the columns of `at_share` for all steps, and

        - ``steps``: number of steps;
        - ``update_rms``: root mean square of the updates over all weights and steps, NaN if the run diverged;
        - ``diverged_at``, ``chance_level``: as in the raw table.
    """
    last = _last(runs)
    update_rms = last["update_rms"].astype(float).where(last["diverged_at"] < 0)
    table = at_share(runs, pd.Series(1.0, index=last["run"]))
    return table.assign(
        steps=last["step"] + 1,
        update_rms=update_rms,
        diverged_at=last["diverged_at"],
        chance_level=last["chance_level"],
    )


def _last(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of each run."""
    return sort_rows(runs, ["run", "step"]).groupby("run").tail(1).reset_index(drop=True)


def at_share(runs: pd.DataFrame, share: pd.Series) -> pd.DataFrame:
    """Return the results after a fraction of the steps of each run, interpolated between tests.

    The learning rates are constant, so the first part of a run equals a shorter run.

    Args:
        runs: the raw table, see `ctadam.experiments.baselines.runs.run`.
        share: fraction of the steps in (0, 1], indexed by ``run``.

    Returns:
        DataFrame, one row per run: `KEYS`, and

        - ``value``, ``validation``: result on the test and on the validation set, see `result`;
        - ``chosen``: whether the other seeds choose this setting for its contender, see `choose`;
        - ``chosen_in_family``: likewise, for its family;
        - ``chosen_as_rival``: likewise, for the best of all families but `NO_RIVALS`.
    """
    last = _last(runs)
    steps = runs.groupby("task")["step"].max() + 1
    when = last["task"].map(steps) * last["run"].map(share)
    table = last[KEYS].copy()
    for name, part in (("value", "test"), ("validation", "validation")):
        table[name] = result(last, part)  # the chance level of a run that diverged
        tests = runs.assign(value=result(runs, part))[runs["test_loss"].notna() & (runs["diverged_at"] < 0)]
        curves = dict(list(tests.groupby("run")))
        for index, run, step in zip(last.index, last["run"], when, strict=True):
            if run in curves:
                table.loc[index, name] = np.interp(step, curves[run]["step"] + 1, curves[run]["value"])
    rivals = pd.Series("rival", index=table.index).mask(table["family"].isin(NO_RIVALS))
    return table.assign(
        chosen=choose(table, table["contender"]),
        chosen_in_family=choose(table, table["family"]),
        chosen_as_rival=choose(table, rivals),
    )
