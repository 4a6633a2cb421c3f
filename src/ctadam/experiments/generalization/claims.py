"""Claims G1-G4: generalization against C (paper, section 3)."""

import numpy as np
from scipy import stats

from ctadam.analysis.rules import by_finite_runs, decide, number, with_interval, worst
from ctadam.analysis.seeds import means_of_others, over_seeds, spearman
from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Outcome, claim
from ctadam.storage.tables import sort_rows

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
    return sort_rows(some.drop_duplicates(["point", "seed", "level"]), ["seed", "point", "level"])


def correlation(some, by="C", loss="loss_end"):
    """Mean over seeds of Spearman's correlation of ``by`` with minus the loss, and its 95 % interval.

    There is no interval if a seed has no correlation, because its losses are all equal or one of them is NaN.
    """
    return over_seeds(-spearman(some, by, loss), within=(-1, 1))


def _tasks(table):
    return list(table["task"].unique())


def _too_few(table):
    seeds = table["seed"].nunique()
    return "" if seeds >= FEWEST_SEEDS else f"{seeds} seed(s); an interval over seeds needs {FEWEST_SEEDS}"


def _by_task(table, function):
    return "; ".join(f"{task}: {function(task)}" for task in _tasks(table))


def _judge(prediction, e, judged, rule):
    """Judge by the runs whose losses can be compared.

    A run that diverged failed to train, which is a finding: its loss is inf, worse than any other. A run without a loss says
    nothing, nor do the runs of a seed that all failed.

    Args:
        prediction: text for the ledger.
        e: `ctadam.analysis.verdicts.Evidence`.
        judged: query for the runs that the claim judges, among those with the fixed learning rate.
        rule: function from the table without the runs that say nothing to an `Outcome`.
    """
    table = e.table.reset_index(drop=True)
    runs = table[table["fixed"].astype(bool)].query(judged)
    trained = np.isfinite(runs["loss_end"])
    seeds = [runs[column] for column in ("task", "level", "seed")]
    lost = runs["loss_end"].isna() | ~trained.groupby(seeds, dropna=False).transform("any")

    def judge(table):
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
def _g1(e):
    def rule(table):
        found = {task: correlation(view(table, task, "normal")) for task in _tasks(table)}

        def others(task):
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


def _usual_rank(table, task, which):
    """Share of the normal curve's points that do better than the usual pair, by seed."""
    points = view(table, task, "normal", which)
    usual = view(table, task, "usual", which).query("point == 0").set_index("seed")["loss_end"]
    # A seed without the usual pair has no share: every comparison would be False, and the pair seem the best.
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
def _g2(e):
    def rule(table):
        found = {task: over_seeds(_usual_rank(table, task, "fixed"), within=(0, 1)) for task in _tasks(table)}

        def others(task):
            tuned = over_seeds(_usual_rank(table, task, "tuned"), within=(0, 1))
            one = view(table, task, "normal").groupby("point").agg(C=("C", "first"), loss=("loss_end", "mean"))
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


def _range(losses):
    """Largest minus smallest, for the ledger; ``none`` if a loss is not finite."""
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
def _g3(e):
    def rule(table):
        verdicts, values, notes = [], [], []
        for task in _tasks(table):
            normal = view(table, task, "normal")
            spread = normal.groupby("point")["loss_end"].mean()
            parts, spreads = [], []
            for level in sorted(table["level"].dropna().unique(), reverse=True):
                some = view(table, task, "level", level=level)
                spreads.append(_range(some.groupby("point")["loss_end"].mean()))
                # Seed by seed, so only the seeds that both curves have.
                seeds = set(some["seed"]) & set(normal["seed"])
                some, same = (runs[runs["seed"].isin(seeds)] for runs in (some, normal))
                whole = np.abs(spearman(same, "C", "loss_end"))
                value, low, high = correlation(some, by="beta2")
                _, below, above = over_seeds(np.abs(spearman(some, "beta2", "loss_end")) - whole)
                # An interval that also holds what it is to be told from says nothing.
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


def _gain(some):
    """By how much the pair that is the best on the other seeds beats the one with the largest C, seed by seed.

    NaN where both have failed, or there is no other seed.
    """
    # A pair without a loss is chosen no more than one that failed.
    losses = some.pivot(index="point", columns="seed", values="loss_end").fillna(np.inf)
    if losses.shape[1] < 2:
        return np.full(losses.shape[1], np.nan)
    largest = some.loc[some["C"].idxmax(), "point"]
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
def _g4(e):
    def rule(table):
        verdicts, values, notes = [], [], []
        for task in _tasks(table):
            one, tuned = (view(table, task, "normal", which).query("C > 0") for which in ("fixed", "tuned"))
            rank, gain = correlation(one), over_seeds(_gain(one))
            verdicts.append(CONTRADICTED if gain[1] > 0 else decide(*rank[1:], lambda x: x > 0))
            if np.isnan(gain[0]):
                verdicts.append(INCONCLUSIVE)
            values.append(f"{task}: correlation {with_interval(*rank, '.2f')}, gain {with_interval(*gain, '.3f')}")
            notes.append(
                f"{task}: {_best(one)}; learning rate tuned: gain {with_interval(*over_seeds(_gain(tuned)), '.3f')}"
            )
        return Outcome("> 0; ≤ 0", "; ".join(values), worst(verdicts), "; ".join(notes))

    return _judge("> 0; ≤ 0", e, "curve == 'normal' and C > 0", rule)


def _best(runs):
    """Which C has the smallest mean loss, and the slope of the loss over C, for the ledger."""
    mean = sort_rows(runs.groupby("point").agg(C=("C", "first"), loss=("loss_end", "mean")), ["C"])
    mean = mean[np.isfinite(mean["loss"])]
    if len(mean) < 2:
        return "fewer than two points that trained"
    down = stats.linregress(mean["C"], mean["loss"]).slope
    return (
        f"best at C = {mean.loc[mean['loss'].idxmin(), 'C']:.3f} of {mean['C'].min():.3f} to "
        f"{mean['C'].max():.3f}, loss changes by {down:.3g} per unit of C"
    )
