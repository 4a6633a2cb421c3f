"""Claims N1-N9 on scale-invariant weights: both assumptions, the norm laws, and 2-Adam as a substitute for the norm."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.rules import by_finite_runs, finite, holds
from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence, Outcome, claim

#: Shorter runs are no evidence, because averages over 1/(1−γ) = 100 steps are still starting up.
SETTLED = 200
#: Weight decay has an effect where at most this share of ‖W_0‖² is left at the end.
FELT = 0.05
#: γ of claims N4, N7 and N9.
USUAL_GAMMA = 0.9


def _over(
    variant: str, *measured: str, which: Callable[[pd.DataFrame], Any] = lambda table: True
) -> Callable[[Callable[[pd.DataFrame], Outcome]], Callable[[Evidence], Outcome]]:
    """Turn a rule into a judge that applies it to the finite runs of a variant with at least `SETTLED` steps.

    The outcome is inconclusive if there are no such runs.

    Args:
        variant: ``"law"`` or ``"pair"``.
        *measured: columns that must be finite for a run to be evidence.
        which: function from the table to a mask of the rows that the claim judges; all rows by default.
    """

    def decorate(rule: Callable[[pd.DataFrame], Outcome]) -> Callable[[Evidence], Outcome]:
        def judge(e: Evidence) -> Outcome:
            runs = e.table[(e.table["variant"] == variant) & (e.table["steps"] >= SETTLED) & which(e.table)]
            lost = ~finite(runs, *measured)
            return by_finite_runs("", runs[~lost], lost, rule, none=f"no run of {SETTLED} steps or more")

        return judge

    return decorate


def _usual(table: pd.DataFrame) -> np.ndarray:
    """Return which runs have the usual γ."""
    return np.isclose(table["beta1"], USUAL_GAMMA)


def _usual_and_felt(table: pd.DataFrame) -> np.ndarray | pd.Series:
    """Return which runs have the usual γ and enough weight decay."""
    return _usual(table) & (table["remembered"] <= FELT)


def _medians(runs: pd.DataFrame, column: str) -> str:
    """Return as text the median of a column for each model and batching."""
    medians: Any = runs.groupby(["model", "batching"], sort=False)[column].median()
    return ", ".join(f"{model} {batching} {value:.2g}" for (model, batching), value in medians.items())


def _median_and_largest(values: pd.Series) -> str:
    """Return the median and the largest value as text."""
    return f"median {np.median(values):.2g}, largest {np.max(values):.2g}"


def _by_gamma(runs: pd.DataFrame, column: str) -> str:
    """Return as text the median and the largest value of a column for each γ."""
    parts = [f"γ = {g:g}: {_median_and_largest(some[column])}" for g, some in runs.groupby("beta1")]
    return "; ".join(parts)


@claim(
    "N1",
    "P",
    "Assumption 1: weights are orthogonal to past gradients",
    statistic="share of ‖W‖² that ⟨W(t), g(τ)⟩ ≠ 0, τ < t, has added, largest along the run and over weights: difference of the "
    "paper's law from ‖W‖² without the part of Assumption 2; in the note the cosines, in units of those by chance",
    rule="at most 3 % in every run",
)
@_over("law", "memory_error_paper")
def _n1(runs: pd.DataFrame) -> Outcome:
    cosines = "; ".join(f"γ = {g:g}: {some['cosine'].median():.2f}" for g, some in runs.groupby("beta1"))
    note = (
        f"cosines with past gradients times √d, root mean square, median over runs: {cosines}; with random directions "
        f"{runs['chance'].median():.2f}"
    )
    return Outcome("0", _by_gamma(runs, "memory_error_paper"), holds(runs["memory_error_paper"] <= 0.03), note)


@claim(
    "N2",
    "P",
    "Assumption 2: v_W may be replaced by one number",
    statistic="share of ‖W‖² that ⟨W, g/√v⟩ ≠ 0 has added, largest along the run and over weights",
    rule="at most 3 % in every run",
)
@_over("law", "coarse_error")
def _n2(runs: pd.DataFrame) -> Outcome:
    note = (
        f"medians: {_medians(runs, 'coarse_error')}; cosine of the update with the coarse-grained one: "
        f"{_medians(runs, 'coarse_cosine')}"
    )
    return Outcome("0", _median_and_largest(runs["coarse_error"]), holds(runs["coarse_error"] <= 0.03), note)


@claim(
    "N3",
    "P",
    "without momentum ‖W‖² follows the law with ‖u‖²",
    statistic="largest relative error of the law along the run and over weights, γ = 0",
    rule="at most 3 % in every run",
)
@_over("law", "error_paper", which=lambda table: table["beta1"] == 0)
def _n3(runs: pd.DataFrame) -> Outcome:
    good = runs["error_paper"] <= 0.03
    note = (
        f"{good.sum()} of {len(runs)} runs within; medians: {_medians(runs, 'error_paper')}; all weights of a model "
        f"together: {_medians(runs, 'total_error_paper')}. All of it is Assumption 2's (N2)"
    )
    return Outcome("0", _median_and_largest(runs["error_paper"]), holds(good), note)


@claim(
    "N4",
    "D",
    "with momentum ‖W‖² needs ‖g/√v‖² in the place of ‖u‖²",
    statistic="largest relative errors of both laws along the run and over weights, γ = 0.9",
    rule="the new law's at most 5 %, and the paper's larger, in every run",
)
@_over("law", "error_paper", "error_unsmoothed", which=_usual)
def _n4(runs: pd.DataFrame) -> Outcome:
    closer = runs["error_unsmoothed"] < runs["error_paper"]
    good = (runs["error_unsmoothed"] <= 0.05) & closer
    return Outcome(
        "0",
        f"‖g/√v‖²: {_median_and_largest(runs['error_unsmoothed'])}; ‖u‖²: {_median_and_largest(runs['error_paper'])}",
        holds(good),
        f"{good.sum()} of {len(runs)} runs within, {closer.sum()} closer than the paper's; medians: "
        f"{_medians(runs, 'error_unsmoothed')}. It needs gradients of different steps to be orthogonal (N8)",
    )


@claim(
    "N5",
    "P",
    "the direction moves by η u/‖W‖",
    statistic="path of Ŵ over the sum of η‖u‖/‖W‖, of the weight where it is farthest from 1",
    rule="within 5 % of 1 in every run",
)
@_over("law", "turn_ratio")
def _n5(runs: pd.DataFrame) -> Outcome:
    good = (runs["turn_ratio"] - 1).abs() <= 0.05
    worst = "; ".join(
        f"γ = {g:g}: {some['turn_ratio'].min():.3f} to {some['turn_ratio'].max():.3f}"
        for g, some in runs.groupby("beta1")
    )
    kept = (1 - runs["lr"] * runs["weight_decay"]) ** (2 * runs["angle_window_start"])
    steady = runs[kept <= FELT]
    note = f"{good.sum()} of {len(runs)} runs within"
    if len(steady):
        note += "; steady angle per step over √(2ηλ), and predicted by the inertial law: " + ", ".join(
            f"γ = {g:g}: {(some['angle'] / some['angle_paper']).median():.3f} "
            f"({(some['angle_inertial'] / some['angle_paper']).median():.3f})"
            for g, some in steady.groupby("beta1")
        )
    return Outcome("1", worst, holds(good), note)


#: Columns that identify a setting of the pairs. Runs of one setting differ in their seed.
_SETTING = ["model", "batching", "beta1", "lr", "weight_decay"]


def _name(setting: Any) -> str:
    """Return the name of a setting, a tuple of the values of `_SETTING`."""
    model, batching, gamma, lr, decay = setting
    return f"{model} {batching} γ = {gamma:g} lr {lr:g} λ = {decay:g}"


@claim(
    "N6",
    "P,R",
    "a scale-invariant weight under AdamW is a weight of fixed norm under 2-Adam with γ₂ = 0",
    statistic="distance of the direction from AdamW's, mean over the second half of the steps, 2-Adam with the β₂ and the "
    "learning rate that λ implies against Adam with the same learning rate; mean over seeds in each setting",
    rule="2-Adam is closer in every setting; contradicted if for some setting it is farther for every seed",
)
@_over("pair", *(f"{kind}_{name}" for kind in ("direction", "function", "loss") for name in ("2adam", "adam")))
def _n6(runs: pd.DataFrame) -> Outcome:
    closer = (runs["direction_2adam"] < runs["direction_adam"]).groupby([runs[c] for c in _SETTING]).agg(["any", "all"])
    means: Any = runs.groupby(_SETTING)[
        [c for c in runs.columns if c.startswith(("direction_", "function_", "loss_"))]
    ].mean()
    good = means["direction_2adam"] < means["direction_adam"]
    verdict = REPRODUCED if good.all() else CONTRADICTED if not closer["any"].all() else INCONCLUSIVE
    medians: Any = means.groupby("beta1")[["direction_2adam", "direction_adam"]].median()
    value = "; ".join(
        f"γ = {g:g}: {some.sum()} of {len(some)} settings closer, medians {medians.loc[g, 'direction_2adam']:.3g} against "
        f"{medians.loc[g, 'direction_adam']:.3g}"
        for g, some in good.groupby("beta1")
    )
    function = (means["function_2adam"] < means["function_adam"]).groupby("beta1").agg(["sum", "size"])
    loss = (means["loss_2adam"].abs() < means["loss_adam"].abs()).groupby("beta1").agg(["sum", "size"])
    note = "; ".join(
        f"γ = {g:g}: closer in function in {function.loc[g, 'sum']}, in loss in {loss.loc[g, 'sum']}"
        for g in function.index
    )
    where = ", ".join(
        f"{model} {batching} γ = {g:g} {some.sum()} of {len(some)}"
        for (model, batching, g), some in good.groupby(["model", "batching", "beta1"], sort=False)
    )
    return Outcome("closer", value, verdict, f"{note}. Closer in direction: {where}")


def _against_2adam(runs: pd.DataFrame, name: str) -> Outcome:
    """Return the outcome of N7 or N9: the distance of an optimizer from AdamW over that of 2-Adam.

    Args:
        runs: the runs that the claim judges.
        name: the optimizer, a key of `ctadam.experiments.scale_invariance.runs.OPPONENTS`.
    """
    means = runs.groupby(_SETTING)[
        ["direction_2adam", f"direction_{name}", "direction_adam", "direction_tensor"]
    ].mean()
    ratio = means[f"direction_{name}"] / means["direction_2adam"]
    good = ratio <= 0.5
    apart = [f"{_name(s)} ({ratio[s]:.2f})" for s in ratio.index[~good]]
    note = (
        f"{good.sum()} of {len(good)} settings; distances (median): 2-Adam {means['direction_2adam'].median():.3g}, this "
        f"{means[f'direction_{name}'].median():.3g}, Adam {means['direction_adam'].median():.3g}, one number a weight "
        f"{means['direction_tensor'].median():.3g}" + (f"; above: {', '.join(apart)}" if apart else "")
    )
    return Outcome("≤ 0.5", f"median {ratio.median():.2f}, {ratio.min():.2f} to {ratio.max():.2f}", holds(good), note)


@claim(
    "N7",
    "D",
    "with momentum the second average must see the unsmoothed g/√v",
    statistic="N6's distance for that variant over the one for 2-Adam, γ = 0.9, decay felt (at most 5 % of ‖W_0‖² left)",
    rule="at most half in every setting",
)
@_over("pair", "direction_2adam", "direction_unsmoothed", which=_usual_and_felt)
def _n7(runs: pd.DataFrame) -> Outcome:
    return _against_2adam(runs, "unsmoothed")


@claim(
    "N8",
    "D",
    "with momentum ‖W‖² grows by inertia: the paper's law times (1+γ)/(1−γ) in the long run",
    statistic="largest relative error along the run and over weights of the inertial law, made from ‖u‖² and γ, without the part "
    "of Assumption 2; γ > 0",
    rule="at most 5 %, and the paper's larger, in every run",
)
@_over("law", "memory_error_inertial", "memory_error_paper", which=lambda table: table["beta1"] > 0)
def _n8(runs: pd.DataFrame) -> Outcome:
    good = (runs["memory_error_inertial"] <= 0.05) & (runs["memory_error_inertial"] < runs["memory_error_paper"])
    note = (
        f"{good.sum()} of {len(runs)} runs; the same error of the paper's law: {_by_gamma(runs, 'memory_error_paper')}; of the "
        f"law with ‖g/√v‖²: {_by_gamma(runs, 'memory_error_unsmoothed')}. With the part of Assumption 2, the inertial law's: "
        f"{_by_gamma(runs, 'error_inertial')}"
    )
    return Outcome("0", _by_gamma(runs, "memory_error_inertial"), holds(good), note)


@claim(
    "N9",
    "D",
    "… so 2-Adam with γ₂ = 0 stands for the norm if its learning rate is divided by √((1+γ)/(1−γ))",
    statistic="as N7, for 2-Adam with that learning rate",
    rule="as N7",
)
@_over("pair", "direction_2adam", "direction_inertial", which=_usual_and_felt)
def _n9(runs: pd.DataFrame) -> Outcome:
    return _against_2adam(runs, "inertial")
