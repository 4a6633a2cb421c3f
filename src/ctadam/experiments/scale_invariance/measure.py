"""Measure errors of the norm laws, angles, cosines and distances in `ctadam.experiments.scale_invariance.runs`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ctadam.storage.tables import sort_rows

#: The norm laws, see `ctadam.theory.scale_invariance`.
LAWS = ("paper", "unsmoothed", "inertial")
#: Fraction of the steps, at the end of a run, over which the angle per step is taken.
WINDOW = 0.4
#: Fraction of the steps, at the end of a run, over which distances are averaged.
LATE = 0.5
#: Columns that identify a run.
KEYS = ["run", "variant", "model", "batching", "beta1", "beta2", "lr", "weight_decay", "seed"]


def _largest(values: ArrayLike) -> float:
    """Return the largest absolute value, inf if one is not finite."""
    values = np.abs(np.asarray(values, dtype=np.float64))
    return float(values.max()) if np.isfinite(values).all() else np.inf


def _farthest_from_1(values: pd.Series) -> float:
    """Return the value that is farthest from 1, inf if one is not finite."""
    return float(values.iloc[np.abs(values - 1).argmax()]) if np.isfinite(values).all() else np.inf


def _measure_norms(records: pd.DataFrame) -> dict[str, Any]:
    """Return the measurements of a run of variant ``law``, see `measure`."""
    norms = records[records["record"] == "norm"]
    if not np.isfinite(norms["norm_sq"]).all():
        # Relative errors of an infinite norm would be 0.
        norms = norms.assign(norm_sq=np.nan)
    last = int(norms["step"].max())
    row: dict[str, Any] = {"steps": last}
    together = norms.groupby("step")[["norm_sq", *(f"law_{law}" for law in LAWS)]].sum(
        min_count=norms["weight"].nunique()
    )
    for law in LAWS:
        off = norms[f"law_{law}"] - norms["norm_sq"]
        row[f"error_{law}"] = _largest(off / norms["norm_sq"])
        row[f"total_error_{law}"] = _largest(together[f"law_{law}"] / together["norm_sq"] - 1)
        row[f"memory_error_{law}"] = _largest((off + norms["coarse_share"]) / norms["norm_sq"])
    end = norms[norms["step"] == last].set_index("weight")
    start = norms[norms["step"] == 0].set_index("weight")
    window = norms.loc[norms["step"] >= last * (1 - WINDOW), "step"].min()
    before = norms[norms["step"] == window].set_index("weight")
    turned = (end["turned"] - before["turned"]) / (last - window)
    row |= {
        "coarse_error": _largest(norms["coarse_share"] / norms["norm_sq"]),
        "growth": float((end["norm_sq"] / start["norm_sq"]).mean(skipna=False)),
        "turn_ratio": _farthest_from_1(end["turned"] / end["turned_paper"]),
        "angle": float(turned.mean(skipna=False)),
        "angle_window_start": int(window),
        "gradient_cosine_max": _largest(norms["gradient_cosine"]),
        "coarse_cosine": float(norms["coarse_cosine"].mean(skipna=False)),
    }
    cosines = records[(records["record"] == "cosine") & (records["lag"] > 0)]
    for name, column in (("cosine", "cosine"), ("chance", "random_cosine")):
        row[name] = float(np.sqrt((cosines["dimension"] * cosines[column] ** 2).mean(skipna=False)))
    return row


def _measure_pairs(records: pd.DataFrame) -> dict[str, Any]:
    """Return the measurements of a run of variant ``pair``, see `measure`."""
    last = int(records["step"].max())
    row: dict[str, Any] = {"steps": last}
    late = records[records["step"] >= last * (1 - LATE)]
    free = late[late["optimizer"] == "free"].set_index("step")["loss"]
    row["loss"] = float(free.mean(skipna=False))
    for name, some in late[late["optimizer"] != "free"].groupby("optimizer"):
        some = some.set_index("step")
        row |= {
            f"direction_{name}": float(some["direction_distance"].mean(skipna=False)),
            f"function_{name}": float(some["function_distance"].mean(skipna=False)),
            f"loss_{name}": float((some["loss"] - free).mean(skipna=False)),
        }
    return row


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    Args:
        runs: the raw table, see `ctadam.experiments.scale_invariance.runs.run`.

    Returns:
        DataFrame, one row per run: `KEYS`, ``steps`` and the measurements of the run's variant. Errors and ratios are inf, and
        means are NaN, if a record that they use is not finite.

        Variant ``law``, over all recorded steps and all scale-invariant weights:

        - ``error_…``: largest relative error of a law's ‖W‖², for each weight separately;
        - ``total_error_…``: the same for the sum of ‖W‖² over all weights;
        - ``memory_error_…``: as ``error_…``, without the part of ‖W‖² that comes from ⟨W, g/√v⟩ ≠ 0;
        - ``coarse_error``: largest share of ‖W‖² that comes from ⟨W, g/√v⟩ ≠ 0 (Assumption 2);
        - ``growth``: ‖W‖² at the end over ‖W‖² at the start, mean over weights;
        - ``turn_ratio``: path length of Ŵ over the sum of η‖u‖/‖W‖, for the weight whose ratio is farthest from 1;
        - ``angle``: angle per step in radians over the last `WINDOW` of the steps, mean over weights;
        - ``angle_window_start``: first step of that window;
        - ``gradient_cosine_max``: largest cosine of W_n and g_n, 0 up to rounding;
        - ``coarse_cosine``: mean cosine of the update and the update with v replaced by one number;
        - ``cosine``: root mean square of √dimension times the cosine of W with past gradients;
        - ``chance``: the same with random directions, expected to be 1.

        Variant ``pair``, for every optimizer with fixed norms, mean over the last `LATE` of the steps:

        - ``direction_…``, ``function_…``: distances from AdamW in direction and in function;
        - ``loss``: test loss of AdamW, in nats;
        - ``loss_…``: test loss minus that of AdamW.
    """
    rows = []
    for key, records in runs.groupby(KEYS, sort=True, dropna=False):
        row = dict(zip(KEYS, key, strict=True))
        work = _measure_norms if row["variant"] == "law" else _measure_pairs
        rows.append(row | work(records))
    return sort_rows(pd.DataFrame(rows), ["run"])
