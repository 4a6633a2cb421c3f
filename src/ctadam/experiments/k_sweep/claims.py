"""Claims K1 and K2: k-Adam with k stages and four strategies (paper, k-Adam)."""

import numpy as np

from ctadam.analysis.rules import by_finite_runs, decide, number, with_interval, worst
from ctadam.analysis.seeds import over_seeds
from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Outcome, claim
from ctadam.experiments.k_sweep.measure import differences

NETWORKS = {False: "without normalization layers", True: "with them"}


def _too_short(table):
    """Why these runs cannot tell optimizers apart, or an empty string: Adam must have learnt half of what there is to learn."""
    adam = table.query("k == 1")
    if adam.empty:
        return "no run with k = 1"
    learnt = float(((adam["accuracy"] - adam["guess"]) / (1 - adam["guess"])).mean())
    return "" if learnt >= 0.5 else f"runs too short: Adam has come {learnt:.0%} of the way from a guess to no error"


def _judge(prediction, runs, rule):
    """Judge by the runs with an accuracy, unless every run diverged.

    A run that diverged has learnt nothing, which is a finding: its accuracy is that of a guess. If all of them diverged, no
    number of stages is better than another.
    """
    lost = ~np.isfinite(runs["accuracy"].astype(float))
    if "diverged_at" in runs:
        lost |= (lost | (runs["diverged_at"] >= 0)).all()
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
def _k1(e):
    def rule(table):
        why = _too_short(table)
        if why:
            return Outcome("> 0 for three", "", INCONCLUSIVE, why)
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


def collapses(table):
    """Each strategy's fate on one network: ``{strategy: (k at which it collapses or None, whether it certainly never does)}``.

    A strategy has collapsed at k if it has lost more than half of what Adam gained over a guess: its mean accuracy,
    with its interval over seeds, lies below halfway between the two.
    """
    adam = table.query("k == 1")
    half = (adam["accuracy"].mean() + adam["guess"].mean()) / 2
    fates = {}
    for strategy, runs in table.query("k > 1").groupby("stages", sort=False):
        intervals = {k: over_seeds(group["accuracy"]) for k, group in runs.groupby("k")}
        fallen = [k for k, (_, _, high) in intervals.items() if high < half]
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
def _k2(e):
    return _judge("no collapse", e.table, _judge_collapses)


def _judge_collapses(table):
    """K2 by the runs with an accuracy."""
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
        last = runs.query("k == @most").groupby("stages", sort=False)["accuracy"]
        notes.append(
            f"{NETWORKS[norm]}, k = {most} against Adam's {adam:.4f}: "
            + ", ".join(f"{strategy} {with_interval(*over_seeds(some), '.4f')}" for strategy, some in last)
        )
    return Outcome("no collapse", "; ".join(values), worst(verdicts), "; ".join(notes))
