"""Claims S7, S8, S13 and K3: the exact bound is attained, never exceeded and has known edges; the last stage bounds k-Adam."""

import numpy as np
import pandas as pd

from ctadam.analysis.rules import finite
from ctadam.analysis.verdicts import Evidence, Judgement, Level, at_most, claim, exact, undecided, within

#: Relative tolerance for updates at their bound.
TOLERANCE = 1e-9


def _largest(values: pd.Series, name: str = "", part: str = "", *, lost: int) -> Level:
    """Return a level whose statistic is the largest of the finite values."""
    if values.empty:
        return undecided("no finite run" if lost else "no run", name, part, lost=lost)
    return exact(values.max(), name, part, lost=lost)


def _farthest(values: pd.Series, name: str = "", part: str = "", *, lost: int) -> Level:
    """Return a level whose statistic is the finite value farthest from 1."""
    if values.empty:
        return undecided("no finite run" if lost else "no run", name, part, lost=lost)
    return exact(values.iloc[int(np.argmax(np.abs(values - 1)))], name, part, lost=lost)


@claim(
    "S7",
    "D",
    "the exact bound is attained, and never exceeded",
    statistic="update over the exact bound at the draw's own step: the one farthest from 1 under worst-case gradients, and the "
    "largest under random gradients",
    rule="worst case within 1 ± 1e-9, and random at most 1 + 1e-9",
    target={"worst-case gradients": within(TOLERANCE), "random gradients": at_most(1 + TOLERANCE)},
    columns=("update", "bound_exact"),
    form=".12g",
)
def _s7(e: Evidence) -> Judgement:
    runs = e.table[e.table["kind"].isin(["worst", "random"])]
    good = finite(runs, "update", "bound_exact")
    ratio, kind = runs["update"] / runs["bound_exact"], runs["kind"]
    levels = [
        function(ratio[good & (kind == name)], part=part, lost=int((~good & (kind == name)).sum()))
        for name, part, function in (
            ("worst", "worst-case gradients", _farthest),
            ("random", "random gradients", _largest),
        )
    ]
    return Judgement(levels, {"draws": float((kind == "worst").sum())})


@claim(
    "S8",
    "D",
    "between the two laws (C < 0 but γ² < β) updates stay bounded",
    statistic="largest update over the exact bound under worst-case gradients, for pairs between the laws",
    rule="at most 1 + 1e-9; inconclusive unless the paper's law lets some of these runs grow e-fold",
    target=at_most(1 + TOLERANCE),
    columns=("update", "bound_exact", "C"),
    form=".12g",
)
def _s8(e: Evidence) -> Judgement:
    runs = e.table.query("kind == 'wedge'")
    good = finite(runs, "update", "bound_exact")
    lost, runs = int((~good).sum()), runs[good]
    growth = -runs["C"] / 2 * (runs["step"] + 1)
    numbers = {
        "draws": float(len(runs)),
        "share that the paper's law lets grow e-fold": float((growth >= 1).mean()),
        "largest exponent that the paper's law allows": float(growth.max()),
        "largest update over the limit of its exact bound": float((runs["update"] / runs["limit_exact"]).max()),
    }
    if len(runs) and not (growth >= 1).any():
        why = "runs too short for the paper's law to allow an e-fold growth"
        return Judgement([undecided(why, lost=lost)], numbers)
    return Judgement([_largest(runs["update"] / runs["bound_exact"], lost=lost)], numbers)


@claim(
    "S13",
    "R",
    "RMSprop and sign descent are the edges of the square",
    statistic="update farthest from its limit, over that limit: for γ = 0 the bound 1/√(1−β) under worst-case gradients, at a "
    "step at which β^(n+1) is at most 1e-10, and for γ = β = 0 the value 1 under random gradients; levels: the two edges",
    rule="within 1 ± 1e-9 at both edges",
    target=within(TOLERANCE),
    columns=("update", "limit_exact"),
    form=".12g",
)
def _s13(e: Evidence) -> Judgement:
    levels = []
    for kind, name in (("rmsprop", "RMSprop, γ = 0"), ("sign", "sign descent, γ = β = 0")):
        runs = e.table[e.table["kind"] == kind]
        good = finite(runs, "update", "limit_exact")
        ratio = runs["update"] / runs["limit_exact"]
        levels.append(_farthest(ratio[good], name, lost=int((~good).sum())))
    return Judgement(levels, {"draws": float(e.table["kind"].isin(["rmsprop", "sign"]).sum())})


@claim(
    "K3",
    "D",
    "stability of k-Adam is the last stage's",
    statistic="k-Adam, k = 2 to 4, with an unstable stage in each position, gradients that stop, and random ones: largest update "
    "over the last stage's exact bound where another stage is unstable; where the last one is, mean absolute difference of the "
    "growth rate after the gradients have stopped from ln(γ/√β), per step",
    rule="elsewhere than last at most 1 + 1e-9, and last at most 2e-4 per step; inconclusive unless the law lets half of the "
    "latter grow e-fold while they are observed",
    target={"unstable elsewhere": at_most(1 + TOLERANCE), "unstable last": at_most(2e-4)},
    columns=("ratio", "rate", "rate_exact"),
    form=".9g",
)
def _k3(e: Evidence) -> Judgement:
    runs = e.table.query("kind == 'kadam'")
    bad = ~finite(runs, "update", "ratio") | np.isinf(runs["rate"])
    last = runs["place"] == runs["k"]
    elsewhere = _largest(runs.loc[~last & ~bad, "ratio"], part="unstable elsewhere", lost=int((~last & bad).sum()))
    grow = runs[last & (runs["silent"] >= 0)]
    # An update of 0 has no rate but is evidence: it has not grown. A run that lacks a rate for another reason is lost.
    good = ~bad[grow.index] & (grow["rate"].notna() | (grow["update"] == 0))
    lost, grow = int((~good).sum()), grow[good]
    observed = grow["rate_exact"] * (grow["step"] - grow["silent"]) / 2
    if grow.empty:
        rate = undecided("no finite run" if lost else "no run", part="unstable last", lost=lost)
    elif observed.median() < 1:
        why = f"runs too short: half of them are predicted to grow by less than e^{observed.median():.2g}"
        rate = undecided(why, part="unstable last", lost=lost)
    else:
        error = float((grow["rate"].fillna(0.0) - grow["rate_exact"]).abs().mean())
        rate = exact(error, part="unstable last", lost=lost)
    numbers = {
        "runs with the unstable stage elsewhere": float((~last).sum()),
        "largest update with it elsewhere": float(runs.loc[~last, "update"].max()),
        "largest growth rate with it elsewhere": float(runs.loc[~last, "rate"].max()),
        "runs with the unstable stage last": float(last.sum()),
        "largest update with it last": float(runs.loc[last, "update"].max()),
        "smallest predicted rate": float(grow["rate_exact"].min()),
        "largest predicted rate": float(grow["rate_exact"].max()),
    }
    return Judgement([elsewhere, rate], numbers)
