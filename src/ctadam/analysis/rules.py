"""Turn runs, some of which may not be finite, into levels of a claim."""

import warnings
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from ctadam.analysis.seeds import over_seeds
from ctadam.analysis.verdicts import Level, undecided

#: Number of seeds below which an interval over seeds decides nothing.
MIN_SEEDS = 5


def mean_over_seeds(
    values: ArrayLike,
    name: str = "",
    part: str = "",
    *,
    lost: int = 0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Level:
    """Return a level whose statistic is a mean over seeds, with its 95 % interval by Student's t.

    Args:
        values: one number per seed. A seed without a finite number is lost.
        name: see `ctadam.analysis.verdicts.Level`.
        part: see `ctadam.analysis.verdicts.Level`.
        lost: number of further runs that are no evidence.
        bounds: range of possible values, such as (−1, 1) for a correlation.

    Returns:
        Level that is undecided with fewer than `MIN_SEEDS` finite values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    finite_values = numbers[np.isfinite(numbers)]
    lost += len(numbers) - len(finite_values)
    n = len(finite_values)
    why = "" if n >= MIN_SEEDS else f"{n} seed{'s' * (n != 1)}; an interval needs {MIN_SEEDS}" if n else "no finite run"
    mean, low, high = over_seeds(finite_values, within=bounds)
    return Level(mean, low, high, name, part, n=n, lost=lost, undecided=why)


def over_runs(
    function: Callable[..., float], *columns: ArrayLike, name: str = "", part: str = "", lost: int = 0
) -> Level:
    """Return a level whose statistic has a bootstrap interval over runs; see `bootstrap`.

    Args:
        function: statistic of the columns.
        *columns: arrays of equal length, one entry per run.
        name: see `ctadam.analysis.verdicts.Level`.
        part: see `ctadam.analysis.verdicts.Level`.
        lost: number of runs that are no evidence.
    """
    n = len(np.asarray(columns[0]))
    if not n:
        return undecided("no finite run" if lost else "no run", name, part, lost=lost)
    value, low, high = bootstrap(function, *columns)
    return Level(value, low, high, name, part, n=n, lost=lost)


def all_undecided(
    why: str, names: Iterable[str] = ("",), parts: Iterable[str] = ("",), *, lost: int = 0
) -> list[Level]:
    """Return undecided levels, one per name and part, that all have the same reason."""
    parts = list(parts)
    return [undecided(why, name, part, lost=lost) for name in names for part in parts]


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


def max_or_inf(values: ArrayLike) -> float:
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
