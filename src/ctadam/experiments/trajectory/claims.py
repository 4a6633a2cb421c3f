"""Claims T1-T4: how closely the differential equations track the optimizer (paper, section 2)."""

from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

from ctadam.analysis.rules import by_finite_runs, decide, finite, holds, with_interval, worst
from ctadam.analysis.slopes import half_width
from ctadam.analysis.verdicts import INCONCLUSIVE, Evidence, Outcome, claim

#: Learning rate of claims T1 and T2, and number of steps after which Adam's start-up is over: six times the memory 1/(1−γ)
#: of the first moment at the usual γ. Shorter runs consist of start-up only.
TRACKED_LR, SETTLED = 1e-3, 60


def _equation(order: int, kernel: str) -> str:
    """Return the name of an equation, for the ledger."""
    names = {"paper": "the paper's kernel", "exact": "exact kernel"}
    return f"{'first' if order == 1 else 'second'} order with {names[kernel]}"


def _tracks(runs: pd.DataFrame) -> Outcome:
    """Judge T1 or T2 by the final error of the paper's equation (second order, paper's kernel)."""
    runs = runs[np.isclose(runs["lr"], TRACKED_LR)]
    if runs.empty or runs["steps"].max() < SETTLED:
        return Outcome("0", "", INCONCLUSIVE, f"no run of {SETTLED} steps or more with lr {TRACKED_LR:g}")
    papers = runs.query("order == 2 and kernel == 'paper'")
    lost = ~finite(papers, "error_end")
    left = lost & False
    if "diverged_at" in papers:
        # An equation that was above the tolerance for good before it diverged does not track the optimizer.
        left = lost & (papers["above_from"] >= 0) & (papers["above_from"] < papers["diverged_at"])
    evidence = papers.assign(error_end=papers["error_end"].where(~lost, np.inf))[~lost | left]
    return by_finite_runs("0", evidence, lost, lambda evidence: _judge_tracking(evidence, runs))


def _judge_tracking(papers: pd.DataFrame, runs: pd.DataFrame) -> Outcome:
    """Judge T1 or T2 by the evidence about the paper's equation; the note names the best of all equations.

    Args:
        papers: runs of the paper's equation. ``error_end`` is inf if the equation stayed above the tolerance and diverged.
        runs: runs of all equations at the same learning rate.
    """
    verdicts: list[str] = []
    values: list[str] = []
    notes: list[str] = []
    for model, every in runs.groupby("model"):
        group = papers[papers["model"] == model]
        if group.empty:
            verdicts.append(INCONCLUSIVE)
            values.append(f"{model} none")
            continue
        errors = group["error_end"]
        verdicts.append(decide(errors.min(), errors.max(), lambda x: x <= 0.05))
        ended = int(np.isinf(errors).sum())
        known = errors[np.isfinite(errors)]
        values.append(
            f"{model} "
            + (with_interval(known.mean(), known.min(), known.max()) if len(known) else "none")
            + (f", {ended} above 5 % before they ended" if ended else "")
        )
        left = group.loc[group["above_from"] >= 0, "above_from"]
        means = every[finite(every, "error_end")].groupby(["order", "kernel"])["error_end"].mean()
        best = f"; best {_equation(*cast('tuple[int, str]', means.idxmin()))}, {means.min():.3g}" if len(means) else ""
        above = f"above 5 % for good from step {left.min():.0f} of {group['steps'].max()}"
        notes.append(f"{model}: {'within 5 % to the end' if left.empty else above}{best}")
    return Outcome("0", "; ".join(values), worst(verdicts), ". ".join(notes))


@claim(
    "T1",
    "P",
    "the differential equation tracks Adam",
    statistic="‖θ_equation − θ_Adam‖ / ‖θ_Adam − θ_0‖, all weights, full batch, lr 1e-3, the paper's equation (second order, "
    "its kernel, started after the first average), after the last step: mean [range] over seeds",
    rule="at most 5 % for every model and seed; contradicted if every seed of a model exceeds it",
)
def _t1(e: Evidence) -> Outcome:
    return _tracks(e.table.query("variant == 'flow' and weight_decay == 0"))


@claim(
    "T2",
    "P",
    "the differential equation tracks AdamW",
    statistic="as T1, with weight decay",
    rule="as T1, for every weight decay above 0",
)
def _t2(e: Evidence) -> Outcome:
    return _tracks(e.table.query("variant == 'flow' and weight_decay > 0"))


@claim(
    "T3",
    "D",
    "p only relabels time",
    statistic="largest difference, over all steps and equations, of the solution in t = n·η^p from that in steps, relative to "
    "the distance travelled",
    rule="at most 5e-10, so that any two p differ by at most 1e-9",
    figure="",
)
def _t3(e: Evidence) -> Outcome:
    runs = e.table.query("variant == 'relabelled'")
    if runs.empty:
        return Outcome("0", "", INCONCLUSIVE, "no run with p other than 0")
    lost = ~finite(runs, "p_difference_max")

    def rule(runs: pd.DataFrame) -> Outcome:
        value = float(runs["p_difference_max"].max())
        powers = ", ".join(f"{p:g}" for p in sorted(runs["p"].unique()))
        return Outcome("0", f"{value:.1e}", holds(value <= 5e-10), f"p = {powers}")

    return by_finite_runs("0", runs[~lost], lost, rule)


def _log_slope(runs: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Return the slope of ln(error) on ln(lr) and the ends of its 95 % interval; NaN, −inf, inf with too few runs.

    Args:
        runs: finite runs, one row per run.
        column: the error; runs where it is 0 are left out.
    """
    runs = runs[runs[column] > 0]
    if len(runs) < 3 or runs["lr"].nunique() < 2:
        return np.nan, -np.inf, np.inf
    fit = stats.linregress(np.log(runs["lr"]), np.log(runs[column]))
    half = half_width(fit.stderr, len(runs) - 2)
    return fit.slope, fit.slope - half, fit.slope + half


@claim(
    "T4",
    "R",
    "the error falls with the learning rate; second order against first",
    statistic="slope of ln(T1's error) on ln(lr) over learning rates and seeds, per model and equation, no weight decay, 95 % "
    "interval",
    rule="every interval above 0; contradicted if one lies below",
)
def _t4(e: Evidence) -> Outcome:
    runs = e.table.query("variant == 'flow' and weight_decay == 0")
    if runs.empty or runs["steps"].max() < SETTLED:
        return Outcome("> 0", "", INCONCLUSIVE, f"no run of {SETTLED} steps or more")
    lost = ~finite(runs, "error_end")
    return by_finite_runs("> 0", runs[~lost], lost, _judge_slopes)


def _judge_slopes(runs: pd.DataFrame) -> Outcome:
    """Judge T4 by the finite runs."""
    verdicts: list[str] = []
    values: list[str] = []
    notes: list[str] = []
    for model, group in runs.groupby("model"):
        slopes: dict[Any, tuple[float, float, float]] = {
            key: _log_slope(rows, "error_end") for key, rows in group.groupby(["order", "kernel"])
        }
        verdicts += [decide(low, high, lambda x: x > 0) for _, low, high in slopes.values()]
        values.append(
            f"{model}: "
            + ", ".join(f"{_equation(*key)} {with_interval(*slope, '.2f')}" for key, slope in slopes.items())
        )
        table: Any = group.pivot_table(index=["order", "kernel"], columns="lr", values="error_end")
        best = ", ".join(f"{_equation(*table[lr].idxmin())} at lr {lr:g} ({table[lr].min():.2g})" for lr in table)
        notes.append(f"{model}: best {best}")
    return Outcome("> 0", "; ".join(values), worst(verdicts), ". ".join(notes))
