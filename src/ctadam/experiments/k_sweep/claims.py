"""Claims K1 and K2: accuracy of k-Adam against the number of stages, for four strategies (arXiv 2411.05746, k-Adam)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.rules import by_finite_runs, decide, number, with_interval, worst
from ctadam.analysis.seeds import over_seeds
from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence, Outcome, claim
from ctadam.experiments.k_sweep.measure import differences

#: Mean over seeds and the ends of its 95 % interval.
Interval = tuple[float, float, float]
#: Names of the networks for the ledger, by the column ``norm``.
NETWORKS: dict[Any, str] = {False: "without normalization layers", True: "with them"}


def _too_short(table: pd.DataFrame) -> str:
    """Return why the runs are too short to compare optimizers, or an empty string.

    Adam must have come at least half of the way from chance level to an accuracy of 1.
    """
    adam = table.query("k == 1")
    if adam.empty:
        return "no run with k = 1"
    learnt = float(((adam["accuracy"] - adam["guess"]) / (1 - adam["guess"])).mean())
    return "" if learnt >= 0.5 else f"runs too short: Adam has come {learnt:.0%} of the way from a guess to no error"


def _judge(prediction: str, runs: pd.DataFrame, rule: Callable[[pd.DataFrame], Outcome]) -> Outcome:
    """Judge a claim by the runs that have an accuracy, unless every run diverged.

    Divergence is a result: the accuracy of such a run is the chance level. If all runs diverged, they do not distinguish the
    numbers of stages.

    Args:
        prediction: text for the ledger.
        runs: the runs that the claim judges.
        rule: function from the runs that count to an `Outcome`.
    """
    lost = ~pd.Series(np.isfinite(runs["accuracy"].astype(float)))
    if "diverged_at" in runs:
        lost |= bool((lost | (runs["diverged_at"] >= 0)).all())
    return by_finite_runs(prediction, runs[~lost], lost, rule)


@claim(
    "K1",
    "P",
    "2-Adam beats Adam under three of four strategies",
    statistic="test accuracy after the last step, k = 2 minus k = 1 with the same seed and learning rate, network without "
    "normalization layers: mean with 95 % interval over seeds, strategy by strategy",
    rule="interval above 0 for at least three of the four strategies; contradicted if two intervals do not reach above 0; "
    "inconclusive if Adam has not come half of the way from a guess to no error",
)
def _k1(e: Evidence) -> Outcome:
    def rule(table: pd.DataFrame) -> Outcome:
        why = _too_short(table)
        if why:
            return Outcome("> 0 for three", "", INCONCLUSIVE, why)
        without: dict[str, Interval]
        layers: dict[str, Interval]
        without, layers = (
            {strategy: over_seeds(values) for (_, strategy), values in differences(runs).items()}
            for runs in (table, e.table[e.table["norm"].astype(bool)])
        )
        verdicts = [decide(low, high, lambda x: x > 0) for _, low, high in without.values()]
        if verdicts.count(REPRODUCED) >= 3:
            verdict = REPRODUCED
        else:
            verdict = CONTRADICTED if verdicts.count(CONTRADICTED) >= 2 else INCONCLUSIVE
        adam = table.query("k == 1")["accuracy"]
        notes = [f"Adam {adam.mean():.4f}, {len(adam)} seeds"]
        if layers:
            adam = e.table[e.table["norm"].astype(bool)].query("k == 1")["accuracy"]
            notes.append(
                f"with normalization layers, where Adam has {number(adam.mean(), '.4f')}: "
                + ", ".join(f"{strategy} {with_interval(*value, '+.4f')}" for strategy, value in layers.items())
            )
        value = ", ".join(f"{strategy} {with_interval(*value, '+.4f')}" for strategy, value in without.items())
        return Outcome("> 0 for three", value, verdict, "; ".join(notes))

    return _judge("> 0 for three", e.table[~e.table["norm"].astype(bool) & (e.table["k"] <= 2)], rule)


def collapses(table: pd.DataFrame) -> dict[str, tuple[int | None, bool]]:
    """Return for each strategy on one network whether and where it collapses.

    A strategy collapses at k if the interval of its mean accuracy over seeds lies below halfway between chance level and Adam.

    Args:
        table: measurements of one network.

    Returns:
        ``{strategy: (k, safe)}``. ``k`` is the smallest k at which the strategy collapses, None if there is none. ``safe`` is
        True if the interval lies above halfway at every k.
    """
    adam = table.query("k == 1")
    half = (adam["accuracy"].mean() + adam["guess"].mean()) / 2
    fates: dict[str, tuple[int | None, bool]] = {}
    strategy: Any
    for strategy, runs in table.query("k > 1").groupby("stages", sort=False):
        intervals = {k: over_seeds(group["accuracy"]) for k, group in runs.groupby("k")}
        fallen: list[Any] = [k for k, (_, _, high) in intervals.items() if high < half]
        fates[strategy] = (fallen[0] if fallen else None, all(low >= half for _, low, _ in intervals.values()))
    return fates


@claim(
    "K2",
    "P",
    "larger k degrades gracefully",
    statistic="test accuracy after the last step against k, strategy by strategy, mean with 95 % interval over seeds; collapsed: "
    "below halfway between a guess and Adam",
    rule="at least one strategy whose intervals never reach below halfway, on each network; contradicted if every strategy "
    "collapses on one of them; inconclusive as K1",
)
def _k2(e: Evidence) -> Outcome:
    return _judge("no collapse", e.table, _judge_collapses)


def _judge_collapses(table: pd.DataFrame) -> Outcome:
    """Return the outcome of K2 for the runs that have an accuracy."""
    values, notes, verdicts = [], [], []
    most = int(table["k"].max())
    for norm, runs in table.groupby("norm"):
        why = _too_short(runs)
        if why:
            return Outcome("no collapse", "", INCONCLUSIVE, why)
        fates = collapses(runs)
        if any(safe for _, safe in fates.values()):
            verdicts.append(REPRODUCED)
        else:
            verdicts.append(CONTRADICTED if fates and all(k for k, _ in fates.values()) else INCONCLUSIVE)
        fallen = [f"{strategy} from k = {k}" for strategy, (k, _) in fates.items() if k]
        values.append(f"{NETWORKS[norm]}: {', '.join(fallen) if fallen else 'none'} collapsed")
        adam = runs.query("k == 1")["accuracy"].mean()
        at_most = runs.query("k == @most").groupby("stages", sort=False)["accuracy"]
        last: dict[Any, Interval] = {strategy: over_seeds(accuracies) for strategy, accuracies in at_most}
        notes.append(
            f"{NETWORKS[norm]}, k = {most} against Adam's {adam:.4f}: "
            + ", ".join(f"{strategy} {with_interval(*interval, '.4f')}" for strategy, interval in last.items())
        )
    return Outcome("no collapse", "; ".join(values), worst(verdicts), "; ".join(notes))
