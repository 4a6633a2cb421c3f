"""Claims K1 and K2: k-Adam with k stages and four strategies (paper, k-Adam)."""

from ctadam.claims.rules import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    Outcome,
    claim,
    decide,
    with_interval,
)  # fmt: skip
from ctadam.measurements.seeds import over_seeds
from ctadam.measurements.stages import differences

NETWORKS = {False: "without normalization layers", True: "with them"}


def _too_short(table):
    """Why these runs cannot tell optimizers apart, or an empty string: Adam must have learnt half of what there is to learn."""
    adam = table.query("k == 1")
    if adam.empty:
        return "no run with k = 1"
    learnt = float(((adam["accuracy"] - adam["guess"]) / (1 - adam["guess"])).mean())
    return "" if learnt >= 0.5 else f"runs too short: Adam has come {learnt:.0%} of the way from a guess to no error"


@claim(
    "K1", "P", "2-Adam beats Adam under three of four strategies",
    statistic="test accuracy after the last step, k = 2 minus k = 1 with the same seed and learning rate, network without "
    "normalization layers: mean with 95 % interval over seeds, strategy by strategy",
    rule="interval above 0 for at least three of the four strategies; contradicted if two intervals do not reach above 0; "
    "inconclusive if Adam has not come half of the way from a guess to no error",
    experiment="stages", figure="fig5",
)  # fmt: skip
def _k1(e):
    table = e.table[~e.table["norm"]]
    why = _too_short(table)
    if why:
        return Outcome("> 0 for three", "", INCONCLUSIVE, why)
    found = {key: over_seeds(values) for key, values in differences(e.table).items()}
    without = {strategy: value for (norm, strategy), value in found.items() if not norm}
    verdicts = [decide(low, high, lambda x: x > 0) for _, low, high in without.values()]
    if verdicts.count(REPRODUCED) >= 3:
        verdict = REPRODUCED
    else:
        verdict = CONTRADICTED if verdicts.count(CONTRADICTED) >= 2 else INCONCLUSIVE
    adam = table.query("k == 1")["accuracy"]
    notes = [f"Adam {adam.mean():.4f}, {len(adam)} seeds"]
    if any(norm for norm, _ in found):
        layers = e.table[e.table["norm"]].query("k == 1")["accuracy"]
        notes.append(
            f"with normalization layers, where Adam has {layers.mean():.4f}: "
            + ", ".join(
                f"{strategy} {with_interval(*value, '+.4f')}" for (norm, strategy), value in found.items() if norm
            )
        )
    value = ", ".join(f"{strategy} {with_interval(*value, '+.4f')}" for strategy, value in without.items())
    return Outcome("> 0 for three", value, verdict, "; ".join(notes))


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
    "K2", "P", "larger k degrades gracefully",
    statistic="test accuracy after the last step against k, strategy by strategy, mean with 95 % interval over seeds; collapsed: "
    "below halfway between a guess and Adam",
    rule="at least one strategy whose intervals never reach below halfway, on each network; contradicted if every strategy "
    "collapses on one of them; inconclusive as K1", experiment="stages", figure="fig5",
)  # fmt: skip
def _k2(e):
    values, notes, verdicts = [], [], set()
    most = int(e.table["k"].max())
    for norm, table in e.table.groupby("norm"):
        why = _too_short(table)
        if why:
            return Outcome("no collapse", "", INCONCLUSIVE, why)
        fates = collapses(table)
        if any(safe for _, safe in fates.values()):
            verdicts.add(REPRODUCED)
        else:
            verdicts.add(CONTRADICTED if all(k for k, _ in fates.values()) else INCONCLUSIVE)
        fallen = [f"{strategy} from k = {k}" for strategy, (k, _) in fates.items() if k]
        values.append(f"{NETWORKS[norm]}: {', '.join(fallen) if fallen else 'none'} collapsed")
        adam = table.query("k == 1")["accuracy"].mean()
        last = table.query("k == @most").groupby("stages", sort=False)["accuracy"]
        notes.append(
            f"{NETWORKS[norm]}, k = {most} against Adam's {adam:.4f}: "
            + ", ".join(f"{strategy} {with_interval(*over_seeds(runs), '.4f')}" for strategy, runs in last)
        )
    verdict = next(v for v in (CONTRADICTED, INCONCLUSIVE, REPRODUCED) if v in verdicts)
    return Outcome("no collapse", "; ".join(values), verdict, "; ".join(notes))
