"""Claims G1–G4: generalization against C (arXiv 2411.05746, section 3).

Each seed is judged at the learning rate that is best for the usual pair on the other seeds. The usual pair is a point of both
curves. Where a claim compares the best or the worst point of a curve, the other seeds choose the point and the judged seed
gives its loss. A maximum or minimum over the judged losses would be biased by their noise; these differences are not.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ctadam.analysis.rules import mean_over_seeds
from ctadam.analysis.seeds import means_of_others, spearman
from ctadam.analysis.verdicts import Evidence, Judgement, Level, above, at_most, claim, undecided
from ctadam.storage.tables import sort_rows

#: Curves, with the usual pair as a point of both.
NORMAL, LEVEL = ("normal", "usual"), ("level", "usual")
Array = NDArray[Any]
LOSS = (
    "test loss at the end (mean over the tests in the last fifth of the steps), at the learning rate of the grid that is best "
    "for the usual pair on the other seeds"
)
SHARE = (
    "divided by the range along the normal curve where C > 0, which is the loss of the point worst on the other seeds minus that "
    "of the best; ratio of the two means over seeds with Fieller's 95 % interval"
)
#: Column of `differences` that a claim judges as a share of the range, and the target of that share.
SHARES = {
    "G2": ("usual", at_most(0.1)),
    "G3": ("level", at_most(0.25, contradicted_from=0.5)),
    "G4": ("largest", at_most(0.05)),
}
NOISE = "inconclusive unless the 95 % interval of the range over seeds lies above 0"


def at_chosen_rate(table: pd.DataFrame, curves: tuple[str, ...], rate: str = "usual_rate") -> pd.DataFrame:
    """Return the runs on some curves, one per pair and seed.

    Args:
        table: measurements and predictions of one task.
        curves: names of curves, such as `NORMAL`.
        rate: column with the choice of the learning rate, ``usual_rate`` or ``own_rate``.
    """
    chosen = table[table["curve"].isin(curves) & table[rate].astype(bool)]
    return sort_rows(chosen, ["seed", "curve", "point"])


def points_of(curve: ArrayLike, c: ArrayLike) -> dict[str, Array]:
    """Return the indices of the pairs on each curve that the claims compare.

    Args:
        curve: curve of each pair.
        c: C of each pair.

    Returns:
        dict of int arrays: ``normal`` curve, its points ``inside`` the region (C > 0), the one with the ``largest`` C, the
        ``level`` curve, and the ``usual`` pair.
    """
    normal, level = (np.flatnonzero(np.isin(curve, curves)) for curves in (NORMAL, LEVEL))
    coefficients = np.asarray(c)
    inside = normal[coefficients[normal] > 0]
    largest = inside[[coefficients[inside].argmax()]]
    usual = np.intersect1d(normal, level)
    return {"normal": normal, "inside": inside, "largest": largest, "level": level, "usual": usual}


def compare(own: Array, others: Array, points: Mapping[str, Array]) -> dict[str, float]:
    """Return the differences between a seed's test losses that the claims compare.

    Args:
        own: the seed's losses, one per pair.
        others: mean losses of the other seeds, which choose the best and the worst point of a curve.
        points: from `points_of`.

    Returns:
        dict of differences in nats:

        - ``range``: worst minus best point of the normal curve where C > 0;
        - ``usual``: usual pair minus best point of the normal curve;
        - ``level``: worst minus best point of the level curve;
        - ``largest``: point with the largest C minus best point of the normal curve where C > 0.
    """
    best, worst = (
        {name: float(own[of[choose(others[of])]]) for name, of in points.items()} for choose in (np.argmin, np.argmax)
    )
    return {
        "range": worst["inside"] - best["inside"],
        "usual": best["usual"] - best["normal"],
        "level": worst["level"] - best["level"],
        "largest": best["largest"] - best["inside"],
    }


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of `compare`, one row per seed, each at the learning rate chosen for its seed.

    Args:
        table: measurements and predictions of one task.
    """
    c = table.groupby(["curve", "point"])["C"].first()
    points = points_of(c.index.get_level_values("curve"), c)
    losses = table.pivot(index=["curve", "point"], columns=["lr", "seed"], values="loss_end").fillna(np.inf)
    chosen = at_chosen_rate(table, ("usual",))
    means = {lr: means_of_others(losses[lr]) for lr in chosen["lr"].unique()}
    return pd.DataFrame(
        [
            compare(losses[lr, seed].to_numpy(), means[lr][seed].to_numpy(), points)
            for seed, lr in zip(chosen["seed"], chosen["lr"], strict=True)
        ],
        index=chosen["seed"].to_numpy(),
    )


def share(numerators: pd.Series, ranges: pd.Series, name: str = "", *, lost: int = 0) -> Level:
    """Return a level whose statistic is the mean of ``numerators`` over the mean of ``ranges``, with Fieller's 95 % interval.

    The interval is exact for the ratio of two correlated normal means.

    Args:
        numerators: one number per seed.
        ranges: one number per seed.
        name: see `ctadam.analysis.verdicts.Level`.
        lost: see `ctadam.analysis.verdicts.Level`.

    Returns:
        Level that is undecided with too few seeds, or if the mean of ``ranges`` is not distinguishable from 0, because the
        interval of a ratio is finite only if that of its denominator lies above 0.
    """
    size = mean_over_seeds(ranges, name, lost=lost)
    if size.undecided or size.low <= 0:
        why = size.undecided or "the range along the normal curve is not distinguishable from 0"
        return undecided(why, name, lost=lost)
    n, a, b = size.n, float(numerators.mean()), size.estimate
    square = float(stats.t.ppf(0.975, n - 1)) ** 2
    (var_a, cov), (_, var_b) = np.cov(numerators, ranges) / n
    # The ends x of the interval solve (a − xb)² = t² · variance of (a − xb).
    quadratic, linear = b**2 - square * var_b, a * b - square * cov
    root = math.sqrt(max(0.0, linear**2 - quadratic * (a**2 - square * var_a)))
    return Level(a / b, float(linear - root) / quadratic, float(linear + root) / quadratic, name, n=n, lost=lost)


def share_of_range(table: pd.DataFrame, numerator: str, name: str = "") -> Level:
    """Return the level of one of the `differences` as a share of the range along the normal curve where C > 0; see `share`.

    Args:
        table: measurements and predictions of one task.
        numerator: column of `differences`.
        name: name of the level.

    Returns:
        Level that is also undecided if a judged loss where C > 0 is not finite. Runs outside the region that are not finite count
        as lost.
    """
    rates = table["lr"].isin(table.loc[table["usual_rate"].astype(bool), "lr"])
    judged = table[rates & table["curve"].isin((*NORMAL, *(LEVEL if numerator == "level" else ())))]
    bad = ~np.isfinite(judged["loss_end"])
    lost = int(bad.sum())
    if (bad & (judged["C"] > 0)).any():
        return undecided("a loss where C > 0 is not finite", name, lost=lost)
    values = differences(table)
    return share(values[numerator], values["range"], name, lost=lost)


def correlation(runs: pd.DataFrame, name: str = "", loss: str = "loss_end") -> Level:
    """Return the level of Spearman's correlation of C with minus the loss, per seed.

    Args:
        runs: runs at one learning rate per pair and seed. A loss that is not finite ranks last, but its run counts as lost.
        name: name of the level.
        loss: column of the loss.
    """
    lost = int((~np.isfinite(runs[loss])).sum())
    ranked = runs.assign(**{loss: runs[loss].fillna(np.inf)})
    return mean_over_seeds(-spearman(ranked, "C", loss), name, lost=lost, bounds=(-1, 1))


def by_task(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of each task, in the order of the table."""
    return {str(task): rows for task, rows in table.groupby("task", sort=False)}


def _shares(e: Evidence, id: str) -> Judgement:
    """Return the judgement by a share of the range; see `share_of_range`."""
    tasks, (numerator, _) = by_task(e.table), SHARES[id]
    numbers = {}
    for task, table in tasks.items():
        means = differences(table).mean()
        numbers[f"{task}: range along the normal curve where C > 0 (nats)"] = means["range"]
        numbers[f"{task}: difference (nats)"] = means[numerator]
        if numerator == "largest":
            c: Any = table.groupby("curve")["C"].max()
            numbers[f"{task}: largest C minus that of the usual pair (if 0, G4 judges the pair of G2)"] = (
                c[list(NORMAL)].max() - c["usual"]
            )
    return Judgement([share_of_range(table, numerator, task) for task, table in tasks.items()], numbers)


@claim(
    "G1",
    "P",
    "a larger C goes with faster generalization",
    statistic=f"Spearman's correlation of C with minus the {LOSS}, over the points of the normal curve and the usual "
    "pair; mean over seeds with its 95 % interval",
    rule="interval above 0; losses that are not finite rank last",
    target=above(0),
    columns=("loss_end", "usual_rate"),
    form=".2f",
)
def _g1(e: Evidence) -> Judgement:
    levels, numbers = [], {}
    for task, table in by_task(e.table).items():
        runs = at_chosen_rate(table, NORMAL)
        levels.append(correlation(runs, task))
        numbers[f"{task}: smallest chosen learning rate"] = runs["lr"].min()
        numbers[f"{task}: largest chosen learning rate"] = runs["lr"].max()
        others = {
            "after half of the steps": correlation(runs, loss="loss_half"),
            "where C > 0": correlation(runs[runs["C"] > 0]),
            "at each pair's own best learning rate": correlation(at_chosen_rate(table, NORMAL, "own_rate")),
        }
        numbers |= {f"{task}: correlation {name}": level.estimate for name, level in others.items()}
    return Judgement(levels, numbers)


@claim(
    "G2",
    "P",
    "the usual pair is near the best",
    statistic=f"{LOSS}: that of the usual pair, (β, γ) = (0.999, 0.9), minus that of the point best on the other seeds, among "
    f"the points of the normal curve and the usual pair; {SHARE}",
    rule=f"interval at most 0.1; {NOISE}",
    target=SHARES["G2"][1],
    columns=("loss_end", "usual_rate"),
    form=".2f",
)
def _g2(e: Evidence) -> Judgement:
    return _shares(e, "G2")


@claim(
    "G3",
    "P",
    "along a level curve of C the effect is weak",
    statistic=f"{LOSS}: range along the level curve that ends at the usual pair, which is that of the point worst on the other "
    f"seeds minus that of the best; {SHARE}",
    rule=f"interval at most 0.25; contradicted if it lies at 0.5 or above; {NOISE}",
    target=SHARES["G3"][1],
    columns=("loss_end", "usual_rate"),
    form=".2f",
)
def _g3(e: Evidence) -> Judgement:
    return _shares(e, "G3")


@claim(
    "G4",
    "R",
    "inside the region generalization is monotone in C",
    statistic=f"{LOSS}: that of the point with the largest C minus that of the point with C > 0 that is best on the other seeds; "
    f"{SHARE}",
    rule=f"interval at most 0.05; {NOISE}",
    target=SHARES["G4"][1],
    columns=("loss_end", "usual_rate"),
    form=".2f",
)
def _g4(e: Evidence) -> Judgement:
    return _shares(e, "G4")
