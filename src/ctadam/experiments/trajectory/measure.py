"""Error and R² of each equation of `ctadam.experiments.trajectory.runs` against the optimizer, and when it leaves it."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.storage.tables import sort_rows

#: Relative error above which an equation has left the optimizer, and step from which on it is judged: in the first steps the
#: distance travelled, by which the error is divided, is small.
TOLERANCE, START = 0.05, 20
#: Columns that identify a run.
KEYS = ["run", "variant", "model", "order", "kernel", "p", "lr", "weight_decay", "beta1", "beta2", "seed"]


def _measure_run(steps: pd.DataFrame) -> dict[str, Any]:
    """Return the measurements of one run, by column; ``steps`` has its records, one row per step."""
    steps = steps[steps["step"] > 0]
    n, error, variant = steps["step"].to_numpy(), steps["error"].to_numpy(np.float64), steps["variant"].iloc[0]
    late = n >= START
    row: dict[str, Any] = {"steps": int(n[-1])}
    if variant == "discrete":
        sharpness = steps["sharpness"][late].to_numpy(np.float64)
        known = sharpness[np.isfinite(sharpness)]
        return row | {"sharpness_max": steps["lr"].iloc[0] * known.max() if len(known) else np.nan}
    good = np.isfinite(error)
    within = np.flatnonzero(error <= TOLERANCE)
    above_from = within[-1] + 1 if len(within) else 0
    row["diverged_at"] = -1 if good.all() else int(n[~good][0])
    if variant == "relabelled":
        # NaN at one step makes the maximum NaN; skipping it would hide a failed solver.
        return row | {"p_difference_max": float(steps["p_difference"].max(skipna=False))}
    return row | {
        "error_end": error[-1],
        "error_late_max": error[late].max() if late.any() else np.nan,
        "above_from": -1 if above_from == len(n) else int(n[above_from]),
        "solver_error_end": float(steps["solver_error"].iloc[-1]),
        "r2_median": steps["r2_q50"].iloc[-1],
    }


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of each run.

    Args:
        runs: raw table with one row per run and step, as returned by `ctadam.experiments.trajectory.runs.run`.

    Returns:
        DataFrame with one row per run, sorted by run. It has `KEYS`, the number of ``steps``, and for equations

        - ``diverged_at``: first step whose error is not finite, −1 if none;
        - ``error_end``: relative error after the last step;
        - ``error_late_max``: largest relative error from step `START` on, NaN if one is not finite;
        - ``above_from``: first step of the final stretch with errors above `TOLERANCE`, −1 if the last error is not above it;
        - ``solver_error_end``: last entry of the raw column ``solver_error``;
        - ``r2_median``: median over weights of the R² between equation and optimizer along the run.

        Runs in t = n·η^p have instead of the last five

        - ``p_difference_max``: largest entry of the raw column ``p_difference``.

        The optimizer's runs have

        - ``sharpness_max``: largest η times preconditioned sharpness from step `START` on.
    """
    rows = [
        dict(zip(KEYS, key, strict=True)) | _measure_run(steps)
        for key, steps in runs.groupby(KEYS, sort=True, dropna=False)
    ]
    return sort_rows(pd.DataFrame(rows), ["run"])
