"""Claims K4 and K5: 2-Adam compared with tuned baselines on images and on text (reviewers' questions)."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.rules import by_finite_runs, decide, with_interval, worst
from ctadam.analysis.seeds import over_seeds
from ctadam.analysis.verdicts import INCONCLUSIVE, Evidence, Outcome, claim
from ctadam.experiments.baselines.measure import at_share

#: Mean over seeds and the ends of its 95 % interval.
Interval = tuple[float, float, float]


def tuned(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the tuned result of each family and seed.

    Args:
        table: measurements, see `ctadam.experiments.baselines.measure.measure`.
        task: ``"images"`` or ``"text"``.

    Returns:
        DataFrame with one row per seed and one column per family, sorted from the best mean to the worst.
    """
    rows = table[(table["task"] == task) & table["chosen_in_family"]]
    wide = rows.pivot(index="seed", columns="family", values="value")
    means: Any = wide.mean().round(12)
    return wide[sorted(wide, key=lambda family: (-means[family], family))]


def _against(e: Evidence, task: str) -> Outcome:
    """Judge 2-Adam against the tuned baselines on one task."""
    runs = e.table[e.table["task"] == task]
    # Divergence is a result: such a run has the value of a guess. If all runs diverged, they distinguish no optimizers.
    lost = ~pd.Series(np.isfinite(runs["value"].astype(float)))
    lost |= bool((lost | (runs["diverged_at"] >= 0)).all())

    def rule(runs: pd.DataFrame) -> Outcome:
        wide: Any = tuned(runs, task)
        if not {"2-Adam", "AdamW"} <= set(wide):
            return Outcome("> 0", "", INCONCLUSIVE, "needs runs of 2-Adam and of AdamW on this task")
        guess = runs["guess"].iloc[0]
        best, start = {"images": (1.0, guess), "text": (0.0, -guess)}[task]
        learnt = float((wide["AdamW"].mean() - start) / (best - start))
        if not learnt >= 0.25:
            return Outcome(
                "> 0", "", INCONCLUSIVE, f"runs too short: AdamW has come {learnt:.0%} of the way from a guess"
            )
        baselines = [family for family in wide if not family.startswith("2-Adam")]
        rivals = ["AdamW", *(family for family in baselines if family != "AdamW")][:2]
        differences: dict[str, Interval] = {
            rival: over_seeds((wide["2-Adam"] - wide[rival]).dropna()) for rival in rivals
        }
        verdict = worst({decide(low, high, lambda x: x > 0) for _, low, high in differences.values()})
        intervals: dict[Any, Interval] = {family: over_seeds(wide[family].dropna()) for family in wide}
        means = ", ".join(f"{family} {with_interval(*interval, '.4f')}" for family, interval in intervals.items())
        equal = tuned(at_share(e.runs, e.table.set_index("run")["share"]), task)
        difference: Interval = over_seeds(equal["2-Adam"] - equal["AdamW"])
        return Outcome(
            "> 0",
            ", ".join(f"to {rival} {with_interval(*value, '+.4f')}" for rival, value in differences.items()),
            verdict,
            f"tuned, {len(wide)} seeds: {means}; to AdamW at equal optimizer traffic {with_interval(*difference, '+.4f')}",
        )

    none = "needs runs of 2-Adam and of AdamW on this task"
    return by_finite_runs("> 0", runs[~lost], lost, rule, none=none)


_STATISTIC = (
    "{what}, 2-Adam (strategy tuned) minus tuned AdamW, and minus the best other baseline: each seed at the learning rate, "
    "weight decay and strategy that the other seeds choose; mean with 95 % interval over seeds"
)
_RULE = (
    "both intervals above 0; contradicted if one does not reach above 0; inconclusive if AdamW has not come a quarter of the way "
    "from a guess to no error"
)


@claim(
    "K4",
    "R",
    "2-Adam is better than tuned AdamW and other tuned baselines",
    statistic=_STATISTIC.format(what="test accuracy"),
    rule=_RULE,
)
def _k4(e: Evidence) -> Outcome:
    return _against(e, "images")


@claim(
    "K5",
    "R",
    "… also on a second task, a language model",
    statistic=_STATISTIC.format(what="minus test loss (nats per token)"),
    rule=_RULE,
)
def _k5(e: Evidence) -> Outcome:
    return _against(e, "text")
