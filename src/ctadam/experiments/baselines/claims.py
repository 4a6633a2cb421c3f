"""Claims K4 and K5: 2-Adam compared with tuned baselines on images and on text (reviewers' questions)."""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from ctadam.analysis.rules import all_undecided, mean_over_seeds
from ctadam.analysis.verdicts import Evidence, Judgement, above, claim
from ctadam.experiments.baselines.measure import at_share

#: Parts of both claims, by the optimizer that 2-Adam is compared with.
RIVALS = {"AdamW": "to tuned AdamW", "the best other baseline": "to the best other baseline"}
#: Share of the way from chance to the best possible result that AdamW must have come before runs are compared.
LEARNT = 0.25
#: Least number of steps on text.
LEAST_STEPS = {"images": 0, "text": 3000}


def tuned(table: pd.DataFrame, task: str, columns: Sequence[str] = ("value",)) -> dict[str, pd.DataFrame]:
    """Return columns of the measurements at the tuned setting of each family and seed.

    Args:
        table: measurements, see `ctadam.experiments.baselines.measure.measure`.
        task: ``"images"`` or ``"text"``.
        columns: names of the columns.

    Returns:
        For each column a DataFrame with one row per seed and one column per family, and the column
        ``the best other baseline``.
    """
    rows = table[table["task"] == task]
    rivals = rows[rows["chosen_as_rival"]].assign(family="the best other baseline")
    best = pd.concat([rows[rows["chosen_in_family"]], rivals]).set_index(["seed", "family"])
    return {column: best[column].unstack() for column in columns}


def _why_undecided(rows: pd.DataFrame, task: str, results: pd.DataFrame, rates: pd.DataFrame) -> str:
    """Return why the runs of one task cannot decide the claim, or an empty string.

    Args:
        rows: measurements of the task.
        task: its name.
        results: tuned results, see `tuned`.
        rates: learning rates of the tuned settings.
    """
    steps = int(rows["steps"].max())
    if steps < LEAST_STEPS[task]:
        return f"{steps} steps; needs {LEAST_STEPS[task]:,}"
    chance = float(rows["chance_level"].iloc[0])
    best, start = {"images": (1.0, chance), "text": (0.0, -chance)}[task]
    share = float((results["AdamW"].mean() - start) / (best - start))
    if not share >= LEARNT:
        return f"runs too short: AdamW has come {share:.0%} of the way from chance to no error"
    ends = rates[["2-Adam", *RIVALS]].isin([rows["lr"].min(), rows["lr"].max()]).mean()
    for name in ends.index[ends > 0.5]:
        return f"the best learning rate of {name} is at an end of the grid"
    return ""


def _at_equal_traffic(e: Evidence, task: str) -> float:
    """Return the mean advantage of 2-Adam over AdamW after steps that move as many bytes as Adam moves in all."""
    share = e.table.set_index("run")["share"]
    equal = tuned(at_share(e.runs[e.runs["task"] == task], share), task)["value"]
    return float((equal["2-Adam"] - equal["AdamW"]).mean())


def _against(e: Evidence, task: str) -> Judgement:
    """Measure the advantage of 2-Adam over the tuned baselines on one task."""
    rows = e.table[e.table["task"] == task]
    if not {"2-Adam", "AdamW"} <= set(rows["family"]) or not rows["chosen_as_rival"].any():
        why = "needs runs of 2-Adam, of AdamW and of another baseline on this task"
        return Judgement(all_undecided(why, parts=RIVALS.values()))
    results, rates, rms = tuned(rows, task, ("value", "lr", "update_rms")).values()
    why = _why_undecided(rows, task, results, rates)
    levels = []
    for rival, part in RIVALS.items():
        level = mean_over_seeds(results["2-Adam"] - results[rival], part=part)
        levels.append(dataclasses.replace(level, undecided=level.undecided or why))
    numbers = {f"tuned result of {family}": float(results[family].mean()) for family in results}
    for family in ("2-Adam", "AdamW"):
        numbers[f"median tuned learning rate of {family}"] = float(rates[family].median())
        numbers[f"median update r.m.s. of {family}, tuned"] = float(rms[family].median())
    numbers["2-Adam minus AdamW at equal optimizer traffic"] = _at_equal_traffic(e, task)
    return Judgement(levels, numbers)


_STATISTIC = (
    "{what} of 2-Adam minus that of tuned AdamW, and minus that of the best other baseline: each seed at the learning rate, "
    "weight decay, and strategy or baseline that the other seeds choose on a validation part of the training set; mean with 95 % "
    "interval over seeds; 2-Adam unsmoothed is no baseline"
)
_RULE = (
    "both intervals above 0; inconclusive if AdamW has not come a quarter of the way from chance to no error, or if the chosen "
    "rate of 2-Adam, AdamW or the other baseline is the lowest or highest of the grid for most seeds"
)
_TARGET = dict.fromkeys(RIVALS.values(), above(0))


@claim(
    "K4",
    "R",
    "2-Adam beats tuned baselines on images",
    statistic=_STATISTIC.format(what="test accuracy"),
    rule=_RULE,
    target=_TARGET,
    columns=("value", "validation"),
)
def _k4(e: Evidence) -> Judgement:
    return _against(e, "images")


@claim(
    "K5",
    "R",
    "… and on text, 3,000 steps or more",
    statistic=_STATISTIC.format(what="minus the test loss (nats per token)"),
    rule=f"{_RULE}; needs 3,000 steps",
    target=_TARGET,
    columns=("value", "validation"),
)
def _k5(e: Evidence) -> Judgement:
    return _against(e, "text")
