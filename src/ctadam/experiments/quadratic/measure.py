"""Summary of the runs of `ctadam.experiments.quadratic.runs`, one row per setting."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

#: Columns that identify a setting.
KEYS = ["sweep", "lr", "noise", "weight_decay", "minimum"]
#: Size of ‖u_n‖_∞ above which an update counts as large. Adam's updates are meant to be about 1.
LARGE = 10.0


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of each setting.

    If a run of the setting diverged or one of its records is not finite, all measurements of the setting except the counts
    are NaN, because the remaining records do not give the run's largest update.

    Args:
        runs: raw table with one row per run, as returned by `ctadam.experiments.quadratic.runs.run`.

    Returns:
        DataFrame with one row per setting, in the order of the runs. It has `KEYS` and

        - ``runs``, ``diverged``: number of runs, and how many of them diverged;
        - ``update_max``, ``excess_paper``, ``excess_exact``, ``ratio_late``, ``param_max``: maxima of these raw columns over
          the runs;
        - ``large_share``: share of runs whose largest update exceeds `LARGE`.
    """
    measured = ["update_max", "excess_paper", "excess_exact", "ratio_late"]
    finite: Any = np.isfinite(runs[measured])
    good = (runs["diverged_at"] < 0) & finite.all(axis=1)
    measured.append("param_max")
    runs = runs.assign(**runs[measured].astype(np.float64).where(good))

    def of_all(statistic: Callable[[pd.Series], Any]) -> Callable[[pd.Series], float]:
        return lambda values: float(statistic(values)) if values.notna().all() else np.nan

    return runs.groupby(KEYS, sort=False, as_index=False).agg(
        runs=("run", "size"),
        diverged=("diverged_at", lambda s: int((s >= 0).sum())),
        large_share=("update_max", of_all(lambda s: (s > LARGE).mean())),
        **{name: (name, of_all(np.max)) for name in measured},
    )
