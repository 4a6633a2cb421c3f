"""Claims G1-G4: generalization against C (arXiv 2411.05746, section 3)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ctadam.analysis.rules import by_finite_runs, decide, number, with_interval, worst
from ctadam.analysis.seeds import means_of_others, over_seeds, spearman
from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence, Outcome, claim
from ctadam.storage.tables import sort_rows

#: Number of seeds below which every claim is inconclusive, because an interval over seeds would be meaningless.
FEWEST_SEEDS = 3
#: Mean over seeds and the ends of its 95 % interval.
Interval = tuple[float, float, float]


def view(table: pd.DataFrame, task: str, curve: str, which: str = "fixed", level: float | None = None) -> pd.DataFrame:
    """Return the runs of one task on one curve, with one learning rate per pair and seed.

    Args:
        table: measurements and predictions of the experiment.
        task: ``"text"`` or ``"images"``.
        curve: ``"normal"``, ``"level"`` or ``"usual"``, see `ctadam.experiments.generalization.runs`.
        which: ``"fixed"`` for the learning rate that is the same for all pairs, ``"tuned"`` for the best one per pair.
        level: C of the level curve; all level curves by default.
    """
    some = table[(table["task"] == task) & (table["curve"] == curve) & table[which].astype(bool)]
    if level is not None:
        some = some[some["level"] == level]
    # If several learning rates are equally good for a pair and seed, keep the first.
    return sort_rows(some.drop_duplicates(["point", "seed", "level"]), ["seed", "point", "level"])


def correlation(some: pd.DataFrame, by: str = "C", loss: str = "loss_end") -> Interval:
    """Return Spearman's correlation of a column with minus the loss, as the mean over seeds and its 95 % interval.

    Args:
        some: runs, as `view` returns them.
        by: the column.
        loss: column of the loss, or of another quantity that is better if smaller.

    Returns:
        ``(mean, low, high)``. The mean is NaN and the interval infinite if a seed has no correlation, because its losses are
        all equal or one of them is NaN.
    """
    return over_seeds(-spearman(some, by, loss), within=(-1, 1))


def _tasks(table: pd.DataFrame) -> list[str]:
    return list(table["task"].unique())


def _too_few(table: pd.DataFrame) -> str:
    """Return why the seeds are too few for an interval, or an empty string."""
    seeds = table["seed"].nunique()
    return "" if seeds >= FEWEST_SEEDS else f"{seeds} seed(s); an interval over seeds needs {FEWEST_SEEDS}"


def _by_task(table: pd.DataFrame, function: Callable[[str], str]) -> str:
    """Join the texts that ``function`` returns for each task."""
    return "; ".join(f"{task}: {function(task)}" for task in _tasks(table))


def _judge(prediction: str, e: Evidence, judged: str, rule: Callable[[pd.DataFrame], Outcome]) -> Outcome:
    """Judge a claim by the runs whose losses can be compared.

    Divergence is a result: the loss of such a run is inf, worse than any other. A run without a loss is no evidence, and neither
    are the runs of a seed that all diverged.

    Args:
        prediction: text for the ledger.
        e: the tables of the experiment.
        judged: query for the judged runs, among those with the fixed learning rate.
        rule: function from the table without the lost runs to an `Outcome`.
    """
    table = e.table.reset_index(drop=True)
    runs = table[table["fixed"].astype(bool)].query(judged)
    trained = np.isfinite(runs["loss_end"])
    seeds = [runs[column] for column in ("task", "level", "seed")]
    lost = runs["loss_end"].isna() | ~trained.groupby(seeds, dropna=False).transform("any")

    def judge(table: pd.DataFrame) -> Outcome:
        why = _too_few(table)
        return Outcome(prediction, "", INCONCLUSIVE, why) if why else rule(table)

    left = table.drop(index=runs.index[lost])
    return by_finite_runs(prediction, left if not lost.all() else runs[~lost], lost, judge)


@claim(
    "G1",
    "P",
    "a larger C goes with faster generalization",
    statistic="Spearman's correlation of C with −(test loss at the last step) over the points of the normal curve, one "
    "learning rate for all, mean over seeds with its 95 % interval",
    rule="interval above 0 on every task",
)
def _g1(e: Evidence) -> Outcome:
    def rule(table: pd.DataFrame) -> Outcome:
        found = {task: correlation(view(table, task, "normal")) for task in _tasks(table)}

        def others(task: str) -> str:
            one, tuned = (view(table, task, "normal", which) for which in ("fixed", "tuned"))
            parts = {
                "after half of the steps": correlation(one, loss="loss_half"),
                "steps to a fixed loss": correlation(one, loss="steps_to_target"),
                "learning rate tuned": correlation(tuned),
                "tuned, steps to a fixed loss": correlation(tuned, loss="steps_to_target"),
                "tuned, C > 0 only": correlation(tuned[tuned["C"] > 0]),
            }
            return ", ".join(f"{name} {with_interval(*value, '.2f')}" for name, value in parts.items())

        return Outcome(
            "> 0",
            _by_task(table, lambda task: with_interval(*found[task], ".2f")),
            worst({decide(low, high, lambda x: x > 0) for _, low, high in found.values()}),
            _by_task(table, others),
        )

    return _judge("> 0", e, "curve == 'normal'", rule)


def _usual_rank(table: pd.DataFrame, task: str, which: str) -> np.ndarray:
    """Return the share of points on the normal curve with a smaller final loss than the usual pair, one number per seed."""
    points = view(table, task, "normal", which)
    usual = view(table, task, "usual", which).query("point == 0").set_index("seed")["loss_end"]
    # Without a loss of the usual pair every comparison would be False, and the pair would seem to be the best.
    points = points[points["seed"].isin(usual.dropna().index)]
    better = points["loss_end"] < points["seed"].map(usual)
    return better.groupby(points["seed"]).mean().to_numpy()


@claim(
    "G2",
    "P",
    "the usual pair is near the best",
    statistic="share of the points of the normal curve whose test loss at the last step is below that of the pair it goes "
    "through, (β, γ) = (0.999, 0.9), one learning rate for all, mean over seeds with its 95 % interval",
    rule="interval at most 1/4 on every task",
)
def _g2(e: Evidence) -> Outcome:
    def rule(table: pd.DataFrame) -> Outcome:
        found: dict[str, Interval] = {
            task: over_seeds(_usual_rank(table, task, "fixed"), within=(0, 1)) for task in _tasks(table)
        }

        def others(task: str) -> str:
            tuned: Interval = over_seeds(_usual_rank(table, task, "tuned"), within=(0, 1))
            one: Any = view(table, task, "normal").groupby("point").agg(C=("C", "first"), loss=("loss_end", "mean"))
            usual = view(table, task, "usual").query("point == 0")["loss_end"].mean()
            best = f"{one['loss'].min():.3f} at C = {one.loc[one['loss'].idxmin(), 'C']:.3f}" if len(one) else "none"
            return f"tuned {with_interval(*tuned, '.2f')}; its loss {number(usual, '.3f')}, the best point's {best}"

        return Outcome(
            "≤ 0.25",
            _by_task(table, lambda task: with_interval(*found[task], ".2f")),
            worst({decide(low, high, lambda x: x <= 0.25) for _, low, high in found.values()}),
            _by_task(table, others),
        )

    return _judge("≤ 0.25", e, "curve == 'normal' or (curve == 'usual' and point == 0)", rule)


def _range(losses: pd.Series) -> str:
    """Return the largest minus the smallest loss as text, ``none`` if a loss is not finite."""
    return number(np.ptp(losses) if len(losses) and np.isfinite(losses).all() else np.nan, ".3f")


@claim(
    "G3",
    "P",
    "along a level curve of C the effect is weak",
    statistic="Spearman's correlation of β with −(test loss at the last step) along each level curve, one learning rate for "
    "all, mean over seeds with its 95 % interval; its size minus that of G1, seed by seed",
    rule="on every task and curve the interval covers 0, and not the size of G1's, or the difference's lies below 0; "
    "contradicted where the difference's lies above 0",
)
def _g3(e: Evidence) -> Outcome:
    def rule(table: pd.DataFrame) -> Outcome:
        verdicts, values, notes = [], [], []
        for task in _tasks(table):
            normal = view(table, task, "normal")
            spread = normal.groupby("point")["loss_end"].mean()
            parts, spreads = [], []
            for level in sorted(table["level"].dropna().unique(), reverse=True):
                some = view(table, task, "level", level=level)
                spreads.append(_range(some.groupby("point")["loss_end"].mean()))
                # The difference is taken per seed, so only seeds with both curves count.
                seeds = set(some["seed"]) & set(normal["seed"])
                some, same = (runs[runs["seed"].isin(seeds)] for runs in (some, normal))
                whole = np.abs(spearman(same, "C", "loss_end"))
                value, low, high = correlation(some, by="beta2")
                _, below, above = over_seeds(np.abs(spearman(some, "beta2", "loss_end")) - whole)
                # An interval around 0 that also covers G1's correlation does not distinguish the two.
                if (low <= 0 <= high and max(-low, high) < over_seeds(whole)[0]) or above < 0:
                    verdicts.append(REPRODUCED)
                else:
                    verdicts.append(CONTRADICTED if below > 0 else INCONCLUSIVE)
                parts.append(f"C = {level:g} {with_interval(value, low, high, '.2f')}")
            values.append(f"{task}: {', '.join(parts) or 'none'}")
            notes.append(
                f"{task}: largest minus smallest mean loss along the level curves {', '.join(spreads) or 'none'}, along the "
                f"normal curve {_range(spread)}, where C > 0 {_range(spread[normal.groupby('point')['C'].first() > 0])}"
            )
        return Outcome("0", "; ".join(values), worst(verdicts), "; ".join(notes))

    return _judge("0", e, "curve == 'normal' or curve == 'level'", rule)


def _gain(some: pd.DataFrame) -> np.ndarray:
    """Return the loss at the largest C minus the loss of the pair that is best on the other seeds, one number per seed.

    It is NaN where both pairs diverged, and everywhere if there is only one seed.
    """
    # A pair without a loss must not be chosen, like one that diverged.
    losses: Any = some.pivot(index="point", columns="seed", values="loss_end").fillna(np.inf)
    if losses.shape[1] < 2:
        return np.full(losses.shape[1], np.nan)
    row: Any = some["C"].idxmax()
    largest: Any = some.loc[row, "point"]
    best = means_of_others(losses).idxmin()
    with np.errstate(invalid="ignore"):
        return np.array([losses.loc[largest, s] - losses.loc[b, s] for s, b in zip(losses, best, strict=True)])


@claim(
    "G4",
    "R",
    "inside the region generalization is monotone in C",
    statistic="over the points with C > 0, one learning rate for all: Spearman's correlation of C with −(test loss at the "
    "last step); by how much the point that is the best on the other seeds beats the one with the largest C",
    rule="contradicted if the interval of the gain lies above 0, or that of the correlation below 0, on a task; reproduced "
    "if that of the correlation lies above 0 on every task",
)
def _g4(e: Evidence) -> Outcome:
    def rule(table: pd.DataFrame) -> Outcome:
        verdicts, values, notes = [], [], []
        for task in _tasks(table):
            one, tuned = (view(table, task, "normal", which).query("C > 0") for which in ("fixed", "tuned"))
            rank = correlation(one)
            gain: Interval = over_seeds(_gain(one))
            tuned_gain: Interval = over_seeds(_gain(tuned))
            verdicts.append(CONTRADICTED if gain[1] > 0 else decide(*rank[1:], lambda x: x > 0))
            if np.isnan(gain[0]):
                verdicts.append(INCONCLUSIVE)
            values.append(f"{task}: correlation {with_interval(*rank, '.2f')}, gain {with_interval(*gain, '.3f')}")
            notes.append(f"{task}: {_best(one)}; learning rate tuned: gain {with_interval(*tuned_gain, '.3f')}")
        return Outcome("> 0; ≤ 0", "; ".join(values), worst(verdicts), "; ".join(notes))

    return _judge("> 0; ≤ 0", e, "curve == 'normal' and C > 0", rule)


def _best(runs: pd.DataFrame) -> str:
    """Return as text the C with the smallest mean loss, and the slope of the loss against C."""
    mean: Any = sort_rows(runs.groupby("point").agg(C=("C", "first"), loss=("loss_end", "mean")), ["C"])
    mean = mean[np.isfinite(mean["loss"])]
    if len(mean) < 2:
        return "fewer than two points that trained"
    down = stats.linregress(mean["C"], mean["loss"]).slope
    return (
        f"best at C = {mean.loc[mean['loss'].idxmin(), 'C']:.3f} of {mean['C'].min():.3f} to "
        f"{mean['C'].max():.3f}, loss changes by {down:.3g} per unit of C"
    )
