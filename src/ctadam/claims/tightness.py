"""Claims S7, S8 and K3: the exact bound, attained and never exceeded, and that of k-Adam's last stage."""

import numpy as np

from ctadam.claims.rules import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Outcome, claim, most


@claim(
    "S7", "D", "the exact bound is attained, and never exceeded",
    statistic="update over exact bound: worst-case gradients (min, max), random gradients (max)",
    rule="worst case within 1 ± 1e-9; random at most 1 + 1e-9", experiment="tightness", figure="fig7",
)  # fmt: skip
def _s7(e):
    ratio = e.table["update"] / e.table["bound_exact"]
    worst, random = ratio[e.table["kind"] == "worst"], ratio[e.table["kind"] == "random"]
    value = f"1 {worst.min() - 1:+.1e} to 1 {worst.max() - 1:+.1e}; random ≤ {random.max():.6f}"
    good = most(np.abs(worst - 1)) <= 1e-9 and most(random) <= 1 + 1e-9
    return Outcome("1; ≤ 1", value, REPRODUCED if good else CONTRADICTED, f"{len(worst):,} draws of each")


@claim(
    "S8", "D", "between the two laws (C < 0 but γ² < β) updates stay bounded",
    statistic="update over exact bound, worst-case gradients, pairs between the laws (max)",
    rule="at most 1 + 1e-9; inconclusive unless the paper's law lets some of these runs grow e-fold",
    experiment="tightness", figure="fig7",
)  # fmt: skip
def _s8(e):
    runs = e.table.query("kind == 'wedge'")
    growth = -runs["C"] / 2 * (runs["step"] + 1)
    if not (growth >= 1).any():
        return Outcome("≤ 1", "", INCONCLUSIVE, "runs too short for the paper's law to allow an e-fold growth")
    ratio = most(runs["update"] / runs["bound_exact"])
    share, over_limit = float((growth >= 1).mean()), float((runs["update"] / runs["limit_exact"]).max())
    return Outcome(
        "≤ 1", f"1 {ratio - 1:+.1e}", REPRODUCED if ratio <= 1 + 1e-9 else CONTRADICTED,
        f"{len(runs):,} draws; the paper's law lets {share:.0%} of them grow e-fold or more, up to e^{growth.max():.3g}; "
        f"largest update {runs['update'].max():.3g}, over the exact bound's limit at most {over_limit:.4g}",
    )  # fmt: skip


@claim(
    "K3", "D", "stability of k-Adam is the last stage's",
    statistic="k-Adam, k = 2 to 4, with an unstable stage in each position, gradients that stop, and random ones: largest "
    "update over the last stage's exact bound; growth rate after the gradients have stopped, against the last stage's ln(γ/√β)",
    rule="elsewhere than last: at most 1 + 1e-9; last: mean absolute error of the rate at most 2e-4 per step; inconclusive "
    "unless the law lets half of these grow e-fold while they are watched", experiment="tightness", figure="fig7",
)  # fmt: skip
def _k3(e):
    runs = e.table.query("kind == 'stages'")
    if runs.empty:
        return Outcome("≤ 1; 0", "", INCONCLUSIVE, "no runs through several stages")
    last, elsewhere = runs[runs["place"] == runs["k"]], runs[runs["place"] != runs["k"]]
    grow = last[last["silent"] >= 0]
    watched = grow["rate_exact"] * (grow["step"] - grow["silent"]) / 2
    if watched.median() < 1:
        return Outcome(
            "≤ 1; 0", "", INCONCLUSIVE, f"runs too short: predicted growth e^{watched.median():.2g}, not e^1"
        )
    ratio = most(elsewhere["ratio"])
    # A run without a rate has not grown.
    error = float((grow["rate"].fillna(0.0) - grow["rate_exact"]).abs().mean())
    good = ratio <= 1 + 1e-9 and error <= 2e-4
    fastest = float(elsewhere["rate"].max())
    return Outcome(
        "≤ 1; 0", f"{ratio:.6f}; {error:.1e}", REPRODUCED if good else CONTRADICTED,
        f"{len(elsewhere)} runs with it elsewhere, their updates up to {elsewhere['update'].max():.3g} and rates up to "
        f"{fastest:.2g}; {len(last)} with it last, updates up to {last['update'].max():.3g}, rates predicted "
        f"{grow['rate_exact'].min():.3g} to {grow['rate_exact'].max():.3g}",
    )  # fmt: skip
