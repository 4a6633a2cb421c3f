"""Turn intervals and partly non-finite runs into verdicts, and format numbers for the ledger."""

import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Outcome


def holds(condition: ArrayLike) -> str:
    """Return the verdict of a rule without an interval.

    Args:
        condition: bool, or array of bool.

    Returns:
        ``reproduced`` if every condition is met, else ``contradicted``.
    """
    return REPRODUCED if np.all(condition) else CONTRADICTED


def decide(low: float, high: float, good: Callable[[float], Any]) -> str:
    """Return the verdict for a statistic with an interval.

    Args:
        low: lower end of the interval.
        high: upper end of the interval.
        good: function that tells whether a value satisfies the rule.

    Returns:
        ``reproduced`` if both ends satisfy the rule, ``contradicted`` if neither does. ``inconclusive`` if only one does or an
        end is NaN.
    """
    # Comparisons with NaN are False, which would read as a violated rule.
    if np.isnan(low) or np.isnan(high):
        return INCONCLUSIVE
    ends = {bool(good(low)), bool(good(high))}
    return INCONCLUSIVE if len(ends) == 2 else REPRODUCED if ends.pop() else CONTRADICTED


def within(deviation: float, half: float, tolerance: float) -> str:
    """Return the verdict of the rule |deviation| ≤ tolerance, given the half width of the deviation's interval.

    Args:
        deviation: measured deviation from the prediction.
        half: half width of its interval, in the same unit.
        tolerance: largest deviation that the rule allows, in the same unit.
    """
    if abs(deviation) + half <= tolerance:
        return REPRODUCED
    return CONTRADICTED if abs(deviation) - half > tolerance else INCONCLUSIVE


def worst(verdicts: Collection[str]) -> str:
    """Combine the verdicts of a rule's parts.

    Returns:
        ``contradicted`` if any part is, ``reproduced`` if all parts are, else ``inconclusive``. No parts are ``inconclusive``.
    """
    if not verdicts:
        return INCONCLUSIVE
    return next((v for v in (CONTRADICTED, INCONCLUSIVE) if v in verdicts), REPRODUCED)


def finite(runs: pd.DataFrame, *columns: str) -> pd.Series:
    """Return whether each run stayed finite: it never diverged, and its values in ``columns`` are finite.

    Args:
        runs: DataFrame, one row per run. The column ``diverged_at`` is optional.
        *columns: names of measured columns.

    Returns:
        Series of bool with the index of ``runs``.
    """
    good = pd.Series(np.isfinite(runs[list(columns)].astype(float)).all(axis=1))
    return good & ~(runs["diverged_at"] >= 0) if "diverged_at" in runs else good


def by_finite_runs(
    prediction: str,
    evidence: pd.DataFrame,
    lost: pd.Series,
    rule: Callable[[pd.DataFrame], Outcome],
    *,
    none: str = "no run",
) -> Outcome:
    """Judge a claim by its finite evidence.

    A non-finite run shows neither a small nor a large value. Without finite evidence the verdict is inconclusive. If some runs
    are lost, the remaining ones can contradict the claim but not reproduce it.

    Args:
        prediction: the prediction as text for the ledger.
        evidence: DataFrame that holds only finite evidence.
        lost: Series of bool, one entry per judged run, True where the run is not finite.
        rule: function from ``evidence`` to an `Outcome`.
        none: note for the ledger if there are no runs to judge.

    Returns:
        `Outcome` whose note counts the lost runs.
    """
    count = f"{int(lost.sum()):,} of {len(lost):,} runs not finite" if lost.any() else ""
    if evidence.empty:
        return Outcome(prediction, "", INCONCLUSIVE, count or none)
    outcome = rule(evidence)
    if not count:
        return outcome
    verdict = INCONCLUSIVE if outcome.verdict == REPRODUCED else outcome.verdict
    return replace(outcome, verdict=verdict, note="; ".join(filter(None, (count, outcome.note))))


def most(values: ArrayLike) -> float:
    """Return the maximum, or inf if a value is NaN, because NaN is no evidence of a small value.

    Raises:
        ValueError: if there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    return float("inf") if np.isnan(values).any() else float(values.max())


def bootstrap(function: Callable[..., float], *columns: ArrayLike) -> tuple[float, float, float]:
    """Return a statistic over runs with its 95 % BCa bootstrap interval, from 9,999 resamples with a fixed seed.

    Args:
        function: statistic of the columns, such as ``np.median``.
        *columns: arrays of equal length, one entry per run, resampled together.

    Returns:
        ``(value, low, high)``. The interval is (−inf, inf) with fewer than two runs or a non-finite value. It is the percentile
        interval where BCa is undefined.
    """
    arrays = tuple(np.asarray(c, dtype=np.float64) for c in columns)
    value = float(function(*arrays)) if len(arrays[0]) else np.nan
    # One run has no spread. A statistic that is not finite over all runs has no meaningful resamples.
    if len(arrays[0]) < 2 or not np.isfinite(value):
        return value, -np.inf, np.inf
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            arrays, function, paired=True, vectorized=False, n_resamples=9999, rng=np.random.default_rng(0)
        )
    low, high = result.confidence_interval
    if not (np.isfinite(low) and np.isfinite(high)):
        # BCa is undefined if all resamples agree or the statistic is undefined for some of them.
        resamples = result.bootstrap_distribution[np.isfinite(result.bootstrap_distribution)]
        low, high = np.quantile(resamples, [0.025, 0.975]) if len(resamples) else (np.nan, np.nan)
    return value, float(low), float(high)


def number(value: float, form: str = ".3g") -> str:
    """Format a number for the ledger, or return ``none`` if it is not finite."""
    return f"{value:{form}}" if np.isfinite(value) else "none"


def with_interval(value: float, low: float, high: float, form: str = ".3g") -> str:
    """Format a number and its interval for the ledger.

    Args:
        value: the estimate.
        low: lower end of its interval.
        high: upper end of its interval.
        form: format specification of all three.

    Returns:
        ``value [low, high]``. An infinite or NaN interval becomes ``(no interval)``, a non-finite value without one ``none``.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"{value:{form}} (no interval)" if np.isfinite(value) else "none"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
