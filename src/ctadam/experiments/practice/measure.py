"""Peaks, growth rates and losses of the runs of `ctadam.experiments.practice.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.slopes import held, log_update, slope
from ctadam.storage.tables import sort_rows

#: Final fraction of a run's steps over which held rates are computed.
WINDOW = 0.4
#: Columns that identify a run.
KEYS = ["run", "variant", "point", "beta1", "beta2", "eps", "state_dtype", "lr", "weight_decay", "clip", "precision"]
KEYS += ["seed"]
#: Raw columns that summarize a run.
_SUMMARIES = ["ratio_paper", "ratio_exact", "train_loss_max", "text_passes"]
#: Measured columns, in the order of the table.
_MEASURED = ["steps", "held_rate", "held_share", "unseen_rate", "longest_unseen", "peak", "peak_unseen", "test_loss"]


def _measure_run(steps: pd.DataFrame) -> dict[str, Any]:
    """Return the measurements of one run, by column."""
    first = steps.iloc[0]
    row = {name: first[name] for name in [*_SUMMARIES, "diverged_at"]}
    steps = steps[steps["step"] != first["diverged_at"]]
    if steps.empty:
        # Keep all columns, so that the claims can judge a table that contains only such runs.
        return dict.fromkeys(_MEASURED, np.nan) | {"steps": 0} | row
    update, count = log_update(steps), int(steps["step"].iloc[-1]) + 1
    known = (steps["step"].diff() == 1) & (steps["step"] >= int(count * (1 - WINDOW)))
    same_row = held(steps) & known
    unseen = steps["unseen"] >= 1 / (1 - steps["beta2"])
    at: Any = steps["update_max"].idxmax()
    peak_unseen = steps.loc[at, "unseen"]
    tests = steps["test_loss"].dropna()
    return row | {
        "steps": count,
        "held_rate": update.diff()[same_row].median(),
        "held_share": same_row.sum() / known.sum() if known.any() else np.nan,
        "unseen_rate": slope(steps.loc[unseen, "unseen"], update[unseen])["slope"],
        "longest_unseen": steps["unseen"].max(),
        "peak": steps.loc[at, "update_max"],
        "peak_unseen": peak_unseen if peak_unseen >= 0 else np.nan,
        "test_loss": tests.iloc[-1] if len(tests) else np.nan,
    }


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of each run. The step at which a run diverged is excluded from all of them.

    Args:
        runs: raw table with one row per recorded step, as returned by `ctadam.experiments.practice.runs.run`.

    Returns:
        DataFrame with one row per run, sorted by run. It has `KEYS` and

        - ``steps``: number of steps;
        - ``held_rate``: median one-step growth of ln(‖u_n‖_∞ / bias correction) over the recorded steps of the final fraction
          `WINDOW` at which the largest update is in the same row as one step before;
        - ``held_share``: share of such steps among those with a record one step before;
        - ``unseen_rate``: slope of ln(‖u_n‖_∞ / bias correction) on the number of steps since the token of the largest update
          was last seen, over all recorded steps with at least 1/(1−β) such steps;
        - ``longest_unseen``: largest number of such steps;
        - ``peak``, ``peak_unseen``: largest update of the run, and the number of steps for which its token had been unseen;
          NaN if it is in no token's row;
        - ``test_loss``: last recorded test loss, in nats per token;
        - ``ratio_paper``, ``ratio_exact``, ``train_loss_max``, ``text_passes``: see `ctadam.experiments.practice.runs.run`;
        - ``diverged_at``: step at which a record was not finite, −1 if none.
    """
    groups = runs.groupby(KEYS, sort=True, dropna=False)
    rows = [dict(zip(KEYS, key, strict=True)) | _measure_run(steps) for key, steps in groups]
    return sort_rows(pd.DataFrame(rows)[[*KEYS, *_MEASURED, *_SUMMARIES, "diverged_at"]], ["run"])
