"""Growth rates, peaks and what held the largest update, from the runs of `ctadam.experiments.growth.runs`."""

import numpy as np
import pandas as pd

from ctadam.analysis.slopes import slope
from ctadam.storage.tables import sort_rows

# Not a prediction: the bias correction is part of the update's definition, and the claim is about what it multiplies.
from ctadam.theory.stability import prefactor

#: The last part of a run's steps, over which slopes and shares are taken.
WINDOW = 0.4
#: Columns that say which run it is.
KEYS = ["run", "variant", "point", "tokens", "beta1", "beta2", "eps", "state_dtype", "lr", "weight_decay", "seed"]


#: What a slope is called, and what its standard error, degrees of freedom and R² are called after it.
_SLOPES = [
    f"{name}{part}" for name in ("rate", "displacement_rate", "param_rate") for part in ("", "_se", "_df", "_r_squared")
]
#: Measured columns, in their order.
_MEASURED = ["steps", "window_start", *_SLOPES, "held_rate", "held_share", "rare_share", "token_share"]
_MEASURED += ["peak", "peak_step", "peak_unseen", "last_update", "param_max", "test_loss", "diverged_at"]


def _measure_run(steps):
    diverged_at = int(steps["diverged_at"].iloc[0])
    steps = steps[steps["step"] != diverged_at]
    if steps.empty:
        # The columns are there all the same: a table of nothing but such runs can be judged, too.
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
    row = {"steps": len(steps), "window_start": int(n[0])}
    for name, values in series.items():
        fit = slope(n, values)
        row |= {name: fit.pop("slope")} | {f"{name}_{part}": number for part, number in fit.items()}
    # Growth while one row goes on holding the largest update; where another takes over, the maximum jumps.
    held = (last["update_tensor"] == last["update_tensor"].shift()) & (last["update_row"] == last["update_row"].shift())
    row |= {"held_rate": series["rate"].diff()[held].mean(), "held_share": float(held.iloc[1:].mean())}
    peak = steps.loc[steps["update_max"].idxmax()]
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


def measure(runs, keys=KEYS):
    """Measurements per run.

    Args:
        runs: the raw table, see `ctadam.training.train`.
        keys: the columns that say which run it is.

    Returns:
        DataFrame, a row a run: ``keys``, the number of ``steps`` and the first step of the window (the last
        `WINDOW` of the steps), and

        - ``rate``: slope of ln(‖u_n‖_∞ / bias correction) over the window, per step; ``rate_se``, ``rate_df``: its
          standard error and degrees of freedom (`ctadam.analysis.slopes`); ``rate_r_squared``;
        - ``held_rate``: mean growth per step of the same logarithm over those steps of the window at which the row that
          holds the largest update is the same as the step before; ``held_share``: the share of such steps;
        - ``displacement_rate``, ``param_rate`` (and ``_se``, …): the same of ln ‖θ−θ_0‖_∞ and ln ‖θ‖_∞;
        - ``rare_share``: share of the window's steps whose largest update is in the row of a token unseen for at least
          1/(1−β) steps; ``token_share``: in the row of any token;
        - ``peak``, ``peak_step``, ``peak_unseen``: the largest update of the run, when, and how long unseen;
        - ``last_update``, ``param_max``, ``test_loss``: at the end; ``diverged_at``: −1, or the step that was not finite
          (left out of everything above).
    """
    groups = runs.groupby(keys, sort=True, dropna=False)
    rows = [dict(zip(keys, key, strict=True)) | _measure_run(steps) for key, steps in groups]
    return sort_rows(pd.DataFrame(rows), ["run"])
