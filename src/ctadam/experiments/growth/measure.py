"""Growth rates, peaks and location of the largest update in the runs of `ctadam.experiments.growth.runs`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.slopes import slope
from ctadam.storage.tables import sort_rows

# Not a prediction: the bias correction is part of the update's definition, and the claims are about the other factor.
from ctadam.theory.stability import prefactor

#: Final fraction of a run's steps over which slopes and shares are computed.
WINDOW = 0.4
#: Columns that identify a run.
KEYS = ["run", "variant", "point", "tokens", "beta1", "beta2", "eps", "state_dtype", "lr", "weight_decay", "seed"]

#: Columns of each slope: the slope itself, its standard error, degrees of freedom and R².
_SLOPES = [
    f"{name}{part}" for name in ("rate", "displacement_rate", "param_rate") for part in ("", "_se", "_df", "_r_squared")
]
#: Measured columns, in the order of the table.
_MEASURED = ["steps", "window_start", *_SLOPES, "held_rate", "held_share", "rare_share", "token_share"]
_MEASURED += ["peak", "peak_step", "peak_unseen", "last_update", "param_max", "test_loss", "diverged_at"]


def _measure_run(steps: pd.DataFrame) -> dict[str, Any]:
    """Return the measurements of one run, by column."""
    diverged_at = int(steps["diverged_at"].iloc[0])
    steps = steps[steps["step"] != diverged_at]
    if steps.empty:
        # Keep all columns, so that the claims can judge a table that contains only such runs.
        return dict.fromkeys(_MEASURED, np.nan) | {"steps": 0, "diverged_at": diverged_at}
    last = steps.iloc[int(len(steps) * (1 - WINDOW)) :]
    n = last["step"].to_numpy()
    pair = {"beta1": steps["beta1"].iloc[0], "beta2": steps["beta2"].iloc[0]}
    with np.errstate(divide="ignore"):
        series = {
            "rate": np.log(last["update_max"]) - np.log(prefactor(**pair, step=n)),
            "displacement_rate": np.log(last["displacement_max"]),
            "param_rate": np.log(last["param_max"]),
        }
    row: dict[str, Any] = {"steps": len(steps), "window_start": int(n[0])}
    for name, values in series.items():
        fit = slope(n, values)
        row |= {name: fit.pop("slope")} | {f"{name}_{part}": number for part, number in fit.items()}
    # Restrict to steps at which the largest update stays in the same row. Where another row takes over, the maximum jumps.
    held = (last["update_tensor"] == last["update_tensor"].shift()) & (last["update_row"] == last["update_row"].shift())
    row |= {"held_rate": series["rate"].diff()[held].mean(), "held_share": float(held.iloc[1:].mean())}
    at: Any = steps["update_max"].idxmax()
    peak = steps.loc[at]
    tests = steps["test_loss"].dropna()
    return row | {
        "rare_share": float((last["unseen"] >= 1 / (1 - pair["beta2"])).mean()),
        "token_share": float((last["unseen"] >= 0).mean()),
        "peak": peak["update_max"],
        "peak_step": int(peak["step"]),
        "peak_unseen": int(peak["unseen"]),
        "last_update": steps["update_max"].iloc[-1],
        "param_max": steps["param_max"].iloc[-1],
        "test_loss": tests.iloc[-1] if len(tests) else np.nan,
        "diverged_at": diverged_at,
    }


def measure(runs: pd.DataFrame, keys: Sequence[str] = KEYS) -> pd.DataFrame:
    """Return the measurements of each run.

    The step at which a run diverged is excluded from all of them. The window is the final fraction `WINDOW` of the steps.

    Args:
        runs: raw table with one row per step, as returned by `ctadam.training.train`.
        keys: columns that identify a run; they include ``run``.

    Returns:
        DataFrame with one row per run, sorted by run. It has ``keys`` and

        - ``steps``: number of steps;
        - ``window_start``: first step of the window;
        - ``rate``: slope of ln(‖u_n‖_∞ / bias correction) over the window, per step;
        - ``rate_se``, ``rate_df``, ``rate_r_squared``: its standard error, degrees of freedom and R², see
          `ctadam.analysis.slopes.slope`;
        - ``displacement_rate``, ``param_rate``, each with ``_se``, ``_df`` and ``_r_squared``: slopes of ln ‖θ−θ_0‖_∞ and
          ln ‖θ‖_∞;
        - ``held_rate``: mean growth per step of ln(‖u_n‖_∞ / bias correction) over the steps of the window at which the
          largest update is in the same row as one step before;
        - ``held_share``: share of such steps;
        - ``rare_share``: share of the window's steps whose largest update is in the row of a token unseen for at least
          1/(1−β) steps;
        - ``token_share``: share of the window's steps whose largest update is in the row of any token;
        - ``peak``, ``peak_step``, ``peak_unseen``: largest update of the run, its step, and the number of steps for which its
          token had been unseen;
        - ``last_update``, ``param_max``: ‖u_n‖_∞ of the last step and ‖θ‖_∞ after it;
        - ``test_loss``: last recorded test loss, in nats per token;
        - ``diverged_at``: step at which a record was not finite, −1 if none.
    """
    groups = runs.groupby(list(keys), sort=True, dropna=False)
    rows = [dict(zip(keys, key, strict=True)) | _measure_run(steps) for key, steps in groups]
    return sort_rows(pd.DataFrame(rows), ["run"])
