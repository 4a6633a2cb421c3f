"""Claims S7, S8 and K3: the exact bound is attained and never exceeded, and the last stage bounds k-Adam."""

import numpy as np
import pandas as pd

from ctadam.analysis.rules import by_finite_runs, finite, holds, most, number, worst
from ctadam.analysis.verdicts import INCONCLUSIVE, Evidence, Outcome, claim


@claim(
    "S7",
    "D",
    "the exact bound is attained, and never exceeded",
    statistic="update over exact bound: worst-case gradients (min, max), random gradients (max)",
    rule="worst case within 1 ± 1e-9; random at most 1 + 1e-9",
)
def _s7(e: Evidence) -> Outcome:
    runs = e.table[e.table["kind"].isin(["worst", "random"])]
    lost = ~finite(runs, "update", "bound_exact")
    return by_finite_runs("1; ≤ 1", runs[~lost], lost, _judge_attained, none="no draw")


def _judge_attained(runs: pd.DataFrame) -> Outcome:
    """Return the outcome of S7 for the finite draws."""
    ratio = runs["update"] / runs["bound_exact"]
    worst_case, random = ratio[runs["kind"] == "worst"], ratio[runs["kind"] == "random"]
    verdicts, parts = [], []
    for values, limit, text in (
        (worst_case - 1, 1e-9, f"1 {worst_case.min() - 1:+.1e} to 1 {worst_case.max() - 1:+.1e}"),
        (random, 1 + 1e-9, f"random ≤ {random.max():.6f}"),
    ):
        verdicts.append(holds(most(np.abs(values)) <= limit) if len(values) else INCONCLUSIVE)
        parts.append(text if len(values) else "none")
    return Outcome("1; ≤ 1", "; ".join(parts), worst(verdicts), f"{len(worst_case):,} draws of each")


@claim(
    "S8",
    "D",
    "between the two laws (C < 0 but γ² < β) updates stay bounded",
    statistic="update over exact bound, worst-case gradients, pairs between the laws (max)",
    rule="at most 1 + 1e-9; inconclusive unless the paper's law lets some of these runs grow e-fold",
)
def _s8(e: Evidence) -> Outcome:
    runs = e.table.query("kind == 'wedge'")
    lost = ~finite(runs, "update", "bound_exact")
    return by_finite_runs("≤ 1", runs[~lost], lost, _judge_wedge, none="no draw between the laws")


def _judge_wedge(runs: pd.DataFrame) -> Outcome:
    """Return the outcome of S8 for the finite draws."""
    growth = -runs["C"] / 2 * (runs["step"] + 1)
    if not (growth >= 1).any():
        return Outcome("≤ 1", "", INCONCLUSIVE, "runs too short for the paper's law to allow an e-fold growth")
    ratio = most(runs["update"] / runs["bound_exact"])
    share, over_limit = float((growth >= 1).mean()), float((runs["update"] / runs["limit_exact"]).max())
    note = (
        f"{len(runs):,} draws; the paper's law lets {share:.0%} of them grow e-fold or more, up to e^{growth.max():.3g}; "
        f"largest update {runs['update'].max():.3g}, over the exact bound's limit at most {over_limit:.4g}"
    )
    return Outcome("≤ 1", f"1 {ratio - 1:+.1e}", holds(ratio <= 1 + 1e-9), note)


@claim(
    "K3",
    "D",
    "stability of k-Adam is the last stage's",
    statistic="k-Adam, k = 2 to 4, with an unstable stage in each position, gradients that stop, and random ones: largest "
    "update over the last stage's exact bound; growth rate after the gradients have stopped, against the last stage's ln(γ/√β)",
    rule="elsewhere than last: at most 1 + 1e-9; last: mean absolute error of the rate at most 2e-4 per step; inconclusive "
    "unless the law lets half of these grow e-fold while they are watched",
)
def _k3(e: Evidence) -> Outcome:
    runs = e.table.query("kind == 'stages'")
    grows = (runs["place"] == runs["k"]) & (runs["silent"] >= 0)
    bad = ~finite(runs, "update", "ratio") | np.isinf(runs["rate"])
    # An update of 0 has no rate but is evidence: it has not grown. A run that lacks a rate for another reason is lost.
    lost = bad | (grows & runs["rate"].isna() & (runs["update"] != 0))
    return by_finite_runs("≤ 1; 0", runs[~bad], lost, _judge_stages, none="no runs through several stages")


def _judge_stages(runs: pd.DataFrame) -> Outcome:
    """Return the outcome of K3 for the finite runs."""
    last, elsewhere = runs[runs["place"] == runs["k"]], runs[runs["place"] != runs["k"]]
    grow = last[last["silent"] >= 0]
    watched = grow["rate_exact"] * (grow["step"] - grow["silent"]) / 2
    if grow.empty or watched.median() < 1:
        why = (
            f"predicted growth e^{watched.median():.2g}, not e^1" if len(grow) else "none with the unstable stage last"
        )
        return Outcome("≤ 1; 0", "", INCONCLUSIVE, f"runs too short: {why}")
    # A run without a rate has an update of 0, so it has not grown.
    error = float((grow["rate"].fillna(0.0) - grow["rate_exact"]).abs().mean())
    ratio = most(elsewhere["ratio"]) if len(elsewhere) else np.nan
    return Outcome(
        "≤ 1; 0",
        f"{number(ratio, '.6f')}; {error:.1e}",
        worst([holds(ratio <= 1 + 1e-9) if len(elsewhere) else INCONCLUSIVE, holds(error <= 2e-4)]),
        f"{len(elsewhere)} runs with it elsewhere, their updates up to {number(elsewhere['update'].max(), '.3g')} and rates up "
        f"to {number(elsewhere['rate'].max(), '.2g')}; {len(last)} with it last, updates up to {last['update'].max():.3g}, rates "
        f"predicted {grow['rate_exact'].min():.3g} to {grow['rate_exact'].max():.3g}",
    )
