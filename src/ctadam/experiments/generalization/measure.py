"""Measure test losses and choose learning rates in the runs of `ctadam.experiments.generalization.runs`."""

from typing import Any

import numpy as np
import pandas as pd

from ctadam.analysis.seeds import means_of_others

#: Columns that identify a pair of betas, and a run.
PAIR = ["task", "curve", "point"]
KEYS = ["run", *PAIR, "beta1", "beta2", "lr", "seed"]
#: Column -> share of the steps after which it takes the test loss.
PARTS = {"loss_half": 0.5, "loss_end": 1.0}
#: Share of those steps, at their end, over which the test loss is averaged. At a constant learning rate, the loss after a single
#: step carries the noise of the last minibatches.
AVERAGED = 0.2


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements, one row per run.

    Args:
        runs: the raw table, see `ctadam.experiments.generalization.runs.run`.

    Returns:
        DataFrame, one row per run: `KEYS`, and

        - ``loss_half``, ``loss_end``: test loss (nats), mean over the tests in the last fifth of half and all of the task's
          steps; inf once the run has diverged or if a loss is NaN, NaN if there is no test;
        - ``usual_rate``: whether ``lr`` is the best learning rate of the usual pair for this seed. It has the smallest mean
          ``loss_end`` over the *other* seeds, so that no run is chosen by its own luck. A single seed decides for itself;
        - ``own_rate``: the same, for the best learning rate of this pair;
        - ``diverged_at``: first step with a record that is not finite, −1 if none.
    """
    length = (runs.groupby("task")["step"].max() + 1).to_dict()
    rows = []
    for _, steps in runs.groupby("run", sort=True):
        row = {key: steps[key].iloc[0] for key in [*KEYS, "diverged_at"]}
        # n + 1 steps are done after step n. A run that diverged may end with a row without a test loss.
        done = steps["step"].to_numpy() + 1
        losses = steps["test_loss"].to_numpy(dtype=np.float64)
        losses = np.where(np.isfinite(losses), losses, np.inf)
        for name, part in PARTS.items():
            end = part * length[row["task"]]
            averaged = losses[(done > (1 - AVERAGED) * end) & (done <= end)]
            diverged = 0 <= row["diverged_at"] < end
            row[name] = np.inf if diverged else averaged.mean() if len(averaged) else np.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    best = _best_rates(table)
    usual = best.xs("usual", level="curve").droplevel("point")
    for name, rates in (("usual_rate", usual), ("own_rate", best)):
        keys = pd.MultiIndex.from_frame(table[list(rates.index.names)])
        table[name] = table["lr"].to_numpy() == rates.reindex(keys).to_numpy()
    return table[[*KEYS, *PARTS, "usual_rate", "own_rate", "diverged_at"]]


def _best_rates(table: pd.DataFrame) -> pd.Series:
    """Return the learning rate with the smallest mean final loss over the other seeds, the smallest of several.

    Returns:
        Series of learning rates, indexed by `PAIR` and ``seed``.
    """
    losses = table.pivot(index=[*PAIR, "lr"], columns="seed", values="loss_end").fillna(np.inf)
    others = means_of_others(losses)
    best = pd.DataFrame({seed: others[seed].groupby(level=PAIR).idxmin() for seed in others})
    rates: Any = best.map(lambda key: key[-1]).rename_axis(columns="seed").stack()
    return rates
