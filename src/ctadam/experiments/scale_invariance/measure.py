"""Errors of the norm laws, angles, cosines and distances, from the runs of `ctadam.experiments.scale_invariance.runs`."""

import numpy as np
import pandas as pd

from ctadam.storage.tables import sort_rows

LAWS = ("paper", "unsmoothed", "inertial")
#: The last part of a run's steps, over which the angle per step is taken.
WINDOW = 0.4
#: The last part of a run's steps, over which distances are averaged.
LATE = 0.5
#: Columns that say which run it is.
KEYS = ["run", "variant", "model", "batching", "beta1", "beta2", "lr", "weight_decay", "seed"]


def _largest(values):
    values = np.abs(np.asarray(values, dtype=np.float64))
    return float(values.max()) if np.isfinite(values).all() else np.inf


def _farthest_from_1(values):
    return float(values.iloc[np.abs(values - 1).argmax()]) if np.isfinite(values).all() else np.inf


def _measure_norms(records):
    norms = records[records["record"] == "norm"]
    if not np.isfinite(norms["norm_sq"]).all():
        # Relative to an infinite norm every error would be 0.
        norms = norms.assign(norm_sq=np.nan)
    last = int(norms["step"].max())
    row = {"steps": last}
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


def _measure_pairs(records):
    last = int(records["step"].max())
    row = {"steps": last}
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


def measure(runs):
    """Measurements per run.

    Args:
        runs: the raw table, see `ctadam.experiments.scale_invariance.runs.run`.

    Returns:
        DataFrame, a row a run: `KEYS`, ``steps``, and of the variant ``law``, over all recorded steps and all scale-invariant
        weights:

        - ``error_…``: largest relative difference of a law's ‖W‖² from the measured one, per weight; ``total_error_…``:
          of all weights together; ``memory_error_…``: per weight, without what ⟨W, g/√v⟩ ≠ 0 has added;
        - ``coarse_error``: largest share of ‖W‖² that ⟨W, g/√v⟩ ≠ 0 has added (Assumption 2);
        - ``growth``: ‖W‖² at the end over that at the start, mean over weights;
        - ``turn_ratio``: path of Ŵ over the sum of η‖u‖/‖W‖, of the weight where it is farthest from 1; ``angle``: angle
          per step over the last `WINDOW` of the steps, from ``angle_window_start`` on, mean over weights, in radians;
        - ``gradient_cosine_max``: of W_n and g_n, 0 but for rounding; ``coarse_cosine``: of the update and the one with v
          replaced by one number, mean; ``cosine``, ``chance``: root mean square over past gradients of their cosine with
          W, and of the cosine of W with random directions, times the root of the dimension (1 by chance);

        of the variant ``pair``, for every optimizer of the weights with fixed norm, mean over the last `LATE` of the steps:

        - ``direction_…``, ``function_…``: distances from AdamW; ``loss_…``: test loss less AdamW's, which is ``loss``.

        What is not finite at one of these steps is not finite here: inf for errors and ratios, NaN for means.
    """
    rows = []
    for key, records in runs.groupby(KEYS, sort=True, dropna=False):
        row = dict(zip(KEYS, key, strict=True))
        work = _measure_norms if row["variant"] == "law" else _measure_pairs
        rows.append(row | work(records))
    return sort_rows(pd.DataFrame(rows), ["run"])
