"""Rules that turn intervals, and runs of which some are not finite, into verdicts; and numbers as text for the ledger."""

import warnings
from dataclasses import replace

import numpy as np
from scipy import stats

from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Outcome


def holds(condition):
    """Return the verdict of a rule without an interval: whether a condition, or each of several, is met."""
    return REPRODUCED if np.all(condition) else CONTRADICTED


def decide(low, high, good):
    """Verdict for a statistic with an interval: ``good`` says whether a value satisfies the rule."""
    # A comparison with NaN is False, which is neither good nor bad.
    if np.isnan(low) or np.isnan(high):
        return INCONCLUSIVE
    ends = {bool(good(low)), bool(good(high))}
    return INCONCLUSIVE if len(ends) == 2 else REPRODUCED if ends.pop() else CONTRADICTED


def within(deviation, half, tolerance):
    """Verdict for "within ± tolerance", for a deviation known to ± half."""
    if abs(deviation) + half <= tolerance:
        return REPRODUCED
    return CONTRADICTED if abs(deviation) - half > tolerance else INCONCLUSIVE


def worst(verdicts):
    """The verdict of a rule with several parts: contradicted if one is, reproduced only if all are; open if there is none."""
    if not verdicts:
        return INCONCLUSIVE
    return next((v for v in (CONTRADICTED, INCONCLUSIVE) if v in verdicts), REPRODUCED)


def finite(runs, *columns):
    """Whether each run stayed finite: it never diverged, and its values in ``columns`` are finite.

    Args:
        runs: DataFrame, one row per run; ``diverged_at`` is read where there is such a column.
        *columns: names of measured columns.

    Returns:
        Series of bool.
    """
    good = np.isfinite(runs[list(columns)].astype(float)).all(axis=1)
    return good & ~(runs["diverged_at"] >= 0) if "diverged_at" in runs else good


def by_finite_runs(prediction, evidence, lost, rule, *, none="no run"):
    """Judge a claim by its finite evidence.

    A run that is not finite shows neither that a value was small nor that it was large. Without finite evidence the verdict is
    inconclusive. If some runs are lost, the rest can contradict the claim but not reproduce it.

    Args:
        prediction: text for the ledger.
        evidence: DataFrame that holds only finite evidence.
        lost: Series of bool, one entry per judged run: whether it is not finite.
        rule: function from ``evidence`` to an `Outcome`.
        none: note for the ledger if no run is judged at all.

    Returns:
        `Outcome`; its note says how many of the judged runs were lost.
    """
    count = f"{int(lost.sum()):,} of {len(lost):,} runs not finite" if lost.any() else ""
    if evidence.empty:
        return Outcome(prediction, "", INCONCLUSIVE, count or none)
    outcome = rule(evidence)
    if not count:
        return outcome
    verdict = INCONCLUSIVE if outcome.verdict == REPRODUCED else outcome.verdict
    return replace(outcome, verdict=verdict, note="; ".join(filter(None, (count, outcome.note))))


def most(values):
    """The largest of some values; infinite if one is not a number, which is no evidence that it was small."""
    values = np.asarray(values, dtype=np.float64)
    return float("inf") if np.isnan(values).any() else float(values.max())


def bootstrap(function, *columns):
    """95 % BCa interval of a statistic over runs, from 9,999 resamples with a fixed seed."""
    columns = tuple(np.asarray(c, dtype=np.float64) for c in columns)
    value = float(function(*columns)) if len(columns[0]) else np.nan
    # One value has no spread, and what is not finite for all runs is not made so by leaving some out.
    if len(columns[0]) < 2 or not np.isfinite(value):
        return value, -np.inf, np.inf
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            columns, function, paired=True, vectorized=False, n_resamples=9999, rng=np.random.default_rng(0)
        )
    low, high = found.confidence_interval
    if not (np.isfinite(low) and np.isfinite(high)):
        # BCa is undefined where all resamples agree, or where the statistic does not exist for some of them.
        finite = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
        low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
    return value, float(low), float(high)


def number(value, form=".3g"):
    """A number as text, for the ledger; ``none`` if it is not finite."""
    return f"{value:{form}}" if np.isfinite(value) else "none"


def with_interval(value, low, high, form=".3g"):
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"{value:{form}} (no interval)" if np.isfinite(value) else "none"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
