"""Claims K1, K2, K6 and K7: 2-Adam against Adam by learning rate and network, and larger k (arXiv 2411.05746, k-Adam)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.rules import mean_over_seeds
from ctadam.analysis.seeds import over_seeds
from ctadam.analysis.verdicts import Evidence, Judgement, Level, above, at_least, claim, overlaps, undecided
from ctadam.experiments.k_sweep.measure import pairs, tuned

STRATEGIES = ("inverse-exp", "uniform", "exp", "naive")
#: Learning rates of K1, and the small ones of K6: with steps three times as large, Adam is still at or below 1e-3.
RATES, SMALL_RATES = (1e-4, 3e-4, 6e-4, 1e-3, 3e-3), (1e-4, 3e-4)
#: Names of the networks, by the column ``norm``.
NETWORKS = {False: "without normalization layers", True: "with normalization layers"}
#: Share of the way from chance to no error that Adam must have come before runs are compared.
LEARNT = 0.5
#: Smallest k that the sweep over k must reach.
LARGE_K = 8


def _network(table: pd.DataFrame, norm: bool) -> pd.DataFrame:
    """Return the runs of one network."""
    return table[table["norm"].astype(bool) == norm]


def _too_short(table: pd.DataFrame) -> str:
    """Return why the runs of one network are too short to compare optimizers, or an empty string.

    Adam, at its best learning rate in the table, must have come `LEARNT` of the way from chance to an accuracy of 1. A run that
    diverged counts as chance.
    """
    adam = table[table["k"] == 1]
    if adam.empty:
        return "no run of Adam"
    share = float(
        ((adam["accuracy"] - adam["chance_level"]) / (1 - adam["chance_level"])).groupby(adam["lr"]).mean().max()
    )
    return "" if share >= LEARNT else f"runs too short: Adam has come {share:.0%} of the way from chance to no error"


def _unless(why: str, level: Level) -> Level:
    """Return the level, undecided for the reason ``why`` unless that is empty."""
    return dataclasses.replace(level, undecided=why or level.undecided)


def _mean(runs: pd.DataFrame, column: str, name: str, part: str = "") -> Level:
    """Return a level with the mean of a column over seeds; undecided if there is no run."""
    return mean_over_seeds(runs[column], name, part) if len(runs) else undecided("no run", name, part)


def _judgement(levels: Sequence[Level], numbers: Mapping[str, float]) -> Judgement:
    """Return the judgement without the numbers for which there is no run."""
    return Judgement(levels, {name: value for name, value in numbers.items() if not np.isnan(value)})


@claim(
    "K1",
    "P",
    "2-Adam beats Adam under three of four strategies, at one learning rate",
    statistic="test accuracy of 2-Adam minus that of Adam with the same seed and learning rate, network without normalization "
    "layers, by strategy: mean with 95 % interval over seeds; levels: learning rates 1e-4, 3e-4, 6e-4, 1e-3, 3e-3",
    rule="at least three of four intervals above 0; contradicted if at least two do not reach above 0; inconclusive if Adam at "
    "its best learning rate has not come half of the way from chance to no error",
    target=dict.fromkeys(STRATEGIES, above(0)),
    needed=3,
    columns=("accuracy",),
)
def _k1(e: Evidence) -> Judgement:
    table = _network(e.table, False)
    why, compared = _too_short(table), pairs(table)
    adam = table[table["k"] == 1]
    levels, numbers = [], {}
    for lr in RATES:
        runs = compared[compared["lr"] == lr]
        for strategy in STRATEGIES:
            own = runs[runs["strategy"] == strategy]
            levels.append(_unless(why, _mean(own, "gain", f"lr = {lr:g}", strategy)))
        numbers[f"accuracy of Adam, lr = {lr:g}"] = float(adam.loc[adam["lr"] == lr, "accuracy"].mean())
    # Equal rates are not equal steps.
    for strategy in STRATEGIES:
        ratios = compared.loc[compared["strategy"] == strategy, "rms_ratio"]
        numbers[f"median ratio of update r.m.s. to Adam's, {strategy}"] = float(ratios.median())
    return _judgement(levels, numbers)


@claim(
    "K2",
    "P",
    "larger k degrades gracefully",
    statistic="gain in test accuracy over chance as a share of Adam's mean gain at the same learning rate, by strategy: lowest "
    "mean over all k above 1, with the lowest ends that the 95 % intervals over seeds have; levels: networks",
    rule="≥ 0.5 for at least one strategy; contradicted if every strategy has a k whose interval lies below 0.5; needs k up to 8 "
    "or more; inconclusive if Adam has not come half of the way from chance to no error",
    target=dict.fromkeys(STRATEGIES, at_least(0.5)),
    needed=1,
    columns=("accuracy", "chance_level"),
)
def _k2(e: Evidence) -> Judgement:
    levels, numbers = [], {}
    larger = e.table[e.table["k"] > 2]
    at_one_rate = e.table[e.table["lr"].isin(larger["lr"])]
    for norm, name in NETWORKS.items():
        runs = _network(at_one_rate, norm)
        largest = int(runs["k"].max()) if len(runs) else 0
        why = _too_short(runs) if largest >= LARGE_K else f"no run with k of {LARGE_K} or more"
        adam = runs[runs["k"] == 1]
        chance, known = float(adam["chance_level"].mean()), adam["accuracy"][np.isfinite(adam["accuracy"])]
        way = float(known.mean()) - chance
        for strategy in STRATEGIES:
            own = runs[(runs["strategy"] == strategy) & (runs["k"] > 1)]
            level = _lowest({k: (group["accuracy"] - chance) / way for k, group in own.groupby("k")}, name, strategy)
            level = dataclasses.replace(level, lost=level.lost + len(adam) - len(known))
            levels.append(_unless(why, level))
            numbers[f"accuracy at k = {largest}, {strategy}, {name}"] = float(
                own.loc[own["k"] == largest, "accuracy"].mean()
            )
        numbers[f"accuracy of Adam, {name}"] = float(known.mean())
    return _judgement(levels, numbers)


def _lowest(shares: Mapping[Any, pd.Series], name: str, part: str) -> Level:
    """Return the lowest mean over all k as a level, with the lowest ends of the intervals over seeds.

    The level reproduces a lower limit if all intervals lie above it, and contradicts it if one of them lies below.
    """
    by_k = [mean_over_seeds(values) for values in shares.values()]
    if not by_k:
        return undecided("no run", name, part)
    estimate, low, high = (
        float(np.min([getattr(level, end) for level in by_k])) for end in ("estimate", "low", "high")
    )
    why = next((level.undecided for level in by_k if level.undecided), "")
    lost = sum(level.lost for level in by_k)
    return Level(estimate, low, high, name, part, n=min(level.n for level in by_k), lost=lost, undecided=why)


@claim(
    "K6",
    "D",
    "the gain at small rates is step size",
    statistic="test accuracy of 2-Adam minus that of Adam with the same seed at a learning rate that is raised by the ratio of "
    "their update r.m.s. (over all weights and steps, both at 2-Adam's rate, by seed), network without normalization layers; "
    "Adam's accuracy is interpolated linearly in ln(lr) between the rates it was trained at: mean with 95 % interval over seeds; "
    "levels: learning rates 1e-4, 3e-4 × strategy",
    rule="interval reaches 0 or below: reproduced; above 0: contradicted; inconclusive where the gain at equal rates is not "
    "above 0, so that there is none to explain, where a raised rate lies outside Adam's rates, and where K1 is too short",
    target=overlaps(-np.inf, 0),
    columns=("accuracy", "update_rms"),
)
def _k6(e: Evidence) -> Judgement:
    table = _network(e.table, False)
    short, compared = _too_short(table), pairs(table)
    levels, numbers = [], {}
    for lr in SMALL_RATES:
        for strategy in STRATEGIES:
            runs = compared[(compared["lr"] == lr) & (compared["strategy"] == strategy)]
            name = f"lr = {lr:g}, {strategy}"
            _, low, _ = over_seeds(runs["gain"])
            why = "" if low > 0 else "no gain at equal rates"
            if (runs["rms_ratio"].notna() & runs["raised_gain"].isna()).any():
                why = "a raised rate lies outside those that Adam was trained at"
            levels.append(_unless(short or why, _mean(runs, "raised_gain", name)))
            numbers[f"ratio of update r.m.s., {name}"] = float(runs["rms_ratio"].mean())
            numbers[f"gain at equal rates, {name}"] = float(runs["gain"].mean())
    return _judgement(levels, numbers)


@claim(
    "K7",
    "P",
    "the second stage gains less where layers normalize",
    statistic="gain in test accuracy of 2-Adam over Adam without normalization layers, minus that gain with them, same seed, "
    "each network and optimizer at the learning rate that is best on the other seeds: mean with 95 % interval over seeds; "
    "levels: strategies",
    rule="interval above 0; inconclusive if Adam has not come half of the way from chance to no error, or if the best rate of "
    "either optimizer is the lowest or highest of the grid for most seeds",
    target=above(0),
    columns=("accuracy",),
)
def _k7(e: Evidence) -> Judgement:
    networks = {norm: _network(e.table, norm) for norm in NETWORKS}
    short = next((why for why in map(_too_short, networks.values()) if why), "")
    best = tuned(e.table)
    levels, numbers = [], {}

    def optimizer(norm: bool, k: int, strategy: str) -> pd.DataFrame:
        rows = _network(best, norm)
        return rows[(rows["k"] == k) & (rows["strategy"] == strategy)].set_index("seed")

    for strategy in STRATEGIES:
        gains, at_end = {}, []
        for norm, name in NETWORKS.items():
            adam, second = optimizer(norm, 1, "naive"), optimizer(norm, 2, strategy)
            gains[norm] = second["accuracy"] - adam["accuracy"]
            at_end += [rows["at_end"].mean() > 0.5 for rows in (adam, second)]
            numbers[f"gain {name}, {strategy}"] = float(gains[norm].mean())
        difference = gains[False] - gains[True]
        why = "the best rate is at an end of the grid" if any(at_end) else ""
        level = mean_over_seeds(difference, strategy) if len(difference) else undecided("no run", strategy)
        levels.append(_unless(short or why, level))
    for norm, name in NETWORKS.items():
        numbers[f"accuracy of Adam {name}"] = float(optimizer(norm, 1, "naive")["accuracy"].mean())
    return _judgement(levels, numbers)
