"""Growth rates, peaks and location of the largest update in the runs of `ctadam.experiments.growth.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.slopes import held, log_update, slope
from ctadam.storage.tables import sort_rows

#: Final fraction of a run's steps over which slopes and held rates are computed.
WINDOW = 0.4
#: Columns that identify a run.
KEYS = ["run", "variant", "point", "tokenization", "beta1", "beta2", "eps", "state_dtype", "lr", "weight_decay", "seed"]

#: Measured columns, in the order of the table.
_MEASURED = ["steps", "window_start", "rate", "rate_r_squared", "held_rate", "held_share"]
_MEASURED += ["displacement_rate", "param_rate", "peak", "test_loss", "diverged_at"]


def _measure_run(steps: pd.DataFrame) -> dict[str, Any]:
    """Return the measurements of one run, by column."""
    diverged_at = int(steps["diverged_at"].iloc[0])
    steps = steps[steps["step"] != diverged_at]
    if steps.empty:
        # Keep all columns, so that the claims can judge a table that contains only such runs.
        return dict.fromkeys(_MEASURED, np.nan) | {"steps": 0, "diverged_at": diverged_at}
    last = steps.iloc[int(len(steps) * (1 - WINDOW)) :]
    n, log_updates, same_row = last["step"].to_numpy(), log_update(last), held(last)
    fit = slope(n, log_updates)
    with np.errstate(divide="ignore"):
        # In float64, because sums in float32 depend on the processor.
        log_displacement, log_param = (np.log(last[name].astype(float)) for name in ("displacement_max", "param_max"))
    tests = steps["test_loss"].dropna()
    return {
        "steps": len(steps),
        "window_start": int(n[0]),
        "rate": fit["slope"],
        "rate_r_squared": fit["r_squared"],
        "held_rate": log_updates.diff()[same_row].median(),
        "held_share": float(same_row.iloc[1:].mean()),
        "displacement_rate": slope(n, log_displacement)["slope"],
        "param_rate": slope(n, log_param)["slope"],
        "peak": float(steps["update_max"].max()),
        "test_loss": float(tests.iloc[-1]) if len(tests) else np.nan,
        "diverged_at": diverged_at,
    }


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of each run.

    The step at which a run diverged is excluded from all of them. The window is the final fraction `WINDOW` of the steps.

    Args:
        runs: raw table with one row per step, as returned by `ctadam.experiments.growth.runs.run`.

    Returns:
        DataFrame with one row per run, sorted by run. It has `KEYS` and

        - ``steps``: number of steps;
        - ``window_start``: first step of the window;
        - ``rate``: slope of ln(‖u_n‖_∞ / bias correction) over the window, per step;
        - ``rate_r_squared``: R² of the fit;
        - ``held_rate``: median growth per step of ln(‖u_n‖_∞ / bias correction) over the steps of the window at which the
          largest update is in the same row as one step before;
        - ``held_share``: share of such steps;
        - ``displacement_rate``, ``param_rate``: slopes of ln ‖θ−θ_0‖_∞ and ln ‖θ‖_∞ over the recorded steps of the window;
        - ``peak``: largest update of the run;
        - ``test_loss``: last recorded test loss, in nats per token;
        - ``diverged_at``: step at which a record was not finite, −1 if none.
    """
    groups = runs.groupby(KEYS, sort=True, dropna=False)
    rows = [dict(zip(KEYS, key, strict=True)) | _measure_run(steps) for key, steps in groups]
    return sort_rows(pd.DataFrame(rows), ["run"])
