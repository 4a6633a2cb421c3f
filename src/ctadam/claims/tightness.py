"""Claims S7 and S8: the exact bound, attained and never exceeded."""

import numpy as np

from ctadam.claims.rules import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Outcome, claim


@claim(
    "S7", "D", "the exact bound is attained, and never exceeded",
    statistic="update over exact bound: worst-case gradients (min, max), random gradients (max)",
    rule="worst case within 1 ± 1e-9; random at most 1 + 1e-9", experiment="tightness", figure="fig7",
)  # fmt: skip
def _s7(e):
    ratio = e.table["update"] / e.table["bound_exact"]
    worst, random = ratio[e.table["kind"] == "worst"], ratio[e.table["kind"] == "random"]
    value = f"1 {worst.min() - 1:+.1e} to 1 {worst.max() - 1:+.1e}; random ≤ {random.max():.6f}"
    good = np.abs(worst - 1).max() <= 1e-9 and random.max() <= 1 + 1e-9
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
    ratio = float((runs["update"] / runs["bound_exact"]).max())
    share, over_limit = float((growth >= 1).mean()), float((runs["update"] / runs["limit_exact"]).max())
    return Outcome(
        "≤ 1", f"1 {ratio - 1:+.1e}", REPRODUCED if ratio <= 1 + 1e-9 else CONTRADICTED,
        f"{len(runs):,} draws; the paper's law lets {share:.0%} of them grow e-fold or more, up to e^{growth.max():.3g}; "
        f"largest update {runs['update'].max():.3g}, over the exact bound's limit at most {over_limit:.4g}",
    )  # fmt: skip
