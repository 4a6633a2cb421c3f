"""Measure norms, path lengths, cosines and distances in `ctadam.experiments.scale_invariance.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.storage.tables import sort_rows

#: The norm laws, see `ctadam.theory.scale_invariance`.
LAWS = ("paper", "inertial")
#: Fraction of the steps, at the end of a run, over which steady states are averaged.
WINDOW = 0.4
#: Fraction of the steps, at the end of a run, over which distances are averaged.
LATE = 0.5
#: Columns that identify a run.
KEYS = ["run", "variant", "model", "batching", "beta1", "beta2", "lr", "weight_decay", "seed"]


#: Recorded columns that are summed over the weights.
_SUMMED = ["norm_sq", *(f"law_{law}" for law in LAWS), "coarse_share", "updates_sq", "turned", "turned_paper"]


def _sums(norms: pd.DataFrame) -> pd.DataFrame:
    """Return the sums over all weights, one row per recorded step; NaN where a weight is not finite."""
    values = norms[_SUMMED].astype(float).replace([np.inf, -np.inf], np.nan)
    return values.groupby(norms["step"]).sum(min_count=norms["weight"].nunique())


def _measure_norms(records: pd.DataFrame) -> dict[str, Any]:
    """Return the measurements of a run of variant ``law`` or ``steady``, see `measure`."""
    norms = records[records["record"] == "norm"]
    sums = _sums(norms)
    last = int(sums.index.max())
    start, end = sums.loc[0], sums.loc[last]
    row: dict[str, Any] = {"steps": last, "start_sq": start["norm_sq"], "end_sq": end["norm_sq"]}
    row |= {f"end_{law}": end[f"law_{law}"] for law in LAWS}
    row |= {"coarse_sq": end["coarse_share"], "path": end["turned"], "path_paper": end["turned_paper"]}
    first = int(sums.index[sums.index >= last * (1 - WINDOW)].min())
    window = sums.loc[first:]
    change = (end - sums.loc[first]) / (last - first)
    row |= {
        "window_start": first,
        "window_norm_sq": window["norm_sq"].mean(skipna=False),
        "window_update_sq": change["updates_sq"],
        "angle": change["turned"] / norms["weight"].nunique(),
    }
    cosines = records[(records["record"] == "cosine") & (records["lag"] > 0)].astype({"cosine": float})
    row["cosine"] = float(np.sqrt((cosines["dimension"] * cosines["cosine"] ** 2).mean(skipna=False)))
    return row


def _measure_distances(records: pd.DataFrame) -> dict[str, Any]:
    """Return the measurements of a run of variant ``fixed_norm``, see `measure`."""
    last = int(records["step"].max())
    late = records[records["step"] >= last * (1 - LATE)]
    distances = {
        f"distance_{name}": float(rows["direction_distance"].mean(skipna=False))
        for name, rows in late.groupby("optimizer", sort=False)
    }
    return {"steps": last, **distances}


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    Args:
        runs: the raw table, see `ctadam.experiments.scale_invariance.runs.run`.

    Returns:
        DataFrame, one row per run: `KEYS`, ``steps`` and the measurements of the run's variant, NaN if a record that they use is
        not finite.

        Variants ``law`` and ``steady``, sums over all scale-invariant weights:

        - ``start_sq``, ``end_sq``: ‖W‖² at the start and at the end;
        - ``end_paper``, ``end_inertial``: ‖W‖² at the end by each law;
        - ``coarse_sq``: part of ‖W‖² at the end that comes from ⟨W, g/√v⟩ ≠ 0 (Assumption 2);
        - ``path``, ``path_paper``: path length of Ŵ in radians, measured and by the paper, the sum of η‖u‖/‖W‖;
        - ``window_start``: first step of the last `WINDOW` of the steps;
        - ``window_norm_sq``, ``window_update_sq``: means of ‖W‖² and ‖u‖² in that window;
        - ``angle``: angle per step in radians in that window, mean over weights;
        - ``cosine``: root mean square of √dimension times the cosine of W with past gradients; 1 for random directions. Only
          variant ``law``.

        Variant ``fixed_norm``:

        - ``distance_…``: distance of the direction from AdamW's for each optimizer, mean over the last `LATE` of the steps.
    """
    rows = []
    for key, records in runs.groupby(KEYS, sort=True, dropna=False):
        row = dict(zip(KEYS, key, strict=True))
        work = _measure_distances if row["variant"] == "fixed_norm" else _measure_norms
        rows.append(row | work(records))
    return sort_rows(pd.DataFrame(rows), ["run"])
