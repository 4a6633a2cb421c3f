"""Runs that are not finite are no evidence: through every stage from raw runs to the ledger, and claim by claim."""

import re

import numpy as np
import pandas as pd
import pytest
from test_claims import FALLS, baselines, better, capped, generalization, growth, judge, stages, trajectory
from test_scale_invariance_runs import law_table, pair_table

from ctadam import cli
from ctadam.artifact import ledger as claims
from ctadam.artifact.ledger import CONTRADICTED, INCONCLUSIVE, REPRODUCED
from ctadam.experiments import EXPERIMENTS, load
from ctadam.storage.provenance import write_table
from ctadam.storage.store import read_runs
from ctadam.theory import stability

pytestmark = pytest.mark.filterwarnings("error")

IDS = [claim.id for claim in claims.CLAIMS]


def derive(results, tables):
    """Write raw runs, ``{experiment: table}``, and derive what the ledger needs."""
    for experiment, table in tables.items():
        write_table(table, results / experiment / "shard-1-of-1.parquet", {"experiment": experiment})
        assert cli.main(["predict", experiment, str(results)]) == cli.main(["measure", experiment, str(results)]) == 0
    return claims.judge(results, list(tables)).set_index("id")


def diverged(experiment, runs, left):
    """Raw runs as they are recorded if all of them leave the finite numbers at their first step.

    Args:
        experiment: its name.
        runs: raw runs that trained.
        left: what stands where a number should be, NaN or inf.
    """
    if experiment == "quadratic":
        # The records keep what they start with.
        return runs.assign(
            update_max=-1.0, update_step=0, ratio_paper=0.0, ratio_exact=0.0, ratio_late=0.0, param_max=left, loss=np.nan,
            diverged_at=0,
        )  # fmt: skip
    if experiment == "tightness":
        several = runs["kind"] == "stages"
        return runs.assign(update=left, **{name: runs[name].mask(several, left) for name in ("update_before", "ratio")})
    if experiment == "trajectory":
        records = ["error", "solver_error", "p_difference", "distance", "loss"]
        return runs.assign(**{name: runs[name].mask(runs[name].notna() & (runs["step"] > 0), left) for name in records})
    if experiment == "scale_invariance":
        # Steps are recorded to the end; what is measured at step 0 is the start.
        records = runs.columns[runs.columns.get_loc("norm_sq") :].drop(["lag", "dimension", "optimizer"])
        later = runs["step"] > 0
        return runs.assign(**{name: runs[name].mask(runs[name].notna() & later, left) for name in records})
    runs = runs.groupby("run").head(1).assign(step=0, test_loss=np.nan, diverged_at=0)
    runs = runs.assign(**{name: np.nan for name in ("test_score",) if name in runs})
    # Where the parameters overflow the first update itself is ±1.
    runs = runs.assign(update_max=1.0 if np.isinf(left) else np.nan)
    return runs.assign(**{name: left for name in ("param_max", "param_norm", "displacement_max") if name in runs})


#: Of the experiments that take long to measure, so many seeds.
SEEDS = {"scale_invariance": 1, "generalization": 3}


@pytest.fixture(scope="module")
def shipped(root):
    """A function that reads an experiment's laptop runs."""

    def read(experiment):
        runs = read_runs(root / "results/cached/laptop", experiment)
        return runs[runs["seed"] < SEEDS[experiment]] if experiment in SEEDS else runs

    return read


@pytest.fixture(scope="module", params=["nan", "inf"])
def nothing_finite(request, shipped, tmp_path_factory):
    """The ledger of laptop runs that all left the finite numbers at their first step."""
    tables = {name: diverged(name, shipped(name), float(request.param)) for name in EXPERIMENTS}
    return derive(tmp_path_factory.mktemp("nothing_finite"), tables)


@pytest.mark.parametrize("id", IDS)
def test_runs_that_diverged_at_their_first_step_decide_nothing(nothing_finite, id):
    row = nothing_finite.loc[id]
    assert row["verdict"] == INCONCLUSIVE
    lost, judged = re.search(r"([\d,]+) of ([\d,]+) runs not finite", row["note"]).groups()
    assert lost == judged
    assert not re.search(r"\b(nan|inf)\b", row["value"] + row["note"])


def end(runs, run, step):
    """The raw runs with one that left the finite numbers at a step."""
    here = runs["run"] == run
    runs = runs[~here | (runs["step"] <= step)].copy()
    runs.loc[here, "diverged_at"] = step
    runs.loc[here & (runs["step"] == step), ["update_max", "param_max", "train_loss"]] = np.nan
    return runs


@pytest.fixture(scope="module")
def one_lost(shipped, tmp_path_factory):
    """The ledger of laptop runs of which one run of each kind left the finite numbers."""
    tables = {name: shipped(name) for name in ("growth", "practice", "quadratic", "tightness", "trajectory")}
    # Point 0 is the most stable, 63 the least.
    runs = tables["growth"].query("variant == 'curve'").groupby("point")["run"].first()
    tables["growth"] = end(end(tables["growth"], runs[0], 300), runs[63], 0)
    capped = tables["practice"].query("variant == 'epsilon' and state_dtype == 'float64' and eps > 0")["run"].iloc[0]
    tables["practice"] = end(tables["practice"], capped, 100)
    tables["quadratic"].loc[7, ["diverged_at", "update_max", "ratio_paper", "ratio_exact"]] = [0, -1, 0, 0]
    kinds = tables["tightness"].drop_duplicates("kind").index
    tables["tightness"].loc[kinds, ["update", "ratio"]] = np.nan
    flows = tables["trajectory"]
    relabelled, flow = (flows.loc[flows["variant"] == name, "run"].iloc[0] for name in ("relabelled", "flow"))
    last = flows["step"] == flows.groupby("run")["step"].transform("max")
    flows.loc[flows["run"].isin([relabelled, flow]) & last, ["error", "p_difference"]] = np.nan
    return derive(tmp_path_factory.mktemp("one_lost"), tables)


@pytest.mark.parametrize("id", ["S1", "S2", "S3", "S7", "S8", "S9", "S10", "E1", "T3", "T4", "K3"])
def test_a_run_that_is_lost_leaves_a_shipped_claim_open(one_lost, root, id):
    assert (
        claims.read_ledger(root / "results/cached/laptop/claims.csv").set_index("id").loc[id, "verdict"] == REPRODUCED
    )
    assert one_lost.loc[id, "verdict"] == INCONCLUSIVE
    assert re.match(r"[12] of [\d,]+ runs not finite", one_lost.loc[id, "note"])


def bounded():
    """Measurements and raw runs inside the stable region."""
    table = growth().query("C > 0").assign(diverged_at=-1)
    return table, table[["run", "beta1", "beta2"]].merge(pd.DataFrame({"step": [0, 10]}), how="cross").assign(
        update_max=0.5
    )


def precisions():
    """Pairs of runs in bfloat16 and float32 that grow alike, for a hundred seeds."""
    rate = stability.growth_rate(beta1=0.96, beta2=0.88, law="exact")
    full = pd.DataFrame({"seed": range(100), "variant": "epsilon", "precision": "float32", "eps": 0.0, "peak": 1e9})
    full = full.assign(state_dtype="float64", rate=rate, rate_exact=rate, held_rate=rate, steps=1000, test_loss=6.0)
    full["diverged_at"] = -1
    return pd.concat([full.assign(variant="protection", precision="bfloat16"), full], ignore_index=True)


def drawn(kind):
    """Measurements of a hundred draws that attain the bound, or of one through several stages."""
    if kind == "stages":
        table = pd.DataFrame({"kind": kind, "k": 2, "place": [1, 2] * 50, "silent": 10, "step": 1000, "ratio": 1.0})
        rates = np.where(table["place"] == 2, 0.01, 0.0)
        return table.assign(update=1.0, rate_exact=rates, rate=rates)
    table = pd.DataFrame(
        {"kind": np.resize(kind.split(), 100), "C": -0.1, "step": 999, "bound_exact": 2.0, "update": 2.0}
    )
    return table.assign(limit_exact=2.0)


def by_claim(id):
    """Evidence of many runs, as arguments of `judge`, that reproduces a claim."""
    if id == "S1":
        return bounded()
    if id in ("K4", "K5"):
        return baselines(images=(0.9, 0.8, 0.7), text=(-0.4, -0.8, -1.2))
    if id in ("N6", "N7", "N9"):
        return (pair_table([0.2, 0.3], direction_unsmoothed=0.01, direction_inertial=0.01).table,)
    if id.startswith("N"):
        larger = {"memory_error_paper": 0.02, "error_paper": 0.02}
        return (law_table(**larger if id in ("N4", "N8") else {}).table,)
    if id.startswith("G"):
        return (generalization(FALLS),)
    if id.startswith("T"):
        return (trajectory(diverged_at=-1),)
    made = {"E1": capped, "E2": precisions, "S7": lambda: drawn("worst random"), "S8": lambda: drawn("wedge")}
    made |= {"K3": lambda: drawn("stages"), "K1": lambda: stages(better(4)), "K2": lambda: stages(better(4))}
    return (made[id]() if id in made else growth(diverged_at=-1),)


NO_NUMBER = (np.nan, np.inf)


@pytest.mark.parametrize(
    "id, column, values, which",
    [
        ("S1", "diverged_at", (0, 5), "index == 0"),
        ("S2", "rate_r_squared", (np.nan,), "C < -0.01"),
        ("S3", "rate", (np.nan,), "C > 0"),
        ("S3", "diverged_at", (900,), "C > 0"),
        ("S4", "rate", (np.nan,), "C < 0"),
        ("S5", "rate", NO_NUMBER, "C < 0"),
        ("S5", "diverged_at", (900,), "C > 0"),
        ("S6", "param_rate", NO_NUMBER, "point == 58"),
        ("S6", "diverged_at", (0, 3), "point == 63"),
        ("S10", "rare_share", (np.nan,), "C < -0.01"),
        ("E1", "peak", NO_NUMBER, "eps == 0 and state_dtype == 'float64'"),
        ("E1", "peak", NO_NUMBER, "eps > 0 and state_dtype == 'float64'"),
        ("E1", "diverged_at", (0,), "eps == 0 and state_dtype == 'float64'"),
        ("E1", "diverged_at", (900,), "eps == 0 and state_dtype == 'float32'"),
        ("E2", "rate", NO_NUMBER, "precision == 'bfloat16'"),
        ("E2", "diverged_at", (0, 900), "precision == 'float32'"),
        ("S7", "update", NO_NUMBER, "kind == 'worst'"),
        ("S7", "update", NO_NUMBER, "kind == 'random'"),
        ("S8", "update", NO_NUMBER, "kind == 'wedge'"),
        ("K3", "ratio", NO_NUMBER, "place == 1"),
        ("K3", "rate", NO_NUMBER, "place == 2"),
        ("K3", "update", NO_NUMBER, "place == 2"),
        ("T1", "error_end", NO_NUMBER, "weight_decay == 0 and lr == 0.001 and order == 2 and kernel == 'paper'"),
        ("T2", "error_end", NO_NUMBER, "weight_decay == 1 and lr == 0.001 and order == 2 and kernel == 'paper'"),
        ("T3", "p_difference_max", NO_NUMBER, "variant == 'relabelled'"),
        ("T4", "error_end", NO_NUMBER, "weight_decay == 0"),
        ("N1", "memory_error_paper", NO_NUMBER, "index == 0"),
        ("N2", "coarse_error", NO_NUMBER, "index == 0"),
        ("N3", "error_paper", NO_NUMBER, "beta1 == 0"),
        ("N4", "error_paper", NO_NUMBER, "beta1 == 0.9"),
        ("N4", "error_unsmoothed", NO_NUMBER, "beta1 == 0.9"),
        ("N5", "turn_ratio", NO_NUMBER, "index == 0"),
        ("N6", "direction_adam", NO_NUMBER, "index == 0"),
        ("N7", "direction_2adam", NO_NUMBER, "index == 0"),
        ("N8", "memory_error_paper", NO_NUMBER, "beta1 == 0.9"),
        ("N9", "direction_inertial", NO_NUMBER, "index == 0"),
        ("G1", "loss_end", (np.nan,), "fixed and curve == 'normal'"),
        ("G2", "loss_end", (np.nan,), "fixed and curve == 'usual'"),
        ("G3", "loss_end", (np.nan,), "fixed and curve == 'level'"),
        ("G4", "loss_end", (np.nan,), "fixed and curve == 'normal'"),
        ("K1", "accuracy", NO_NUMBER, "k == 1"),
        ("K1", "accuracy", NO_NUMBER, "k == 2"),
        ("K2", "accuracy", NO_NUMBER, "k == 5"),
        ("K4", "value", NO_NUMBER, "task == 'images'"),
        ("K5", "value", NO_NUMBER, "task == 'text' and family == 'AdamW'"),
    ],
)  # fmt: skip
def test_one_run_that_is_not_finite_leaves_a_claim_open(id, column, values, which):
    assert judge(id, *by_claim(id)).verdict == REPRODUCED
    for value in values:
        table, *runs = by_claim(id)
        table = table.astype({column: float})
        table.loc[table.query(which).index[0], column] = value
        outcome = judge(id, table, *runs)
        assert outcome.verdict == INCONCLUSIVE
        assert re.match(r"[1-9][\d,]* of [\d,]+ runs not finite", outcome.note)
        assert not re.search(r"\b(nan|inf)\b", outcome.value)


@pytest.mark.parametrize("id", sorted(set(IDS) - {"S9"}))
def test_no_run_decides_nothing(id):
    table, *runs = by_claim(id) if id != "L1" else bounded()
    outcome = judge(id, table.iloc[:0], *(some.iloc[:0] for some in runs))
    assert outcome.verdict == INCONCLUSIVE and not outcome.value


@pytest.mark.parametrize(
    "id, kept",
    [
        ("S7", "kind == 'worst'"), ("S10", "variant == 'curve'"), ("E1", "eps == 0"), ("E2", "precision == 'bfloat16'"),
        ("T1", "order == 1"), ("T2", "model == 'mlp' and weight_decay == 0"), ("T3", "variant == 'flow'"),
        ("G1", "curve == 'level'"), ("G2", "curve == 'normal'"), ("G3", "curve == 'normal'"), ("G4", "C < 0"),
        ("K1", "k > 1"), ("K1", "norm"), ("K2", "k == 1"), ("K3", "place == 2"), ("K4", "family == 'AdamW'"),
        ("N6", "variant == 'law'"),
    ],
)  # fmt: skip
def test_runs_of_one_kind_decide_nothing_that_needs_another(id, kept):
    table, *runs = by_claim(id)
    assert judge(id, table.query(kept), *runs).verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    "id, lost, contradicts",
    [
        ("S7", {"update": np.nan}, {"update": 3.0}),
        ("T3", {"p_difference_max": np.nan}, {"p_difference_max": 1e-3}),
        ("N2", {"coarse_error": np.inf}, {"coarse_error": 0.5}),
        ("K3", {"ratio": np.nan}, {"ratio": 2.0}),
        # It had left the optimizer for good before it ended.
        ("T1", {}, {"error_end": np.nan, "diverged_at": 90, "above_from": 40}),
    ],
)
def test_finite_evidence_contradicts_beside_lost_runs(id, lost, contradicts):
    (table,) = by_claim(id)
    rows = {"T3": "variant == 'relabelled'", "T1": "model == 'mlp'", "K3": "place == 1"}.get(id, "index < 2")
    first, *rest = table.query(rows).index
    table.loc[first, list(lost)] = list(lost.values())
    table.loc[rest if id != "T1" else [first, *rest], list(contradicts)] = list(contradicts.values())
    assert judge(id, table).verdict == CONTRADICTED


def test_a_bound_that_was_broken_before_a_run_ended_stays_broken():
    table, runs = bounded()
    runs.loc[(runs["run"] == 0) & (runs["step"] == 10), "update_max"] = 1e9
    end = runs[runs["run"] == 0].tail(1).assign(step=11, update_max=np.nan)
    table.loc[table["run"] == 0, "diverged_at"] = 11
    assert judge("S1", table, pd.concat([runs, end])).verdict == CONTRADICTED


def test_a_seed_without_any_finite_loss_leaves_generalization_open():
    for value in NO_NUMBER:
        table = generalization(FALLS)
        table.loc[table["seed"] == 0, ["loss_end", "loss_half", "steps_to_target"]] = value
        for id in ("G1", "G2", "G3", "G4"):
            assert judge(id, table).verdict == INCONCLUSIVE


def test_a_pair_that_fails_to_train_is_the_worst():
    table = generalization(FALLS)
    table.loc[(table["curve"] == "usual") & table["fixed"], "loss_end"] = np.inf
    assert judge("G2", table).verdict == CONTRADICTED
    table = generalization(FALLS)
    table.loc[(table["curve"] == "normal") & (table["C"] < 0), "loss_end"] = np.inf
    assert judge("G1", table).verdict == REPRODUCED


def test_growth_that_ended_late_is_evidence_of_growth():
    table = growth(diverged_at=-1)
    table.loc[table["point"] == 63, "diverged_at"] = 950
    assert judge("S4", table).verdict == REPRODUCED


def test_measurements_do_not_hide_what_is_not_finite(shipped):
    quadratic = shipped("quadratic").head(700)
    quadratic.loc[quadratic["run"] == 7, ["ratio_exact", "diverged_at"]] = [0.0, 3]
    table = load("quadratic", "measure").measure(quadratic)
    assert table["ratio_exact"].isna().sum() == table["diverged"].sum() == 1
    norms = shipped("scale_invariance")
    norms = norms[norms["run"].isin(norms.groupby("variant")["run"].first())]
    for column in ("coarse_share", "direction_distance"):
        norms.loc[norms[norms[column].notna()].index[-1], column] = np.nan
    table = load("scale_invariance", "measure").measure(norms).set_index("variant")
    assert np.isinf(table.loc["law", "coarse_error"])
    assert table.loc["pair"].filter(like="direction_").isna().sum() == 1
    trajectory = shipped("trajectory").query("variant == 'relabelled'")
    trajectory.loc[trajectory.index[5], "p_difference"] = np.nan
    assert load("trajectory", "measure").measure(trajectory)["p_difference_max"].isna().sum() == 1
