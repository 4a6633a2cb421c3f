"""Claims G1-G4: generalization against C (paper, section 3)."""

import numpy as np
from scipy import stats

from ctadam.claims.rules import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    Outcome,
    claim,
    decide,
    with_interval,
    worst,
)
from ctadam.measurements.ranks import spearman
from ctadam.measurements.seeds import over_seeds

#: Fewer seeds than these say nothing about what another seed would show.
FEWEST_SEEDS = 3


def view(table, task, curve, which="fixed", level=None):
    """The runs of one task on one curve, with the learning rate that is the same for all (``fixed``) or ``tuned``.

    Args:
        table: measurements and predictions of the experiment.
        task, curve: as in its runs.
        which: ``fixed`` or ``tuned``.
        level: C, on a level curve.
    """
    some = table[(table["task"] == task) & (table["curve"] == curve) & table[which].astype(bool)]
    if level is not None:
        some = some[some["level"] == level]
    # Of learning rates that are equally good for a pair and seed, one.
    return some.drop_duplicates(["point", "seed", "level"]).sort_values(["seed", "point"])


def correlation(some, by="C", loss="loss_end"):
    """Mean over seeds of Spearman's correlation of ``by`` with minus the loss, and its 95 % interval."""
    values = -spearman(some, by, loss)
    values = values[np.isfinite(values)]
    return over_seeds(values, within=(-1, 1)) if len(values) else (np.nan, -np.inf, np.inf)


def _tasks(e):
    return list(e.table["task"].unique())


def _too_few(e):
    seeds = e.table["seed"].nunique()
    return "" if seeds >= FEWEST_SEEDS else f"{seeds} seed(s); an interval over seeds needs {FEWEST_SEEDS}"


def _by_task(e, function):
    return "; ".join(f"{task}: {function(task)}" for task in _tasks(e))


@claim(
    "G1", "P", "a larger C goes with faster generalization",
    statistic="Spearman's correlation of C with −(test loss at the last step) over the points of the normal curve, one "
    "learning rate for all, mean over seeds with its 95 % interval",
    rule="interval above 0 on every task", experiment="generalization", figure="fig3",
)  # fmt: skip
def _g1(e):
    if _too_few(e):
        return Outcome("> 0", "", INCONCLUSIVE, _too_few(e))
    found = {task: correlation(view(e.table, task, "normal")) for task in _tasks(e)}

    def others(task):
        one, tuned = (view(e.table, task, "normal", which) for which in ("fixed", "tuned"))
        parts = {
            "after half of the steps": correlation(one, loss="loss_half"),
            "steps to a fixed loss": correlation(one, loss="steps_to_target"),
            "learning rate tuned": correlation(tuned),
            "tuned, steps to a fixed loss": correlation(tuned, loss="steps_to_target"),
            "tuned, C > 0 only": correlation(tuned[tuned["C"] > 0]),
        }
        return ", ".join(f"{name} {with_interval(*value, '.2f')}" for name, value in parts.items())

    return Outcome(
        "> 0", _by_task(e, lambda task: with_interval(*found[task], ".2f")),
        worst({decide(low, high, lambda x: x > 0) for _, low, high in found.values()}), _by_task(e, others),
    )  # fmt: skip


def _usual_rank(e, task, which):
    """Share of the normal curve's points that do better than the usual pair, by seed."""
    points = view(e.table, task, "normal", which)
    usual = view(e.table, task, "usual", which).query("point == 0").set_index("seed")["loss_end"]
    better = points["loss_end"] < points["seed"].map(usual)
    return better.groupby(points["seed"]).mean().to_numpy()


@claim(
    "G2", "P", "the usual pair is near the best",
    statistic="share of the points of the normal curve whose test loss at the last step is below that of the pair it goes "
    "through, (β, γ) = (0.999, 0.9), one learning rate for all, mean over seeds with its 95 % interval",
    rule="interval at most 1/4 on every task", experiment="generalization", figure="fig3",
)  # fmt: skip
def _g2(e):
    if _too_few(e):
        return Outcome("≤ 0.25", "", INCONCLUSIVE, _too_few(e))
    found = {task: over_seeds(_usual_rank(e, task, "fixed"), within=(0, 1)) for task in _tasks(e)}

    def others(task):
        tuned = over_seeds(_usual_rank(e, task, "tuned"), within=(0, 1))
        one = view(e.table, task, "normal").groupby("point").agg(C=("C", "first"), loss=("loss_end", "mean"))
        usual = view(e.table, task, "usual").query("point == 0")["loss_end"].mean()
        return (
            f"tuned {with_interval(*tuned, '.2f')}; its loss {usual:.3f}, the best point's {one['loss'].min():.3f} at "
            f"C = {one.loc[one['loss'].idxmin(), 'C']:.3f}"
        )

    return Outcome(
        "≤ 0.25", _by_task(e, lambda task: with_interval(*found[task], ".2f")),
        worst({decide(low, high, lambda x: x <= 0.25) for _, low, high in found.values()}), _by_task(e, others),
    )  # fmt: skip


@claim(
    "G3", "P", "along a level curve of C the effect is weak",
    statistic="Spearman's correlation of β with −(test loss at the last step) along each level curve, one learning rate for "
    "all, mean over seeds with its 95 % interval; its size minus that of G1, seed by seed",
    rule="on every task and curve the interval covers 0, and not the size of G1's, or the difference's lies below 0; "
    "contradicted where the difference's lies above 0", experiment="generalization", figure="fig3",
)  # fmt: skip
def _g3(e):
    if _too_few(e):
        return Outcome("0", "", INCONCLUSIVE, _too_few(e))
    verdicts, values, notes = set(), [], []
    for task in _tasks(e):
        normal = view(e.table, task, "normal")
        whole = np.abs(spearman(normal, "C", "loss_end"))
        spread = normal.groupby("point")["loss_end"].mean()
        parts, spreads = [], []
        for level in sorted(e.table["level"].dropna().unique(), reverse=True):
            some = view(e.table, task, "level", level=level)
            value, low, high = correlation(some, by="beta2")
            _, below, above = over_seeds(np.abs(spearman(some, "beta2", "loss_end")) - whole)
            # An interval that also holds what it is to be told from says nothing.
            if (low <= 0 <= high and max(-low, high) < whole.mean()) or above < 0:
                verdicts.add(REPRODUCED)
            else:
                verdicts.add(CONTRADICTED if below > 0 else INCONCLUSIVE)
            parts.append(f"C = {level:g} {with_interval(value, low, high, '.2f')}")
            spreads.append(f"{np.ptp(some.groupby('point')['loss_end'].mean()):.3f}")
        values.append(f"{task}: {', '.join(parts)}")
        notes.append(
            f"{task}: largest minus smallest mean loss along the level curves {', '.join(spreads)}, along the normal curve "
            f"{np.ptp(spread):.3f}, where C > 0 {np.ptp(spread[normal.groupby('point')['C'].first() > 0]):.3f}"
        )
    return Outcome("0", "; ".join(values), worst(verdicts), "; ".join(notes))


def _gain(some):
    """By how much the pair that is the best on the other seeds beats the one with the largest C, seed by seed."""
    losses = some.pivot(index="point", columns="seed", values="loss_end")
    largest = some.loc[some["C"].idxmax(), "point"]
    best = [losses.drop(columns=seed).mean(axis=1).idxmin() for seed in losses]
    return np.array([losses.loc[largest, s] - losses.loc[b, s] for s, b in zip(losses, best, strict=True)])


@claim(
    "G4", "R", "inside the region generalization is monotone in C",
    statistic="over the points with C > 0, one learning rate for all: Spearman's correlation of C with −(test loss at the "
    "last step); by how much the point that is the best on the other seeds beats the one with the largest C",
    rule="contradicted if the interval of the gain lies above 0, or that of the correlation below 0, on a task; reproduced "
    "if that of the correlation lies above 0 on every task", experiment="generalization", figure="fig3",
)  # fmt: skip
def _g4(e):
    if _too_few(e):
        return Outcome("> 0; ≤ 0", "", INCONCLUSIVE, _too_few(e))
    verdicts, values, notes = set(), [], []
    for task in _tasks(e):
        one, tuned = (view(e.table, task, "normal", which).query("C > 0") for which in ("fixed", "tuned"))
        rank, gain = correlation(one), over_seeds(_gain(one))
        verdicts.add(CONTRADICTED if gain[1] > 0 else decide(*rank[1:], lambda x: x > 0))
        values.append(f"{task}: correlation {with_interval(*rank, '.2f')}, gain {with_interval(*gain, '.3f')}")
        mean = one.groupby("point").agg(C=("C", "first"), loss=("loss_end", "mean")).sort_values("C")
        down = stats.linregress(mean["C"], mean["loss"]).slope
        notes.append(
            f"{task}: best at C = {mean.loc[mean['loss'].idxmin(), 'C']:.3f} of {mean['C'].min():.3f} to "
            f"{mean['C'].max():.3f}, loss changes by {down:.3g} per unit of C; learning rate tuned: gain "
            f"{with_interval(*over_seeds(_gain(tuned)), '.3f')}"
        )
    return Outcome("> 0; ≤ 0", "; ".join(values), worst(verdicts), "; ".join(notes))
