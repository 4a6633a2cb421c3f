"""Error of each equation of `ctadam.experiments.trajectory.runs` against the optimizer, and when it exceeds 5 %."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.storage.tables import sort_rows

#: Relative error above which an equation no longer tracks the optimizer (the tolerance of claims T1 and T2).
TOLERANCE = 0.05
#: Final fraction of a run's steps over which sign changes are averaged.
WINDOW = 0.1
#: Columns that identify a run.
KEYS = ["run", "variant", "model", "order", "kernel", "p", "lr", "weight_decay", "beta1", "beta2", "seed"]


def _measure_run(steps: pd.DataFrame, common_time: float) -> dict[str, Any]:
    """Return the measurements of one run, by column.

    Args:
        steps: records of the run, one row per step.
        common_time: the n·lr at which ``error_common`` is taken.
    """
    steps = steps[steps["step"] > 0]
    n, error = steps["step"].to_numpy(), steps["error"].to_numpy()
    row: dict[str, Any] = {"steps": int(n[-1])}
    if steps["variant"].iloc[0] == "discrete":
        last = steps["sign_changes"].iloc[int(len(steps) * (1 - WINDOW)) :]
        return row | {
            "distance_end": steps["distance"].iloc[-1],
            "loss_end": steps["loss"].iloc[-1],
            "sign_changes_end": last.mean(),
        }
    good = np.isfinite(error)
    row["diverged_at"] = -1 if good.all() else int(n[~good][0])
    within = np.flatnonzero(error <= TOLERANCE)
    first_above = within[-1] + 1 if len(within) else 0
    at = np.searchsorted(n, round(common_time / steps["lr"].iloc[0]))
    return row | {
        "error_end": error[-1],
        "error_max": error[good].max() if good.any() else np.nan,
        "error_max_step": int(n[good][error[good].argmax()]) if good.any() else -1,
        "error_common": error[at] if at < len(n) else np.nan,
        "above_from": -1 if first_above == len(n) else int(n[first_above]),
        "solver_error_end": steps["solver_error"].iloc[-1],
        # NaN at one step makes the maximum NaN; skipping it would hide a failed solver.
        "solver_error_max": steps["solver_error"].max(skipna=False),
        "p_difference_max": steps["p_difference"].max(skipna=False),
    }


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of each run.

    Args:
        runs: raw table with one row per run and step, as returned by `ctadam.experiments.trajectory.runs.run`.

    Returns:
        DataFrame with one row per run, sorted by run. It has `KEYS`, the number of ``steps``, and for equations

        - ``error_end``: relative error after the last step;
        - ``error_max``, ``error_max_step``: largest relative error and its step;
        - ``error_common``: relative error at the n·lr that the smallest learning rate reaches in its last step;
        - ``above_from``: first step of the final stretch with errors above `TOLERANCE`, −1 if the last error is not above it;
        - ``solver_error_end``: last entry of the raw column ``solver_error``;
        - ``solver_error_max``, ``p_difference_max``: maxima of these raw columns;
        - ``diverged_at``: first step whose error is not finite, −1 if none.

        The optimizer's runs have instead

        - ``distance_end``, ``loss_end``: distance travelled and loss (nats) after the last step;
        - ``sign_changes_end``: mean share of sign changes over the final fraction `WINDOW` of the steps.
    """
    flows = runs[runs["variant"] != "relabelled"]
    last = flows.loc[flows["lr"] == flows["lr"].min(), "step"].max() if len(flows) else 0
    common = flows["lr"].min() * last if len(flows) else 0
    groups = runs.groupby(KEYS, sort=True, dropna=False)
    rows = [dict(zip(KEYS, key, strict=True)) | _measure_run(steps, common) for key, steps in groups]
    return sort_rows(pd.DataFrame(rows), ["run"])
