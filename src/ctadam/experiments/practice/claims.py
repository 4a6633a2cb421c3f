"""Claims E1, E2 and L1: limits of the growth in practice, gradient precision, and long runs."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.rules import by_finite_runs, finite, holds, number, worst
from ctadam.analysis.verdicts import CLAIMS, INCONCLUSIVE, REPRODUCED, Evidence, Outcome, claim
from ctadam.experiments.growth.measure import WINDOW

#: Number of steps that a run needs for claim L1.
LONG = 10_000
#: Smallest positive float32.
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def _geometric(values: pd.Series) -> float:
    """Return the geometric mean."""
    return np.exp(np.log(values).mean())


@claim(
    "E1",
    "D",
    "ε > 0 caps the growth, and float32 state ends it",
    statistic="ln of the largest update's ratio between the two smallest ε > 0, and the difference of the steps for which its "
    "token was unseen (float64 state, one unstable pair, mean over seeds); largest update with ε = 0, float32 over float64 "
    "state",
    rule="the first within 10 % of the prediction (b−a)/b · ln(ε ratio), the second within 10 % of ln(ε ratio)/b, "
    "a = −ln γ, b = −½ ln β; the third below 1/2",
)
def _e1(e: Evidence) -> Outcome:
    runs = e.table.query("variant == 'epsilon'")
    measured = pd.Series(np.isfinite(runs[["peak", "peak_unseen"]].astype(float)).all(axis=1))
    lost = ~measured | (runs["diverged_at"] == 0)
    # With ε = 0 and float64 state, overflow shows growth. Under ε or float32 state, which cap it, no run may overflow.
    lost |= (runs["diverged_at"] > 0) & ((runs["eps"] > 0) | (runs["state_dtype"] != "float64"))
    return by_finite_runs("", runs[~lost], lost, _judge_caps)


def _judge_caps(runs: pd.DataFrame) -> Outcome:
    """Judge E1 by the runs that are evidence."""
    columns = {"peak": ("peak", _geometric), "unseen": ("peak_unseen", "mean")}
    columns |= {"cap": ("cap", "first"), "when": ("cap_unseen", "first")}
    double = runs.query("state_dtype == 'float64' and eps > 0").groupby("eps").agg(**columns)
    plain = runs.query("eps == 0").groupby("state_dtype")["peak"].agg(_geometric)
    if len(double) < 2 or len(plain) < 2:
        return Outcome("", "", INCONCLUSIVE, "needs two ε > 0, and ε = 0 with both state precisions")
    small, large = double.iloc[0], double.iloc[1]
    if double["cap"].isna().any():
        return Outcome("", "", INCONCLUSIVE, "the exact law calls the pair stable")
    # This assumes gradients with mean square 1. Smaller gradients reach ε and the smallest float32 sooner.
    last = max(small["when"], float(np.log(SMALLEST) / np.log(runs["beta2"].iloc[0])))
    # A diverged run has shown its growth, so it is exempt from the minimum length.
    if runs.loc[runs["diverged_at"] < 0, "steps"].min() < last:
        return Outcome("", "", INCONCLUSIVE, f"too short: growth can end up to {last:.0f} steps after a token")
    where = float(np.log(small["cap"] / large["cap"])), float(np.log(small["peak"] / large["peak"]))
    when = float(small["when"] - large["when"]), float(small["unseen"] - large["unseen"])
    ratio = float(plain["float32"] / plain["float64"])
    good = all(abs(measured / predicted - 1) <= 0.1 for predicted, measured in (where, when)) and ratio < 0.5
    names = [f"{eps:g}" for eps in double.index[:2]]
    value = f"{where[1]:.3g}; {when[1]:.0f} steps; {ratio:.2g}"
    note = (
        f"largest updates {small['peak']:.3g} and {large['peak']:.3g} with ε = {names[0]} and {names[1]}, of tokens unseen for "
        f"{small['unseen']:.0f} and {large['unseen']:.0f} steps; {plain['float64']:.3g} with ε = 0"
    )
    return Outcome(f"{where[0]:.3g}; {when[0]:.0f} steps; < 1", value, holds(good), note)


@claim(
    "E2",
    "D",
    "the growth does not depend on the precision of the gradients",
    statistic="growth rate in the last 40 % of steps, gradients in bfloat16 mixed precision minus float32 (ε = 0, float64 state, "
    "one unstable pair): largest difference over seeds; the largest updates' ratio, mean over seeds",
    rule="difference at most 2e-4 per step; inconclusive unless the exact law lets the window grow e-fold, or where a run was "
    "not finite",
)
def _e2(e: Evidence) -> Outcome:
    table = e.table[(e.table["eps"] == 0) & (e.table["state_dtype"] == "float64")]
    half = table[table["precision"] == "bfloat16"]
    # The partners in float32 are the bare runs, which belong to the other variant.
    full = table[(table["variant"] == "epsilon") & table["seed"].isin(half["seed"])]
    pairs = half.merge(full, on="seed", suffixes=("_half", "_full"), validate="one_to_one")
    lost = ~finite(pairs, *(f"{column}_{which}" for column in ("rate", "peak") for which in ("half", "full")))
    lost |= (pairs[["diverged_at_half", "diverged_at_full"]] >= 0).any(axis=1)
    outcome = by_finite_runs("0; 1", pairs[~lost], lost, _judge_precision, none="no runs in bfloat16 with partners")
    # By its rule, the claim is inconclusive if any run was not finite.
    return replace(outcome, verdict=INCONCLUSIVE) if lost.any() else outcome


def _judge_precision(pairs: pd.DataFrame) -> Outcome:
    """Judge E2 by the pairs of runs that stayed finite."""
    growth = float((pairs["rate_exact_half"] * WINDOW * pairs["steps_half"]).min())
    if not growth >= 1:
        return Outcome("0; 1", "", INCONCLUSIVE, f"too short: predicted growth in the window e^{growth:.2g}, not e^1")
    difference = float((pairs["rate_half"] - pairs["rate_full"]).abs().max())
    held = float((pairs["held_rate_half"] - pairs["held_rate_full"]).abs().max(skipna=False))
    ratio = float(_geometric(pairs["peak_half"] / pairs["peak_full"]))
    rates = pairs["rate_half"]
    note = (
        f"rates {rates.min():.6f} to {rates.max():.6f}, exact law {pairs['rate_exact_half'].iloc[0]:.6f}; counting only "
        f"steps at which the same row holds the maximum, the difference is {number(held, '.1e')}; {len(pairs)} seeds; test loss "
        f"{number(pairs['test_loss_half'].mean(), '.4g')}, with float32 {number(pairs['test_loss_full'].mean(), '.4g')}"
    )
    return Outcome("0; 1", f"{difference:.1e}; {ratio:.6g}", holds(difference <= 2e-4), note)


@claim(
    "L1",
    "R",
    "the picture holds at 10,000 steps",
    statistic="those of S1-S4, on long runs at a few points of the normal curve",
    rule="as S1-S4, all of them; fewer than 10,000 steps can contradict and not reproduce",
)
def _l1(e: Evidence) -> Outcome:
    table = e.table.query("variant == 'long'").assign(variant="curve")
    if table.empty:
        return Outcome("as S1-S4", "", INCONCLUSIVE, "no long run")
    part: Any = SimpleNamespace(table=table, runs=e.runs[e.runs["variant"] == "long"])
    judges: dict[str, Any] = {x.id: x.judge for x in CLAIMS if x.id in ("S1", "S2", "S3", "S4")}
    outcomes = {id: judge(part) for id, judge in judges.items()}
    verdict = worst({outcome.verdict for outcome in outcomes.values()})
    # Use the requested length: a run that diverged early does not make the experiment shorter.
    asked = int(e.runs.loc[e.runs["variant"] == "long", "step"].max()) + 1
    if verdict == REPRODUCED and asked < LONG:
        verdict = INCONCLUSIVE
    unstable = table.query("C_exact < 0 and unseen_rate_df > 0")
    ratio = unstable["unseen_rate"] / unstable["rate_exact"]
    note = f"{asked} steps"
    if len(ratio):
        note += (
            f"; growth per step for which the token was unseen, over ln(γ/√β): {ratio.min():.2f} to {ratio.max():.2f}; longest "
            f"unseen {unstable['longest_unseen'].min():.0f} to {unstable['longest_unseen'].max():.0f} steps"
        )
    worst_loss = [
        number(table.loc[side, "train_loss_max"].max(), ".3g") for side in (table["C"] > 0, table["C_exact"] < 0)
    ]
    note += f"; largest training loss {worst_loss[0]} where C > 0, {worst_loss[1]} where γ² > β"
    ended = table.query("diverged_at >= 0")
    if len(ended):
        note += f"; {len(ended)} of {len(table)} runs not finite from step {ended['diverged_at'].min()} on"
    values = {id: f" ({outcome.value})" if outcome.value else "" for id, outcome in outcomes.items()}
    value = "; ".join(f"{id} {outcome.verdict}{values[id]}" for id, outcome in outcomes.items())
    return Outcome("as S1-S4", value, verdict, note)
