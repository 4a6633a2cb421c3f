"""Claim S9: learning rate, noise and weight decay do not move the guarantee."""

import numpy as np
import pandas as pd

from ctadam.analysis.rules import by_finite_runs, finite, holds, number
from ctadam.analysis.verdicts import Evidence, Outcome, claim
from ctadam.storage.provenance import FLOAT_FORMAT
from ctadam.storage.store import read_joined


def _as_written(column: pd.Series) -> pd.Series:
    """Return numbers rounded to the digits of `FLOAT_FORMAT`, so that they match those read from a derived table."""
    return column.map({value: float(FLOAT_FORMAT % value) for value in column.unique()})


@claim(
    "S9",
    "R",
    "learning rate, noise and weight decay do not move the guarantee",
    statistic="runs on a convex quadratic, all over the square of pairs, whose update exceeds its bound at any step: the exact "
    "one, or the paper's where C > 0",
    rule="none, with a relative tolerance of 1e-9",
)
def _s9(e: Evidence) -> Outcome:
    runs = e.runs.assign(**{name: _as_written(e.runs[name]) for name in ("beta1", "beta2")})
    runs = read_joined(e.results, e.experiment, runs)
    measured = ["update_max", "ratio_exact", "ratio_paper"]
    lost = ~finite(runs, *measured)
    counts = pd.Series(np.isfinite(runs[measured]).all(axis=1))
    if "diverged_at" in runs:
        # Finite records of a run that diverged later can still violate the bound.
        counts &= runs["diverged_at"] != 0
    return by_finite_runs("0", runs[counts], lost, _judge_bounds)


def _judge_bounds(runs: pd.DataFrame) -> Outcome:
    """Judge S9 by the runs with finite records."""
    broken = (runs["ratio_exact"] > 1 + 1e-9) | ((runs["C"] > 0) & (runs["ratio_paper"] > 1 + 1e-9))
    outside = runs[runs["C"] < 0]
    large = outside.groupby("sweep", sort=False)["update_max"].agg(lambda u: float((u > 10).mean()))
    by_lr = (runs["sweep"] == "lr").sum()
    note = (
        f"{by_lr:,} runs over learning rates, {len(runs) - by_lr:,} with noise or decay; where C < 0, updates above 10 in "
        + (", ".join(f"{share:.1%} ({str(sweep).replace('_', ' ')})" for sweep, share in large.items()) or "none")
        + f"; there {int((outside['ratio_paper'] > 1 + 1e-9).sum()):,} runs exceed the paper's bound, by a factor of up to "
        f"{number(outside['ratio_paper'].max(), '.4g')}"
    )
    return Outcome("0", f"{int(broken.sum()):,} of {len(runs):,}", holds(~broken), note)
