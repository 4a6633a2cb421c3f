"""Claims E1, E2 and L1: limits of the growth in practice, gradient precision, and long runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ctadam.analysis.rules import all_undecided, finite, max_or_inf, mean_over_seeds
from ctadam.analysis.verdicts import Evidence, Judgement, Level, at_most, below, claim, exact, undecided, within

#: Number of steps that a run needs for claim L1.
LONG = 10_000
#: Parts of E1.
PEAKS, UNSEEN, PRECISION = "ln ratio of peaks", "difference of unseen steps", "peak, float32/float64"
#: Parts of L1.
HELD, PER_UNSEEN, BOUND = "held rate", "rate per step unseen", "largest update over its bound"
#: Reason that leaves open every claim about the unstable pair.
STABLE = "the exact law calls the pair stable"


def _masked(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the table with NaN in ``columns`` for runs that did not stay finite, so that their seeds count as lost."""
    good = ~(table["diverged_at"] >= 0)
    return table.assign(**{name: table[name].where(good & np.isfinite(table[name])) for name in columns})


def _unless(why: str, levels: Sequence[Level]) -> list[Level]:
    """Return the levels, left open with the reason ``why`` unless that is empty."""
    return [replace(level, undecided=level.undecided or why) for level in levels]


def _geometric(logarithms: ArrayLike, part: str) -> Level:
    """Return the geometric mean over seeds of numbers with these logarithms."""
    level = mean_over_seeds(logarithms, part=part)
    estimate, low, high = (float(np.exp(value)) for value in (level.estimate, level.low, level.high))
    return replace(level, estimate=estimate, low=low, high=high)


@claim(
    "E1",
    "D",
    "ε caps the growth, float32 ends it",
    statistic="per seed, for the smallest and the largest ε > 0 (one unstable pair, float64 state): ln of the ratio of the "
    "largest updates, and the difference of the steps for which their tokens were unseen, each over its "
    "prediction (b−a)/b · ln(ε ratio) and ln(ε ratio)/b, a = −ln γ, b = −½ ln β; largest update at ε = 0, float32"
    " over float64 state, geometric mean over seeds",
    rule="intervals over seeds: the first two inside 1 ± 0.2, the third below 1/2; inconclusive with fewer than 5 "
    "seeds, and where the runs end before the growth is predicted to",
    target={PEAKS: within(0.2), UNSEEN: within(0.2), PRECISION: below(0.5)},
    columns=("peak", "peak_unseen", "cap", "cap_unseen", "underflow_unseen"),
    figure="fig13",
)
def _e1(e: Evidence) -> Judgement:
    runs = _masked(e.table[e.table["variant"] == "epsilon"], "peak", "peak_unseen")
    if not (runs["rate_exact"] > 0).all():
        return Judgement(all_undecided(STABLE, parts=(PEAKS, UNSEEN, PRECISION)))
    length = runs["steps"].max()
    capped = runs[(runs["state_dtype"] == "float64") & (runs["eps"] > 0)]
    plain = runs[runs["eps"] == 0].pivot(index="seed", columns="state_dtype", values="peak")
    levels: list[Level] = []
    numbers: dict[str, float] = {}
    if capped["eps"].nunique() < 2:
        levels += all_undecided("needs two ε > 0 with float64 state", parts=(PEAKS, UNSEEN))
    else:
        large, small = (
            capped[capped["eps"] == eps].set_index("seed") for eps in (capped["eps"].max(), capped["eps"].min())
        )
        expected = np.log(small["cap"] / large["cap"]), small["cap_unseen"] - large["cap_unseen"]
        measured = np.log(small["peak"] / large["peak"]), small["peak_unseen"] - large["peak_unseen"]
        last = small["cap_unseen"].max()
        why = (
            ""
            if length > last
            else f"{length:.0f} steps; with ε = {small['eps'].iloc[0]:g} the growth can take {last:.0f}"
        )
        levels += _unless(
            why,
            [
                mean_over_seeds(value / predicted, part=part)
                for part, value, predicted in zip((PEAKS, UNSEEN), measured, expected, strict=True)
            ],
        )
        numbers |= {
            f"largest update, ε = {rows['eps'].iloc[0]:g}, geometric mean": float(np.exp(np.log(rows["peak"]).mean()))
            for rows in (small, large)
        }
    if {"float32", "float64"} <= set(plain):
        last = runs.loc[runs["state_dtype"] == "float32", "underflow_unseen"].max()
        why = "" if length > last else f"{length:.0f} steps; in float32 the growth can take {last:.0f}"
        levels += _unless(why, [_geometric(np.log(plain["float32"] / plain["float64"]), PRECISION)])
    else:
        levels.append(undecided("needs ε = 0 with both state precisions", part=PRECISION))
    return Judgement(levels, numbers)


@claim(
    "E2",
    "D",
    "the growth law does not depend on gradient precision",
    statistic="held rate (median one-step growth of ln(‖u_n‖_∞ / bias correction) over the steps of the last 40 % at which "
    "the largest update stays in its row), gradients in bfloat16 mixed precision minus float32, same seed (ε = 0,"
    " float64 state, one unstable pair)",
    rule="interval over seeds within 0 ± 1e-4",
    target=within(1e-4, of=0.0),
    columns=("held_rate", "precision"),
    form=".2g",
    figure="fig13",
)
def _e2(e: Evidence) -> Judgement:
    table = _masked(e.table, "held_rate", "peak")
    table = table[(table["eps"] == 0) & (table["state_dtype"] == "float64")]
    half = table[table["precision"] == "bfloat16"]
    # The partners in float32 are the bare runs, which belong to the other variant.
    full = table[table["variant"] == "epsilon"]
    pairs = half.merge(full, on="seed", suffixes=("_half", "_full"), validate="one_to_one")
    if pairs.empty:
        return Judgement([undecided("no runs in bfloat16 with partners in float32")])
    if not (pairs["rate_exact_half"] > 0).all():
        return Judgement([undecided(STABLE)])
    numbers = {
        "held rate in bfloat16": pairs["held_rate_half"].mean(),
        "exact law": pairs["rate_exact_half"].iloc[0],
        "largest updates, bfloat16/float32, geometric mean": np.exp(
            np.log(pairs["peak_half"] / pairs["peak_full"]).mean()
        ),
    }
    return Judgement([mean_over_seeds(pairs["held_rate_half"] - pairs["held_rate_full"])], numbers)


@claim(
    "L1",
    "R",
    "the picture holds at 10,000 steps",
    statistic="long runs that read each token of the text at most once (ε = 0, float64 state); levels: points of the normal"
    " curve; outside the exact region the held rate (as in E2), and the slope of ln(‖u_n‖_∞ / bias correction) on"
    " the steps for which the token of the largest update is unseen (at least 1/(1−β)), each over ln(γ/√β); "
    "inside the paper's region the largest update over its bound, all steps, both laws",
    rule="intervals over seeds: both rates within 10 % of 1; largest update at most its bound (1 + 1e-9); inconclusive"
    " with fewer than 10,000 steps, or if the text repeats",
    target={HELD: within(0.1), PER_UNSEEN: within(0.1), BOUND: at_most(1 + 1e-9)},
    columns=("held_rate", "unseen_rate", "ratio_paper", "ratio_exact", "text_passes"),
)
def _l1(e: Evidence) -> Judgement:
    table = e.table[e.table["variant"] == "long"]
    if table.empty:
        return Judgement([undecided("no long run")])
    lost, length, passes = table["diverged_at"] >= 0, table["steps"].max(), table["text_passes"].max()
    why = f"{length:,.0f} steps, not {LONG:,}" if length < LONG and not lost.all() else ""
    why = why or ("" if passes <= 1 else f"the runs read the text {passes:.3g} times")
    levels: list[Level] = []
    for _, runs in table.groupby("point", sort=True):
        c, rate = runs["C"].iloc[0], runs["rate_exact"].iloc[0]
        name = f"C = {c:.4f}".replace("-", "−")
        if c > 0:
            good = runs[finite(runs, "ratio_paper", "ratio_exact")]
            level = undecided("no finite run", name, BOUND, lost=len(runs))
            if len(good):
                level = exact(max_or_inf(good[["ratio_paper", "ratio_exact"]]), name, BOUND, lost=len(runs) - len(good))
            levels.append(level)
        elif rate > 0:
            runs = _masked(runs, "held_rate", "unseen_rate")
            levels += [
                mean_over_seeds(runs[column] / rate, name, part)
                for column, part in (("held_rate", HELD), ("unseen_rate", PER_UNSEEN))
            ]
    losses = table.groupby(table["C"] > 0)["train_loss_max"].max()
    numbers = {
        "passes over the text": passes,
        "longest time unseen, steps": table["longest_unseen"].max(),
        **{f"largest training loss where C {'>' if inside else '≤'} 0": loss for inside, loss in losses.items()},
    }
    return Judgement(_unless(why, levels), numbers)
