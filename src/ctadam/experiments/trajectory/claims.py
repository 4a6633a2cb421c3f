"""Claims T1-T6: how closely the differential equations track the optimizer (paper, section 2)."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.rules import finite, max_or_inf, mean_over_seeds
from ctadam.analysis.verdicts import Evidence, Judgement, Level, above, at_least, at_most, claim, exact, undecided
from ctadam.experiments.trajectory.measure import START

#: Learning rates of T1 and T2.
LRS = (1e-4, 3e-4, 1e-3)
#: Number of steps after which Adam's start is over: six times the memory 1/(1−γ) of the first average at γ = 0.9.
SETTLED = 60
MODELS = {"mlp": "MLP", "transformer": "transformer"}
ORDERS = {2: "second order", 1: "first order"}
KERNELS = {"paper": "paper's kernel", "exact": "exact kernel"}
SHORT = f"no run of {SETTLED} steps or more"


def _solved(table: pd.DataFrame, *, decay: bool = False) -> pd.DataFrame:
    """Return the runs of the equations, in steps, that are long enough, without or with weight decay."""
    runs = table[(table["variant"] == "flow") & (table["steps"] >= SETTLED)]
    return runs[(runs["weight_decay"] > 0) == decay]


def _least(values: pd.Series) -> float:
    """Return the smallest value, or NaN if one is NaN."""
    return float(values.min(skipna=False))


def _r_squared(table: pd.DataFrame, *, decay: bool) -> Judgement:
    """Return the R² of the paper's equation by model and learning rate, for T1 and T2."""
    runs = _solved(table, decay=decay)
    papers = runs[(runs["order"] == 2) & (runs["kernel"] == "paper")]
    levels = []
    for (model, title), lr in itertools.product(MODELS.items(), LRS):
        rows = papers[(papers["model"] == model) & np.isclose(papers["lr"], lr, rtol=1e-9)]
        values = rows["r2_median"].where(finite(rows, "r2_median")).groupby(rows["seed"]).agg(_least)
        name = f"{title}, η = {lr:g}"
        levels.append(mean_over_seeds(values, name, bounds=(-np.inf, 1.0)) if len(rows) else undecided(SHORT, name))
    return Judgement(levels)


_R2 = (
    "R² of one weight along the run, 1 − Σ(equation − optimizer)²/Σ(optimizer − its mean over the run)², sums over all steps "
    "including 0; median over 1,000 weights chosen by a seeded generator (all weights of a smaller model), without those that "
    "never receive a gradient; mean over seeds of that median. The equation is the paper's: second order, its kernel, started "
    "after the first average. Full batch, runs of 60 steps or more, levels model × learning rate 1e-4, 3e-4, 1e-3"
)


@claim(
    "T1",
    "P",
    "the second-order equation tracks Adam, weight by weight",
    statistic=_R2,
    rule="the interval over seeds lies at or above 0.99",
    target=at_least(0.99),
    columns=("r2_median",),
    form=".4f",
)
def _t1(e: Evidence) -> Judgement:
    return _r_squared(e.table, decay=False)


@claim(
    "T2",
    "P",
    "the second-order equation tracks AdamW, weight by weight",
    statistic="as T1, with weight decay (of several decays, the one with the smallest R²)",
    rule="the interval over seeds lies at or above 0.99",
    target=at_least(0.99),
    columns=("r2_median",),
    form=".4f",
)
def _t2(e: Evidence) -> Judgement:
    return _r_squared(e.table, decay=True)


@claim(
    "T3",
    "D",
    "p only relabels time",
    statistic="largest difference, over all steps and equations, of the solution in t = n·η^p from that in steps, relative to "
    "the distance travelled",
    rule="at most 5e-10, so that any two p differ by at most 1e-9",
    target=at_most(5e-10),
    columns=("p_difference_max",),
    figure="",
    form=".1e",
)
def _t3(e: Evidence) -> Judgement:
    runs = e.table[e.table["variant"] == "relabelled"]
    good = finite(runs, "p_difference_max")
    lost = int((~good).sum())
    if not good.any():
        return Judgement([undecided("no finite run" if lost else "no run with p other than 0", lost=lost)])
    return Judgement([exact(max_or_inf(runs.loc[good, "p_difference_max"]), lost=lost)])


def _log_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Return the equations' runs without weight decay with ``ln_error``, NaN where a run is not finite or has no error."""
    runs = _solved(table)
    errors = runs["error_end"].where(finite(runs, "error_end") & (runs["error_end"] > 0))
    return runs.assign(ln_error=np.log(errors))


def _solver_numbers(runs: pd.DataFrame) -> dict[str, float]:
    """Return the largest solver error relative to the error itself, by learning rate."""
    share = (runs["solver_error_end"] / runs["error_end"]).groupby(runs["lr"]).max()
    return {f"largest solver error over error, η = {lr:g}": value for lr, value in share.items()}


def _slope(rows: pd.DataFrame) -> float:
    """Return the least-squares slope of ln(error) on ln(lr) in the runs of one seed; NaN if one of them is missing."""
    if rows["ln_error"].isna().any() or rows["lr"].nunique() < 2:
        return np.nan
    return float(np.polyfit(np.log(rows["lr"]), rows["ln_error"], 1)[0])


@claim(
    "T4",
    "R",
    "the error over all weights falls with the learning rate",
    statistic="least-squares slope of ln(‖θ_equation − θ_Adam‖ / ‖θ_Adam − θ_0‖), all weights, after the last step, on ln η over "
    "all learning rates, one slope per seed, mean over seeds; no weight decay, same number of steps (60 or more) at every "
    "rate; levels model × equation",
    rule="the interval over seeds lies above 0",
    target=above(0.0),
    columns=("error_end",),
    form=".2f",
)
def _t4(e: Evidence) -> Judgement:
    runs = _log_errors(e.table)
    levels = []
    for (model, title), (order, named), kernel in itertools.product(MODELS.items(), ORDERS.items(), KERNELS):
        rows = runs[(runs["model"] == model) & (runs["order"] == order) & (runs["kernel"] == kernel)]
        name = f"{title}, {named}, {KERNELS[kernel]}"
        if rows["lr"].nunique() < 2:
            levels.append(undecided(SHORT if rows.empty else "a single learning rate", name))
        else:
            levels.append(mean_over_seeds([_slope(group) for _, group in rows.groupby("seed")], name))
    return Judgement(levels, _solver_numbers(runs))


def _ratio(level: Level) -> Level:
    """Return a level of ln(ratio) as one of the ratio."""
    low, high = np.exp([level.low, level.high])
    return dataclasses.replace(level, estimate=float(np.exp(level.estimate)), low=float(low), high=float(high))


@claim(
    "T5",
    "R",
    "the second-order equation is closer than the first-order one with the same kernel",
    statistic="T4's error of the first-order equation over that of the second-order one, same kernel and run, after the last "
    "step, no weight decay: geometric mean over seeds, with the t interval of its logarithm; levels model × learning rate × "
    "kernel",
    rule="the interval over seeds lies above 1",
    target=above(1.0),
    columns=("error_end",),
)
def _t5(e: Evidence) -> Judgement:
    runs = _log_errors(e.table)
    errors = runs.set_index(["model", "lr", "kernel", "seed", "order"])["ln_error"].unstack("order")
    errors = errors.reindex(columns=list(ORDERS))
    groups: Any = (errors[1] - errors[2]).groupby(level=["model", "lr", "kernel"])
    levels = [
        _ratio(mean_over_seeds(values, f"{MODELS[model]}, η = {lr:g}, {KERNELS[kernel]}"))
        for (model, lr, kernel), values in groups
    ]
    return Judgement(levels or [undecided(SHORT)], _solver_numbers(runs))


def crossings(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return when the curvature on the optimizer's path passes the limit of each equation, and when the equation leaves.

    Args:
        table: measurements joined with predictions.
        runs: raw runs.

    Returns:
        The rows of ``table`` for equations without weight decay, with

        - ``crossed_at``: first step, from `START` on, with η times the sharpness above ``curvature_limit``; NaN if there is
          none;
        - ``left_at``: first step, from `START` on, from which the error stays above 5 %; the number of steps if it does not.
        - ``lost``: whether the equation, or the sharpness on the optimizer's path, is not finite.
    """
    flows = _solved(table)
    paths = runs[(runs["variant"] == "discrete") & (runs["step"] >= START) & (runs["step"] % _every(runs) == 0)]
    keys = ["model", "lr", "weight_decay", "seed"]
    groups: Any = paths.groupby(keys)
    sharpness = {
        key: (rows["step"].to_numpy(), (rows["lr"] * rows["sharpness"]).to_numpy(float)) for key, rows in groups
    }
    crossed, measured = [], []
    for row in flows.to_dict("records"):
        step, value = sharpness.get(tuple(row[key] for key in keys), (np.zeros(0), np.zeros(0)))
        over = step[value > row["curvature_limit"]]
        crossed.append(over[0] if len(over) else np.nan)
        measured.append(len(value) > 0 and bool(np.isfinite(value).all()))
    lost = ~(finite(flows, "error_end", "error_late_max") & np.array(measured, dtype=bool))
    left = flows["above_from"].where(flows["above_from"] >= 0, flows["steps"]).clip(lower=START)
    return flows.assign(crossed_at=crossed, left_at=left, lost=lost)


def _every(runs: pd.DataFrame) -> int:
    """Return the number of steps between two measurements of the sharpness."""
    steps = np.unique(runs.loc[runs["sharpness"].notna(), "step"])
    return int(np.diff(steps).min()) if len(steps) > 1 else 1


def _departures(rows: pd.DataFrame, name: str) -> Iterator[Level]:
    """Yield the two parts of T6 for the runs of one order."""
    lost = int(rows["lost"].sum())
    rows = rows[~rows["lost"]]
    across = rows[rows["crossed_at"].notna()]
    distance = (across["left_at"] - across["crossed_at"]).abs() / across["steps"]
    inside = rows[rows["crossed_at"].isna()]
    over = (inside["error_late_max"] > 0.05).astype(float)
    for part, values, lacking in (
        (CROSS, distance.groupby(across["seed"]).mean(), "no run crosses the limit"),
        (STAY, over.groupby(inside["seed"]).mean(), "every run crosses the limit"),
    ):
        why = SHORT if rows.empty else lacking
        yield mean_over_seeds(values, name, part, lost=lost) if len(values) else undecided(why, name, part, lost=lost)


CROSS, STAY = "runs that cross", "runs that do not"


@claim(
    "T6",
    "D",
    "an equation leaves the optimizer when curvature passes its limit",
    statistic="η times the preconditioned sharpness (largest eigenvalue of diag(1/√v̂)·Hessian on the optimizer's path, every few "
    "steps) crosses the limit, 2 + a for the second order (a is the kernel's rate) and 2(1+γ)/(1−γ) for the first, at the "
    "first measured step from 20 on where it is larger; the equation leaves at the step from 20 on from which the error over "
    "all weights stays above 5 %, or at the end of the run. Runs that cross: mean over a seed's runs of |leaving − crossing| "
    "over the run's length; runs that do not: share of a seed's runs that are above 5 % at any step from 20 on; means over "
    "seeds. Runs of 60 steps or more, no weight decay, all models, learning rates and kernels; levels order",
    rule="runs that cross: the interval over seeds lies at or below 0.25; runs that do not: no run is above 5 % (the interval "
    "of the share above 0 contradicts)",
    target={CROSS: at_most(0.25), STAY: at_most(0.0)},
    columns=("sharpness", "curvature_limit", "above_from", "error_late_max"),
    form=".2f",
)
def _t6(e: Evidence) -> Judgement:
    runs = crossings(e.table, e.runs)
    levels: list[Level] = []
    numbers: dict[str, float] = {}
    for order, name in ORDERS.items():
        rows = runs[runs["order"] == order]
        levels += _departures(rows, name)
        across = rows[rows["crossed_at"].notna() & ~rows["lost"]]
        inside = rows[rows["crossed_at"].isna() & ~rows["lost"]]
        early = (across["crossed_at"] <= START) & (across["left_at"] <= START)
        distance = (across["left_at"] - across["crossed_at"]).abs() / across["steps"]
        numbers |= {
            f"{name}: runs": float(len(rows)),
            f"{name}: runs that cross": float(len(across)),
            f"{name}: runs that cross and stay within 5 %": float((across["above_from"] < 0).sum()),
            f"{name}: runs that cross and leave by step {START}": float(early.sum()),
            f"{name}: mean distance of the other runs that cross": float(distance[~early].mean()),
            f"{name}: largest late error of the runs that do not cross": float(inside["error_late_max"].max()),
        }
    return Judgement(levels, numbers)
