"""The update of each run of `ctadam.experiments.tightness.runs`, and how fast it grew through several stages."""

import numpy as np

# Not a prediction: the bias correction is part of the update's definition, and the claim is about what it multiplies.
from ctadam.theory.stability import prefactor


def measure(runs):
    """Measurements per run.

    Args:
        runs: the raw table, see `ctadam.experiments.tightness.runs.run`.

    Returns:
        DataFrame, a row a run: ``run``, ``draw``, ``kind`` and ``update``, |u_n| at the run's own step n; for the kind
        ``stages`` also ``k``, ``place``, ``silent``, ``ratio`` as in the raw table, and ``rate``: growth per step of the update,
        the last stage's bias correction divided out, between the step ``before`` and n, where the gradients had stopped;
        empty where they do not stop, or the update has become 0 or is not finite.
    """
    table = runs[["run", "draw", "kind", "update", "k", "place", "silent", "ratio"]].copy()
    sizes = runs[["update", "update_before"]].astype(float)
    some = (runs["kind"] == "stages") & (runs["silent"] >= 0) & ((sizes > 0) & np.isfinite(sizes)).all(axis=1)
    stopped = runs[some]
    pair = {name: stopped[name].to_numpy() for name in ("beta1", "beta2")}
    ends = stopped["step"].to_numpy(), stopped["before"].to_numpy(dtype=np.int64)
    late, early = (
        np.log(stopped[column].to_numpy() / prefactor(**pair, step=n))
        for column, n in zip(("update", "update_before"), ends, strict=True)
    )
    table.loc[some, "rate"] = (late - early) / (ends[0] - ends[1])
    return table
