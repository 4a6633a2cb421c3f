"""What every claim is made of: its outcome, the evidence it sees, and how an interval becomes a verdict."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from ctadam.store import read_csv, read_runs

REPRODUCED, CONTRADICTED, INCONCLUSIVE = "reproduced", "contradicted", "inconclusive"


@dataclass(frozen=True)
class Outcome:
    """What one claim came to: numbers as text, with the digits that mean something, and a verdict."""

    prediction: str
    value: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Claim:
    id: str
    source: str
    text: str
    statistic: str
    rule: str
    experiment: str
    figure: str
    judge: object


CLAIMS = []


def claim(id, source, text, *, statistic, rule, experiment, figure=""):
    def register(function):
        CLAIMS.append(Claim(id, source, text, statistic, rule, experiment, figure, function))
        return function

    return register


def decide(low, high, good):
    """Verdict for a statistic with an interval: ``good`` says whether a value satisfies the rule."""
    ends = {bool(good(low)), bool(good(high))}
    return INCONCLUSIVE if len(ends) == 2 else REPRODUCED if ends.pop() else CONTRADICTED


def within(deviation, half, tolerance):
    """Verdict for "within ± tolerance", for a deviation known to ± half."""
    if abs(deviation) + half <= tolerance:
        return REPRODUCED
    return CONTRADICTED if abs(deviation) - half > tolerance else INCONCLUSIVE


def worst(verdicts):
    """The verdict of a rule with several parts: contradicted if one is, reproduced only if all are."""
    return next((v for v in (CONTRADICTED, INCONCLUSIVE) if v in verdicts), REPRODUCED)


class Evidence:
    """The tables of one experiment in one results directory, read when first asked for."""

    def __init__(self, results, experiment):
        self.results, self.experiment = results, experiment

    @cached_property
    def runs(self):
        return read_runs(self.results, self.experiment)

    @cached_property
    def table(self):
        """Measurements with the predictions for the same runs beside them."""
        predictions = read_csv(self.results, self.experiment, "predictions")
        measurements = read_csv(self.results, self.experiment, "measurements")
        # Where many runs share a prediction there is one row for all of them.
        keys = ["run"] if "run" in predictions else [c for c in predictions if c in measurements]
        only = [c for c in predictions if c in keys or c not in measurements]
        return measurements.merge(predictions[only], on=keys, validate="many_to_one")


def bootstrap(function, *columns, vectorized=False):
    """95 % BCa interval of a statistic over runs, from 9,999 resamples with a fixed seed.

    ``vectorized``: the function takes an ``axis``, as `numpy.mean`; the same interval, sooner.
    """
    columns = tuple(np.asarray(c, dtype=np.float64) for c in columns)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            columns, function, paired=True, vectorized=vectorized, n_resamples=9999, rng=np.random.default_rng(0)
        )
    low, high = found.confidence_interval
    if not (np.isfinite(low) and np.isfinite(high)):
        # BCa is undefined where all resamples agree, or where the statistic does not exist for some of them.
        finite = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
        low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
    return float(function(*columns)), float(low), float(high)


def with_interval(value, low, high, form=".3g"):
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
