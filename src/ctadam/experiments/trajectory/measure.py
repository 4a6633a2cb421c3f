"""How far each equation of `ctadam.experiments.trajectory.runs` is from the optimizer, and from when on."""

import numpy as np
import pandas as pd

from ctadam.storage.tables import sort_rows

#: Relative error above which an equation counts as having left the optimizer (the tolerance of claims T1 and T2).
TOLERANCE = 0.05
#: The last part of a run's steps, over which sign changes are averaged.
WINDOW = 0.1
#: Columns that say which run it is.
KEYS = ["run", "variant", "model", "order", "kernel", "p", "lr", "weight_decay", "beta1", "beta2", "seed"]


def _measure_run(steps, common_time):
    steps = steps[steps["step"] > 0]
    n, error = steps["step"].to_numpy(), steps["error"].to_numpy()
    row = {"steps": int(n[-1])}
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
        # Not finite at one step is not finite: a maximum of the others would hide it.
        "solver_error_max": steps["solver_error"].max(skipna=False),
        "p_difference_max": steps["p_difference"].max(skipna=False),
    }


def measure(runs):
    """Measurements per run.

    Args:
        runs: the raw table, see `ctadam.experiments.trajectory.runs.run`.

    Returns:
        DataFrame, a row a run: `KEYS`, the number of ``steps``, and for equations

        - ``error_end``, ``error_max``, ``error_max_step``: relative error after the last step, and the largest;
        - ``error_common``: after the step at which n·lr is what the smallest learning rate reaches in its last step;
        - ``above_from``: step from which on the error stays above `TOLERANCE`, −1 if it does not at the end;
        - ``solver_error_end``, ``solver_error_max``, ``p_difference_max``: of those columns of the raw table;
        - ``diverged_at``: −1, or the first step whose error is not finite;

        for the optimizer ``distance_end``, ``loss_end``, and ``sign_changes_end``, the mean over the last `WINDOW`.
    """
    flows = runs[runs["variant"] != "relabelled"]
    last = flows.loc[flows["lr"] == flows["lr"].min(), "step"].max() if len(flows) else 0
    common = flows["lr"].min() * last if len(flows) else 0
    groups = runs.groupby(KEYS, sort=True, dropna=False)
    rows = [dict(zip(KEYS, key, strict=True)) | _measure_run(steps, common) for key, steps in groups]
    return sort_rows(pd.DataFrame(rows), ["run"])
