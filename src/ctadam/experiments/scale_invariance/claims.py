"""Claims N1-N6 and N8-N10 on scale-invariant weights: assumptions, norm laws, and 2-Adam as a substitute for the norm."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ctadam.analysis.rules import mean_over_seeds
from ctadam.analysis.verdicts import Evidence, Judgement, Level, Target, at_most, below, claim, within

#: Model of the claims whose levels are values of γ.
MAIN_MODEL = "transformer"
#: Shorter runs decide nothing, because averages over 1/(1−γ) = 100 steps are still starting up.
SETTLED = 200
#: Smallest relative change of the summed ‖W‖² that decides a law of its growth.
MIN_CHANGE = 0.2
#: Weight decay has an effect where at most this share of ‖W_0‖² is left.
FELT = 0.05

#: Condition that all rules share.
_UNSETTLED = f"; undecided below {SETTLED} steps"

_SUMS = ["start_sq", "end_sq", "end_paper", "end_inertial", "coarse_sq", "path", "path_paper", "cosine_sq"]


def growth(table: pd.DataFrame, keys: Sequence[str] = ("model", "beta1", "seed")) -> pd.DataFrame:
    """Return what each law and assumption accounts for in the growth of ‖W‖² without decay.

    Args:
        table: measurements joined with predictions.
        keys: columns by which runs are summed.

    Returns:
        DataFrame, one row per combination of ``keys``, summed over batchings and weights, NaN if a run is not finite:

        - ``start_sq``, ``end_sq``: ‖W‖² at the start and at the end;
        - ``paper``, ``inertial``: growth fractions of the laws;
        - ``coarse``, ``memory``: shares of the growth that ⟨W, g/√v⟩ and, as the rest, ⟨W(t), g(τ)⟩, τ < t, add;
        - ``path_ratio``: path of the direction over the paper's;
        - ``cosine``: root mean square of √dimension times the cosine with past gradients;
        - ``steps``: steps of the shortest run.
    """
    runs = table[table["variant"] == "law"]
    runs = runs.assign(cosine_sq=runs["cosine"] ** 2)
    # Sums skip NaN but not infinity. Afterwards NaN, because a share of an infinite growth would be 0.
    runs = runs.fillna(dict.fromkeys(_SUMS, np.inf))
    groups = runs.groupby(list(keys), sort=False)
    sums = groups[_SUMS].sum().replace([np.inf, -np.inf], np.nan)
    grown = sums["end_sq"] - sums["start_sq"]
    shares = sums[["start_sq", "end_sq"]].assign(
        steps=groups["steps"].min(),
        paper=(sums["end_paper"] - sums["start_sq"]) / grown,
        inertial=(sums["end_inertial"] - sums["start_sq"]) / grown,
        coarse=sums["coarse_sq"] / grown,
        path_ratio=sums["path"] / sums["path_paper"],
        cosine=(sums["cosine_sq"] / groups.size()) ** 0.5,
    )
    return shares.assign(memory=1 - shares["paper"] - shares["coarse"]).reset_index()


def _settled(level: Level, runs: pd.DataFrame) -> Level:
    """Return the level, undecided if its runs are too short."""
    short = (runs["steps"] < SETTLED).any()
    return dataclasses.replace(level, undecided=f"fewer than {SETTLED} steps") if short else level


def _hardly_changes(shares: pd.DataFrame) -> bool:
    """Return whether the summed ‖W‖² of all seeds together changes by less than `MIN_CHANGE`."""
    sums = shares.loc[np.isfinite(shares["end_sq"]), ["start_sq", "end_sq"]].sum()
    return bool(abs(sums["end_sq"] - sums["start_sq"]) < MIN_CHANGE * sums["start_sq"])


def growth_level(shares: pd.DataFrame, column: str, name: str, part: str = "") -> Level:
    """Return the level of a growth fraction or share, undecided if the norm hardly changes.

    Args:
        shares: rows of `growth`, one per seed.
        column: its column with the statistic.
        name: see `ctadam.analysis.verdicts.Level`.
        part: see `ctadam.analysis.verdicts.Level`.
    """
    level = _settled(mean_over_seeds(shares[column], name, part), shares)
    return dataclasses.replace(level, undecided="the norm hardly changes") if _hardly_changes(shares) else level


def of_main_model(shares: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `MAIN_MODEL`."""
    return shares[shares["model"] == MAIN_MODEL]


def by_gamma(table: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Return an iterator over the values of γ in ascending order and the rows of each."""
    return iter(table.groupby("beta1"))


def by_model(table: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Return an iterator over the models and the rows of each."""
    return iter(table.groupby("model", sort=False))


def _by_batching(table: pd.DataFrame, column: str, names: Sequence[str]) -> dict[str, float]:
    """Return the means over seeds of a column of `growth`, with minibatch and full-batch runs apart.

    Args:
        table: measurements joined with predictions.
        column: the column.
        names: ``"model"`` or ``"beta1"``, or both.
    """
    shares = growth(table, ["model", "beta1", "batching", "seed"])
    groups: Any = shares.groupby([*names, "batching"], sort=False)[column].mean()
    labels = {"beta1": "γ = {:g}", "model": "{}", "batching": "{}"}
    return {
        ", ".join(labels[name].format(part) for name, part in zip(groups.index.names, key, strict=True)): float(mean)
        for key, mean in groups.items()
    }


def _changing(shares: pd.DataFrame, column: str) -> dict[str, float]:
    """Return the means over seeds of a column by model and γ, without those whose norm hardly changes."""
    return {
        f"{model}, γ = {gamma:g}": float(rows[column].mean())
        for model, of_model in by_model(shares)
        for gamma, rows in by_gamma(of_model)
        if not _hardly_changes(rows)
    }


def geometric_mean_over_seeds(logarithms: ArrayLike, name: str) -> Level:
    """Return the level of a ratio whose interval is taken over its logarithms, one per seed."""
    level = mean_over_seeds(logarithms, name)
    estimate, low, high = np.exp([level.estimate, level.low, level.high])
    return dataclasses.replace(level, estimate=float(estimate), low=float(low), high=float(high))


@claim(
    "N1",
    "P",
    "Assumption 1: weights and past gradients are nearly orthogonal",
    statistic="(cosine) root mean square over weights, lags, times and batchings of the cosine of weights and past gradients, "
    "times √d, which is 1 for random directions; (memory) share of the growth of ‖W‖² that ⟨W(t), g(τ)⟩, τ < t, adds; "
    "transformer without decay; interval over seeds; levels: γ",
    rule=f"the cosine within a factor 1.5 of random, and the share between −10 % and 10 %{_UNSETTLED}",
    target={"cosine": Target(low=1 / 1.5, high=1.5), "memory": within(0.1, of=0.0)},
    columns=("cosine", "start_sq", "end_sq", "end_paper", "coarse_sq"),
)
def _n1(e: Evidence) -> Judgement:
    levels = []
    for gamma, shares in by_gamma(of_main_model(growth(e.table))):
        name = f"γ = {gamma:g}"
        levels.append(_settled(mean_over_seeds(shares["cosine"], name, "cosine", bounds=(0.0, np.inf)), shares))
        levels.append(growth_level(shares, "memory", name, "memory"))
    cosines = _by_batching(of_main_model(e.table), "cosine", ["beta1"])
    return Judgement(levels, {f"cosine, {name}": value for name, value in cosines.items()})


def coarse_level(shares: pd.DataFrame, model: str) -> Level:
    """Return the level of N2 for one model: mean over the values of γ for which the norm changes enough.

    Args:
        shares: rows of `growth` of this model.
        model: its name.
    """
    changing = [rows for _, rows in by_gamma(shares) if not _hardly_changes(rows)]
    if not changing:
        return growth_level(shares, "coarse", model)
    # The mean of a seed is NaN if one of its runs is not finite.
    means = sum(rows.set_index("seed")["coarse"] for rows in changing) / len(changing)
    return _settled(mean_over_seeds(means, model), shares)


@claim(
    "N2",
    "P",
    "Assumption 2: v may be replaced by one number",
    statistic="share of the growth of ‖W‖² that ⟨W, g/√v⟩ adds, summed over scale-invariant weights and batchings, mean over the "
    "values of γ for which ‖W‖² changes by at least 20 %; without decay; interval over seeds; levels: models",
    rule=f"between −10 % and 10 %; undecided where the norm hardly changes for any γ{_UNSETTLED}",
    target=within(0.1, of=0.0),
    columns=("start_sq", "end_sq", "coarse_sq"),
)
def _n2(e: Evidence) -> Judgement:
    shares = growth(e.table)
    levels = [coarse_level(rows, model) for model, rows in by_model(shares)]
    return Judgement(levels, _changing(shares, "coarse"))


@claim(
    "N3",
    "P",
    "without momentum ‖W‖² follows the paper's law",
    statistic="growth fraction of the paper's law at γ = 0, (law(N) − ‖W_0‖²)/(‖W_N‖² − ‖W_0‖²), each summed over "
    "scale-invariant weights and batchings; without decay; interval over seeds; levels: models",
    rule=f"within 10 % of 1; undecided where the norm changes by less than 20 %{_UNSETTLED}",
    target=within(0.1),
    columns=("start_sq", "end_sq", "end_paper"),
)
def _n3(e: Evidence) -> Judgement:
    shares = growth(e.table).query("beta1 == 0")
    levels = [growth_level(rows, "paper", model) for model, rows in by_model(shares)]
    return Judgement(levels, _by_batching(e.table.query("beta1 == 0"), "paper", ["model"]))


@claim(
    "N4",
    "P",
    "with momentum ‖W‖² follows the paper's law",
    statistic="growth fraction of the paper's law as in N3, γ > 0; interval over seeds; levels: model and γ",
    rule=f"within 10 % of 1; undecided where the norm changes by less than 20 %{_UNSETTLED}",
    target=within(0.1),
    columns=("start_sq", "end_sq", "end_paper"),
)
def _n4(e: Evidence) -> Judgement:
    shares = growth(e.table).query("beta1 > 0")
    levels = [
        growth_level(rows, "paper", f"{model}, γ = {gamma:g}")
        for model, of_model in by_model(shares)
        for gamma, rows in by_gamma(of_model)
    ]
    return Judgement(levels)


def path_level(shares: pd.DataFrame, name: str) -> Level:
    """Return the level of N5 for rows of `growth`, one per seed."""
    return _settled(mean_over_seeds(shares["path_ratio"], name), shares)


@claim(
    "N5",
    "P",
    "the direction turns by η‖u‖/‖W‖ per step",
    statistic="path length of the direction over the sum of η‖u‖/‖W‖, each summed over scale-invariant weights and batchings; "
    "transformer without decay; interval over seeds; levels: γ",
    rule=f"within 5 % of 1{_UNSETTLED}",
    target=within(0.05),
    columns=("path", "path_paper"),
    figure="fig12",
)
def _n5(e: Evidence) -> Judgement:
    levels = [path_level(rows, f"γ = {gamma:g}") for gamma, rows in by_gamma(of_main_model(growth(e.table)))]
    return Judgement(levels)


@claim(
    "N8",
    "D",
    "with momentum ‖W‖² follows the inertial law",
    statistic="growth fraction of the inertial law, computed from ‖u‖² and γ without the measured ⟨W, g/√v⟩, as in N3, γ > 0; "
    "transformer; interval over seeds; levels: γ",
    rule=f"within 10 % of 1; undecided where the norm changes by less than 20 %{_UNSETTLED}",
    target=within(0.1),
    columns=("start_sq", "end_sq", "end_inertial"),
)
def _n8(e: Evidence) -> Judgement:
    shares = growth(e.table).query("beta1 > 0")
    others = shares[shares["model"] != MAIN_MODEL]
    levels = [growth_level(rows, "inertial", f"γ = {gamma:g}") for gamma, rows in by_gamma(of_main_model(shares))]
    return Judgement(levels, _changing(others, "inertial"))


def _felt(level: Level, runs: pd.DataFrame, remembered: pd.Series) -> Level:
    """Return the level, undecided if its runs are too short for weight decay to have an effect."""
    why = f"more than {FELT:.0%} of ‖W_0‖² is left" if (remembered > FELT).any() else ""
    return dataclasses.replace(_settled(level, runs), undecided=why) if why else _settled(level, runs)


def distance_levels(table: pd.DataFrame) -> Iterator[tuple[Any, Level, Level]]:
    """Compare the distances of 2-Adam and Adam from AdamW.

    Args:
        table: measurements joined with predictions.

    Yields:
        ``((model, γ, λ), level of 2-Adam, level of 2-Adam by the inertial law)``. The statistic is the logarithm of the distance
        over that of Adam.
    """
    runs = table[table["variant"] == "fixed_norm"]
    for key, rows in runs.groupby(["model", "beta1", "weight_decay"], sort=False):
        model, gamma, decay = key
        name = f"{model}, γ = {gamma:g}, λ = {decay:g}"
        plain, inertial = (
            _felt(mean_over_seeds(np.log(rows[column] / rows["distance_adam"]), name), rows, rows["remembered"])
            for column in ("distance_2adam", "distance_2adam_inertial")
        )
        yield key, plain, inertial


@claim(
    "N6",
    "P",
    "under decay, the norm acts as the second average of 2-Adam with γ₂ = 0",
    statistic="logarithm of a ratio of distances of the direction from AdamW's, each a mean over the second half of the steps: "
    "2-Adam on a fixed norm, with one second average per weight started at ‖W_0‖²(1−β₂)/(η²d) without bias correction, over Adam "
    "on the fixed norm at the constant rate ηR/‖W_0‖; minibatches; interval over seeds; levels: model, γ and λ",
    rule=f"interval below 0; undecided where more than 5 % of ‖W_0‖² is left at the end{_UNSETTLED}",
    target=below(0.0),
    columns=("distance_2adam", "distance_adam", "remembered"),
    figure="fig12",
)
def _n6(e: Evidence) -> Judgement:
    return Judgement([level for _, level, _ in distance_levels(e.table)])


def rate_levels(table: pd.DataFrame) -> list[Level]:
    """Return the levels of N9: the distance of 2-Adam with the inertial law's rate over that without, by model and γ > 0."""
    runs = table[(table["variant"] == "fixed_norm") & (table["beta1"] > 0)]
    levels = []
    for (model, gamma), rows in runs.groupby(["model", "beta1"], sort=False):
        logarithms = rows.assign(logarithm=np.log(rows["distance_2adam_inertial"] / rows["distance_2adam"]))
        # One column per λ; a mean is NaN if one of its runs is not finite.
        by_decay = logarithms.pivot(index="seed", columns="weight_decay", values="logarithm")
        level = geometric_mean_over_seeds(by_decay.mean(axis=1, skipna=False), f"{model}, γ = {gamma:g}")
        levels.append(_felt(level, rows, rows["remembered"]))
    return levels


@claim(
    "N9",
    "D",
    "with momentum 2-Adam needs its rate divided by √((1+γ)/(1−γ))",
    statistic="N6's distance of 2-Adam with the rate divided by √f and the start of the second average by f, f = (1+aγ)/(1−aγ), "
    "a = 1 − ηλ, over that of 2-Adam without; geometric mean over λ per seed; geometric mean and interval over seeds; levels: "
    "model and γ > 0",
    rule=f"≤ 0.5; undecided where more than 5 % of ‖W_0‖² is left at the end for some λ{_UNSETTLED}",
    target=at_most(0.5),
    columns=("distance_2adam_inertial", "distance_2adam", "remembered"),
    figure="fig12",
)
def _n9(e: Evidence) -> Judgement:
    runs = e.table[(e.table["variant"] == "fixed_norm") & (e.table["beta1"] > 0)]
    logarithms = pd.Series(np.log(runs["distance_2adam_inertial"] / runs["distance_2adam"]))
    means: Any = logarithms.groupby([runs["model"], runs["beta1"], runs["weight_decay"]], sort=False).mean()
    by_decay = {f"{m}, γ = {g:g}, λ = {d:g}": float(np.exp(mean)) for (m, g, d), mean in means.items()}
    return Judgement(rate_levels(e.table), by_decay)


def steady_levels(table: pd.DataFrame) -> Iterator[tuple[float, Level, Level]]:
    """Yield ``(γ, level of ‖W‖², level of the angle)``: measured in the steady state over predicted by the inertial law."""
    runs = table[table["variant"] == "steady"]
    norm = runs["window_norm_sq"] / (runs["norm_inertial"] * runs["window_update_sq"])
    runs = runs.assign(norm=norm, turning=runs["angle"] / runs["angle_inertial"])
    # Share of ‖W_0‖² that is left when the window starts.
    remembered = runs["remembered"] ** (runs["window_start"] / runs["steps"])
    for gamma, rows in by_gamma(runs):
        norm_level, angle_level = (
            _felt(mean_over_seeds(rows[column], f"γ = {gamma:g}", part), rows, remembered[rows.index])
            for column, part in (("norm", "norm"), ("turning", "angle"))
        )
        yield gamma, norm_level, angle_level


@claim(
    "N10",
    "D",
    "in the steady state ‖W‖² and the angle per step carry (1+γ)/(1−γ)",
    statistic="measured over predicted, transformer with decay, minibatches, last 40 % of the steps: (norm) mean of ‖W‖² over "
    "ηf/(λ(2−ηλ)) times the mean of ‖u‖², with f = (1+aγ)/(1−aγ) ≈ (1+γ)/(1−γ), a = 1 − ηλ; (angle) mean angle per step over "
    "arccos((a+γ)/(1+aγ)) ≈ √(2ηλ(1−γ)/(1+γ)); interval over seeds; levels: γ",
    rule=f"both within 10 % of 1; undecided where more than 5 % of ‖W_0‖² is left when the window starts{_UNSETTLED}",
    target={"norm": within(0.1), "angle": within(0.1)},
    columns=("window_norm_sq", "window_update_sq", "angle", "norm_inertial", "angle_inertial", "window_start"),
    figure="fig12",
)
def _n10(e: Evidence) -> Judgement:
    return Judgement([level for _, norm, angle in steady_levels(e.table) for level in (norm, angle)])
