"""Runs that are not finite are no evidence, through every stage from raw runs to the ledger."""

import numpy as np
import pandas as pd
import pytest

from ctadam import cli
from ctadam.artifact import ledger
from ctadam.experiments import EXPERIMENTS, configure, load
from ctadam.storage.provenance import write_table
from ctadam.storage.store import ROW_KEYS, checked_shards, read_runs

#: Recorded columns that do not depend on the run's course.
CONSTANTS = {"diverged_at", "dimension", "chance_level"}
#: Claims about pairs of betas, which no run decides.
WITHOUT_RUNS = {"S11"}

pytestmark = pytest.mark.filterwarnings("error")


def records(results, experiment, runs):
    """Names of the columns that hold what was recorded, not a parameter of the run or a key of the row."""
    parameters = next(iter(checked_shards(results, experiment).values()))["parameters"]
    given = set(load(experiment).grid(configure(experiment, parameters))) | set(load(experiment, "predict").COLUMNS)
    numbers = runs.select_dtypes("number").columns
    return [name for name in numbers if name not in given | set(ROW_KEYS) | CONSTANTS]


def diverged(results, experiment, left):
    """Raw runs as they are recorded if all of them leave the finite numbers at their first step.

    Args:
        results: directory of one scale.
        experiment: name of the experiment.
        left: what stands where a number should be, NaN or inf.
    """
    runs = read_runs(results, experiment)
    names = records(results, experiment, runs)
    if "diverged_at" in runs and "step" in runs:
        runs = runs.groupby("run").head(1).assign(step=0)
    if "diverged_at" in runs:
        runs["diverged_at"] = 0
    # What is recorded at step 0 where runs do not record their divergence is the start.
    later = runs["step"] > 0 if "step" in runs and "diverged_at" not in runs else pd.Series(True, index=runs.index)
    for name in names:
        runs[name] = runs[name].astype(float).mask(runs[name].notna() & later, left)
    return runs


@pytest.mark.parametrize(
    "experiment, left",
    # The largest values of `quadratic` are running maxima of finite updates: it never records infinity.
    [(name, left) for name in EXPERIMENTS for left in (np.nan, np.inf) if (name, left) != ("quadratic", np.inf)],
)
def test_runs_that_diverged_at_their_first_step_decide_nothing(root, tmp_path, experiment, left):
    results = root / "results/cached/laptop"
    table = diverged(results, experiment, left)
    write_table(table, tmp_path / experiment / "shard-1-of-1.parquet", {"experiment": experiment, "data": {}})
    for stage in ("predict", "measure"):
        assert cli.main([stage, experiment, str(tmp_path)]) == 0
    judged = ledger.judge(tmp_path, [experiment])
    judged = judged[~judged["id"].isin(WITHOUT_RUNS)]
    levels = ledger.levels_of(judged)
    assert len(judged) and not (levels["verdict"] == "reproduced").any()
    assert set(judged["verdict"]) == {"inconclusive"}, levels[levels["verdict"] != "inconclusive"]
