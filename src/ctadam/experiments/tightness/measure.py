"""Measure the final update of each run of `ctadam.experiments.tightness.runs`, and its growth rate with several stages."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.optim import prefactor


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    Args:
        runs: the raw table, see `ctadam.experiments.tightness.runs.run`.

    Returns:
        DataFrame, one row per run: ``run``, ``draw``, ``kind`` and ``update``, |u_n| at the run's own step n. The other columns
        are NaN except for the kind ``kadam``:

        - ``k``, ``place``, ``silent``, ``ratio``: as in the raw table;
        - ``rate``: growth rate of the update per step between the steps ``before`` and n, without the last stage's bias
          correction; NaN if the gradients do not stop, or if the update is 0 or not finite.
    """
    table = runs[["run", "draw", "kind", "update", "k", "place", "silent", "ratio"]].copy()
    sizes = runs[["update", "update_before"]].astype(float)
    has_rate = (runs["kind"] == "kadam") & (runs["silent"] >= 0) & ((sizes > 0) & np.isfinite(sizes)).all(axis=1)
    stopped = runs[has_rate]
    pair: dict[str, Any] = {name: stopped[name].to_numpy() for name in ("beta1", "beta2")}
    ends = stopped["step"].to_numpy(), stopped["before"].to_numpy(dtype=np.int64)
    late, early = (
        np.log(stopped[column].to_numpy() / prefactor(**pair, step=n))
        for column, n in zip(("update", "update_before"), ends, strict=True)
    )
    table.loc[has_rate, "rate"] = (late - early) / (ends[0] - ends[1])
    return table
