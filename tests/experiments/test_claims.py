"""Verdicts: each claim's rule against tables made to satisfy it, to break it, and to leave it open."""

import itertools

import numpy as np
import pandas as pd
import pytest

from ctadam import cli
from ctadam.analysis.rules import bootstrap, most
from ctadam.artifact import ledger as claims
from ctadam.artifact.ledger import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence
from ctadam.artifact.report import ledger_text
from ctadam.errors import ArtifactError
from ctadam.experiments import load
from ctadam.storage.provenance import write_derived
from ctadam.theory import stability


class Made(Evidence):
    """Evidence from tables made here instead of read."""

    def __init__(self, table, runs=None):
        self.__dict__.update(table=table, runs=runs)


def growth(slower=0.005, **columns):
    """Measurements of 64 points that agree with the exact law, but for what is given."""
    beta1, beta2 = stability.normal_curve_points(count=64)
    curve = pd.DataFrame(
        {
            "variant": "curve",
            "point": range(64),
            "beta1": beta1,
            "beta2": beta2,
            "tokens": "words",
            "eps": 0.0,
            "state_dtype": "float64",
        }
    )
    few = curve.iloc[-10:].assign(variant="characters", tokens="characters")
    table = pd.concat([curve, few], ignore_index=True)
    pair = {"beta1": table["beta1"], "beta2": table["beta2"]}
    table = table.assign(
        run=range(len(table)), seed=0, lr=1e-3, weight_decay=0.0, steps=1000, window_start=600,
        C=stability.stability_coefficient(**pair), C_exact=stability.stability_coefficient(**pair, law="exact"),
        rate_paper=stability.growth_rate(**pair), rate_exact=stability.growth_rate(**pair, law="exact"),
        rate_se=1e-6, rate_df=50.0, rate_r_squared=0.999, displacement_rate_se=1e-6, displacement_rate_df=50.0,
        param_rate_se=1e-6, param_rate_df=50.0, rare_share=1.0,
    )  # fmt: skip
    table["rate"] = table["rate_exact"] - np.where(table["tokens"] == "characters", slower, 0.0)
    table["held_rate"] = table["displacement_rate"] = table["param_rate"] = table["rate_exact"]
    return table.assign(**{name: value(table) if callable(value) else value for name, value in columns.items()})


def judge(id, table, runs=None):
    (claim,) = (c for c in claims.CLAIMS if c.id == id)
    return claim.judge(Made(table, runs))


NOISE = np.random.default_rng(0).normal(size=74)


@pytest.mark.parametrize(
    "id, change, verdict",
    [
        ("S2", {}, REPRODUCED),
        ("S2", {"rate_r_squared": 0.9}, CONTRADICTED),
        ("S2", {"rate_r_squared": lambda t: np.where(t["point"] % 2, 0.9, 0.999)}, INCONCLUSIVE),
        ("S2", {"window_start": 990}, INCONCLUSIVE),
        ("S3", {}, REPRODUCED),
        ("S3", {"rate": lambda t: NOISE * 0.01}, CONTRADICTED),
        ("S4", {}, REPRODUCED),
        ("S4", {"rate": lambda t: t["rate_exact"] + 1e-3}, CONTRADICTED),
        ("S4", {"rate": lambda t: t["rate_exact"] + 2e-4 * (1 + 0.5 * NOISE)}, INCONCLUSIVE),
        ("S4", {"rate": lambda t: t["rate_paper"] + 1e-6}, CONTRADICTED),  # right to 2e-4 or not, no better than S3's law
        ("S5", {}, REPRODUCED),
        ("S5", {"rate": lambda t: np.where(t["point"] >= 40, 0.01, 0.0)}, CONTRADICTED),
        ("S5", {"rate": lambda t: np.where(t["point"] >= 58, 0.01, 0.0)}, CONTRADICTED),
        ("S5", {"rate": 0.0}, CONTRADICTED),
        ("S5", {"rate_se": lambda t: np.where(t["point"].between(50, 57), 0.01, 1e-6)}, INCONCLUSIVE),
        ("S6", {}, REPRODUCED),
        ("S6", {"param_rate": lambda t: 0.8 * t["rate_exact"]}, CONTRADICTED),
        ("S6", {"param_rate": lambda t: 0.92 * t["rate_exact"], "param_rate_se": 5e-4}, INCONCLUSIVE),
        ("S6", {"window_start": 100}, INCONCLUSIVE),
        ("S10", {}, REPRODUCED),
        ("S10", {"rare_share": 0.5}, CONTRADICTED),
        ("S10", {"slower": -0.005}, CONTRADICTED),
        ("S10", {"slower": 0.0}, CONTRADICTED),
    ],
)  # fmt: skip
def test_rules(id, change, verdict):
    assert judge(id, growth(**change)).verdict == verdict


def capped(**columns):
    """Measurements of one unstable pair with every ε and precision, two seeds, that agree with the prediction."""
    axes = itertools.product((0, 1), ("float32", "float64"), (0.0, 1e-12, 1e-8))
    table = pd.DataFrame([{"seed": seed, "state_dtype": dtype, "eps": eps} for seed, dtype, eps in axes])
    some = table["eps"] > 0
    unseen, cap = stability.epsilon_cap(beta1=0.96, beta2=0.88, eps=table["eps"].where(some, 1.0).to_numpy())
    table = table.assign(variant="epsilon", beta2=0.88, steps=1000, cap=np.where(some, cap, np.nan))
    table["cap_unseen"], table["diverged_at"] = np.where(some, unseen, np.nan), -1
    table["peak"] = np.where(some, 0.05 * cap, np.where(table["state_dtype"] == "float32", 1e6, 1e9))
    table["peak_unseen"] = np.where(some, unseen - 120, 500)  # smaller gradients meet ε sooner, whatever ε
    return table.assign(**{name: value(table) if callable(value) else value for name, value in columns.items()})


def test_what_is_no_number_is_no_evidence():
    """Neither that an update was small nor that a mean lies where the others' does."""
    assert most([1.0, 2.0]) == 2 and most([1.0, np.nan]) == np.inf
    for values in ([1.0], [], [1.0, 2.0, np.nan], [1.0, np.inf]):
        _, low, high = bootstrap(np.mean, values)
        assert (low, high) == (-np.inf, np.inf)
    value, low, high = bootstrap(np.mean, [1.0, 2.0, 3.0])
    assert value == 2 and 1 <= low < 2 < high <= 3
    table = growth()
    table.loc[60, "rate_r_squared"] = np.nan
    assert judge("S2", table).verdict == INCONCLUSIVE
    one = growth().query("variant == 'curve'").iloc[[5, 63]]
    assert judge("S2", one).verdict == judge("S4", one).verdict == INCONCLUSIVE  # one unstable run has no spread
    table.loc[60, ["rate", "rate_se", "window_start"]] = np.nan
    assert judge("S5", table).verdict == REPRODUCED and judge("S6", table).verdict == judge("S6", growth()).verdict


def test_an_infinite_update_inside_the_region_leaves_s1_open():
    """A bound is broken by a finite update above it. An overflow may have other reasons."""
    table = growth().query("variant == 'curve'")
    runs = table[["run", "beta1", "beta2"]].assign(step=10, update_max=0.5)
    assert judge("S1", table, runs).verdict == REPRODUCED
    overflow = runs.assign(update_max=np.where(runs["run"] == 0, np.inf, 0.5))
    assert judge("S1", table, overflow).verdict == INCONCLUSIVE
    assert judge("S1", table, overflow.replace({"update_max": {0.5: 1e9}})).verdict == CONTRADICTED


def test_s9_judges_every_run_whatever_the_grid(tmp_path):
    """Pairs such as (1/7, 2/7) have more digits than a derived table keeps."""
    grid = 7
    words = ["--scale", "smoke", "--device", "cpu", "--out", str(tmp_path), "--set", f"quadratic.grid={grid}"]
    assert cli.main(["run", "quadratic", *words, "--set", "quadratic.steps=20"]) == 0
    assert cli.main(["predict", "quadratic", str(tmp_path)]) == cli.main(["measure", "quadratic", str(tmp_path)]) == 0
    (claim,) = (c for c in claims.CLAIMS if c.id == "S9")
    outcome = claim.judge(Evidence(tmp_path, "quadratic"))
    assert outcome.verdict == REPRODUCED and outcome.value == f"0 of {7 * grid**2:,}"


def early_end(table):
    return np.where((table["eps"] == 0) & (table["state_dtype"] == "float64"), 700, 1000)


@pytest.mark.parametrize(
    "change, verdict",
    [
        ({}, REPRODUCED),
        ({"peak": 1.0}, CONTRADICTED),
        ({"peak": lambda t: np.where(t["eps"] == 0, 1e9, t["peak"])}, CONTRADICTED),  # float32 ends nothing
        ({"peak": lambda t: np.where(t["eps"] == 1e-12, 1.5 * t["peak"], t["peak"])}, CONTRADICTED),
        ({"peak_unseen": 200}, CONTRADICTED),  # capped by something that does not ask for ε
        ({"peak_unseen": lambda t: t["peak_unseen"] + np.where(t["eps"] == 1e-12, 10, 0)}, REPRODUCED),
        ({"steps": 300}, INCONCLUSIVE),
        ({"steps": 807}, INCONCLUSIVE),  # 2^-149 = 0.88^808: float32 may not yet have run out of numbers
        ({"steps": 808}, REPRODUCED),
        ({"eps": 0.0}, INCONCLUSIVE),
        # Without ε a run may leave the finite numbers at any time, and has grown; with one it has shown nothing.
        ({"steps": early_end, "diverged_at": lambda t: np.where(early_end(t) < 1000, 700, -1)}, REPRODUCED),
        ({"diverged_at": lambda t: np.where(t["eps"] > 0, 900, -1)}, INCONCLUSIVE),
        ({"cap": np.nan}, INCONCLUSIVE),
    ],
)
def test_e1_says_where_and_when(change, verdict):
    assert judge("E1", capped(**change)).verdict == verdict


@pytest.mark.parametrize(
    "change, verdict",
    [
        ({}, REPRODUCED),
        ({"rate": 0.0}, CONTRADICTED),
        ({"rate": lambda t: t["rate"] + np.where(t["seed"] == 1, 3e-4, 0)}, CONTRADICTED),
        ({"rate": lambda t: t["rate"] - 1e-4}, REPRODUCED),
        ({"rate": np.nan}, INCONCLUSIVE),
        ({"diverged_at": 900}, INCONCLUSIVE),
        ({"steps": 100}, INCONCLUSIVE),  # e^0.9
        ({"precision": "float32"}, INCONCLUSIVE),
    ],
)
def test_e2_compares_seed_by_seed(change, verdict):
    """Runs in bfloat16 beside the bare ones; those with ε, a float32 state or another change do not enter."""
    rate = stability.growth_rate(beta1=0.96, beta2=0.88, law="exact")
    full = capped(rate=rate, rate_exact=rate, diverged_at=-1, precision="float32", test_loss=6.4)
    full["held_rate"] = rate
    full.loc[(full["eps"] > 0) | (full["state_dtype"] == "float32"), "rate"] = 1.0
    clipped = full[(full["eps"] == 0) & (full["state_dtype"] == "float64")].assign(variant="protection")
    half = clipped.assign(precision="bfloat16")
    half = half.assign(**{name: value(half) if callable(value) else value for name, value in change.items()})
    outcome = judge("E2", pd.concat([full, clipped.assign(rate=1.0, peak=1.0), half]))
    assert outcome.verdict == verdict
    assert verdict != REPRODUCED or (outcome.value.endswith("; 1") and "2 seeds" in outcome.note)


@pytest.mark.parametrize(
    "change, steps, verdict",
    [
        ({}, 10_000, REPRODUCED),
        ({}, 4_000, INCONCLUSIVE),
        ({"rate": lambda t: NOISE * 0.01}, 10_000, CONTRADICTED),
        ({"rate": lambda t: NOISE * 0.01}, 4_000, CONTRADICTED),
        ({"window_start": 990}, 10_000, INCONCLUSIVE),
    ],
)
def test_l1_judges_long_runs_as_s1_to_s4(change, steps, verdict):
    table = growth(**change)
    table = table[table["variant"] == "curve"].assign(
        variant="long", diverged_at=-1, unseen_rate_df=9.0, longest_unseen=300
    )
    table["unseen_rate"], table["train_loss_max"] = table["rate_exact"], np.where(table["C"] > 0, 5.0, 7.0)
    runs = table[["run", "variant", "beta1", "beta2"]].assign(step=steps - 1, update_max=0.5)
    # Runs that are not part of it may break every rule.
    other = runs.assign(run=runs["run"] + 1000, variant="epsilon", update_max=1e9)
    others = table.assign(run=table["run"] + 1000, variant="epsilon", rate=1.0)
    outcome = judge("L1", pd.concat([table, others]), pd.concat([runs, other]))
    assert outcome.verdict == verdict and outcome.note.startswith(f"{steps} steps")
    assert "1.00 to 1.00" in outcome.note and "largest training loss 5 where C > 0, 7 where" in outcome.note


def generalization(loss, seeds=5, noise=1e-3):
    """Two tasks, two learning rates; the loss of a pair is ``loss(C, β, curve)`` and a little noise."""
    rng = np.random.default_rng(0)
    beta1, beta2 = stability.normal_curve_points(count=16)
    parts = [pd.DataFrame({"curve": "normal", "beta1": beta1, "beta2": beta2, "level": np.nan})]
    for level in (0.2, 0.05):
        beta2 = np.linspace(0.9, 0.999, 6)
        beta1 = stability.level_curve(coefficient=level, beta2=beta2)
        parts.append(pd.DataFrame({"curve": "level", "beta1": beta1, "beta2": beta2, "level": level}))
    parts.append(pd.DataFrame({"curve": ["usual"], "beta1": 0.9, "beta2": 0.999, "level": np.nan}))
    pairs = pd.concat([part.assign(point=range(len(part))) for part in parts])
    table = pairs.merge(pd.DataFrame({"seed": range(seeds)}), how="cross")
    table = table.merge(pd.DataFrame({"task": ["text", "images"]}), how="cross")
    table = table.merge(pd.DataFrame({"fixed": [True, False], "lr": [1e-3, 1e-2]}), how="cross")
    table["C"] = stability.stability_coefficient(beta1=table["beta1"], beta2=table["beta2"])
    # What a seed adds to all pairs alike must not matter; the other learning rate is worse for everybody.
    table["loss_end"] = loss(table) + table["seed"] + noise * rng.normal(size=len(table)) + ~table["fixed"]
    table["loss_half"], table["steps_to_target"], table["tuned"] = table["loss_end"], table["loss_end"], table["fixed"]
    return table


FALLS, RISES, FLAT = lambda t: -t["C"], lambda t: t["C"], lambda t: 0 * t["C"]


@pytest.mark.parametrize(
    "id, loss, options, verdict",
    [
        ("G1", FALLS, {}, REPRODUCED),
        ("G1", RISES, {}, CONTRADICTED),
        ("G1", FLAT, {}, INCONCLUSIVE),
        ("G1", lambda t: np.where(t["task"] == "text", t["C"], -t["C"]), {}, CONTRADICTED),
        ("G1", FALLS, {"seeds": 2}, INCONCLUSIVE),
        ("G2", FALLS, {}, REPRODUCED),
        ("G2", RISES, {}, CONTRADICTED),
        ("G2", lambda t: np.where(t["curve"] == "usual", -0.13, -t["C"]), {}, CONTRADICTED),
        ("G3", FALLS, {}, REPRODUCED),
        (
            "G3",
            lambda t: t["beta2"] - t["C"] * 1e-6,
            {"noise": 1e-9},
            INCONCLUSIVE,
        ),  # as strong as along the normal curve
        ("G3", lambda t: np.where(t["curve"] == "level", t["beta2"], 0), {}, CONTRADICTED),
        # An interval so wide that it holds everything, and no interval at all, are no sign of a weak effect.
        ("G3", lambda t: np.where(t["curve"] == "level", 0, -t["C"]), {"seeds": 3}, INCONCLUSIVE),
        ("G3", lambda t: np.where(t["curve"] == "level", np.inf, -t["C"]), {}, INCONCLUSIVE),
        ("G4", FALLS, {}, REPRODUCED),
        ("G4", lambda t: np.abs(t["C"] - 0.15), {}, CONTRADICTED),
        ("G4", RISES, {}, CONTRADICTED),
        ("G4", FLAT, {}, INCONCLUSIVE),
    ],
)
def test_rules_of_generalization(id, loss, options, verdict):
    assert judge(id, generalization(loss, **options)).verdict == verdict


@pytest.mark.parametrize("factor, verdict", [(1.0, REPRODUCED), (1 + 5e-10, REPRODUCED), (1 + 1e-8, CONTRADICTED)])
@pytest.mark.parametrize("law", ["paper", "exact"])
def test_s1_allows_no_update_above_its_bound(law, factor, verdict):
    table = growth()
    runs = table[["run", "beta1", "beta2"]].merge(pd.DataFrame({"step": range(5)}), how="cross")
    bound = {x: stability.update_bound(**runs[["beta1", "beta2", "step"]], law=x) for x in ("paper", "exact")}
    update = factor * np.minimum(bound["paper"], bound["exact"] if law == "exact" else np.inf)
    if law == "paper":  # the exact bound lies below the paper's: an update at the paper's breaks it
        assert judge("S1", table, runs.assign(update_max=update)).verdict == CONTRADICTED
    else:
        assert judge("S1", table, runs.assign(update_max=update)).verdict == verdict


@pytest.mark.parametrize(
    "worst, random, verdict",
    [
        (1.0, 0.9, REPRODUCED),
        (1 - 1e-8, 0.9, CONTRADICTED),
        (1 + 1e-8, 0.9, CONTRADICTED),
        (1.0, 1 + 1e-8, CONTRADICTED),
        (np.nan, 0.9, INCONCLUSIVE),
        (1.0, np.nan, INCONCLUSIVE),
        (np.nan, 1 + 1e-8, CONTRADICTED),
    ],
)
def test_s7_is_two_sided_for_worst_case_gradients(worst, random, verdict):
    table = pd.DataFrame(
        {"kind": ["worst", "worst", "random"], "bound_exact": 2.0, "update": [2.0, 2 * worst, 2 * random]}
    )
    assert judge("S7", table).verdict == verdict


@pytest.mark.parametrize(
    "factor, step, verdict",
    [(1.0, 99, REPRODUCED), (1 + 1e-8, 99, CONTRADICTED), (0.5, 99, REPRODUCED), (1.0, 1, INCONCLUSIVE)],
)
def test_s8_asks_for_runs_that_the_papers_law_lets_grow(factor, step, verdict):
    """C = −0.1: e-fold growth needs 20 steps."""
    table = pd.DataFrame(
        {
            "kind": ["wedge", "worst"],
            "C": -0.1,
            "step": step,
            "bound_exact": 2.0,
            "limit_exact": 2.0,
            "update": [2 * factor, 9],
        }
    )
    assert judge("S8", table).verdict == verdict


@pytest.mark.parametrize(
    "column, c, ratio, verdict",
    [
        ("ratio_exact", -0.1, 1 + 1e-8, CONTRADICTED),
        ("ratio_exact", 0.1, 1 + 1e-8, CONTRADICTED),
        ("ratio_paper", 0.1, 1 + 1e-8, CONTRADICTED),
        ("ratio_paper", -0.1, 2.0, REPRODUCED),  # outside its region the paper guarantees nothing
        ("ratio_exact", 0.1, 1 + 5e-10, REPRODUCED),
    ],
)
def test_s9_counts_violations_where_there_is_a_guarantee(monkeypatch, column, c, ratio, verdict):
    runs = pd.DataFrame({"run": range(3), "sweep": "lr", "beta1": [0.1, 0.2, 0.3], "beta2": 0.5, "update_max": 1.0})
    runs = runs.assign(ratio_exact=1.0, ratio_paper=1.0)
    runs.loc[1, column] = ratio
    evidence = Made(None, runs)
    evidence.results, evidence.experiment = None, None
    monkeypatch.setattr(load("quadratic", "claims"), "read_joined", lambda results, name, runs: runs.assign(C=c))
    (claim,) = (claim for claim in claims.CLAIMS if claim.id == "S9")
    assert claim.judge(evidence).verdict == verdict


def trajectory(error=lambda t: t["lr"] * 10, **columns):
    """Measurements of four equations, two models, two seeds, four learning rates, with these errors at the end."""
    axes = {
        "model": ["mlp", "transformer"], "order": [1, 2], "kernel": ["paper", "exact"], "seed": [0, 1],
        "lr": [3e-4, 1e-3, 3e-3, 1e-2], "weight_decay": [0.0, 1.0],
    }  # fmt: skip
    table = pd.DataFrame([dict(zip(axes, x, strict=True)) for x in itertools.product(*axes.values())])
    table = table.assign(variant="flow", p=0.0, steps=120, above_from=-1, p_difference_max=np.nan)
    other = table.iloc[:4].assign(variant="relabelled", p=[0.5, 1.0, 2.0, 1.0], p_difference_max=1e-14)
    table = pd.concat([table, other], ignore_index=True)
    table["error_end"] = error(table)
    return table.assign(**{name: value(table) if callable(value) else value for name, value in columns.items()})


ONE = "model == 'mlp' and order == 2 and kernel == 'paper'"


@pytest.mark.parametrize(
    "id, change, verdict",
    [
        ("T1", {}, REPRODUCED),
        ("T1", {"error": lambda t: np.where(t.eval(ONE + " and weight_decay == 0"), 0.06, 0.01)}, CONTRADICTED),
        ("T1", {"error": lambda t: np.where(t.eval(ONE + " and weight_decay == 1"), 0.06, 0.01)}, REPRODUCED),
        ("T1", {"error": lambda t: np.where(t.eval(ONE + " and seed == 0"), 0.06, 0.01)}, INCONCLUSIVE),
        ("T1", {"error": lambda t: np.where(t.eval("order == 1 or kernel == 'exact'"), 0.06, 0.01)}, REPRODUCED),
        ("T1", {"error": lambda t: np.nan * t["lr"]}, INCONCLUSIVE),  # no finite error shows that it does not track
        ("T1", {"steps": 20}, INCONCLUSIVE),
        ("T1", {"lr": 0.002}, INCONCLUSIVE),
        ("T2", {}, REPRODUCED),
        ("T2", {"error": lambda t: np.where(t.eval(ONE + " and weight_decay == 1"), 0.06, 0.01)}, CONTRADICTED),
        ("T2", {"error": lambda t: np.where(t.eval(ONE + " and weight_decay == 0"), 0.06, 0.01)}, REPRODUCED),
        ("T3", {}, REPRODUCED),
        ("T3", {"p_difference_max": 6e-10}, CONTRADICTED),
        ("T3", {"p_difference_max": np.nan}, INCONCLUSIVE),
        ("T3", {"variant": "flow"}, INCONCLUSIVE),
        ("T4", {}, REPRODUCED),
        ("T4", {"error": lambda t: 1e-5 / t["lr"]}, CONTRADICTED),
        ("T4", {"error": lambda t: np.where(t.eval(ONE), 1e-5 / t["lr"], t["lr"])}, CONTRADICTED),
        ("T4", {"error": lambda t: np.where(t.eval(ONE), 0.01 + 0.01 * t["seed"], t["lr"])}, INCONCLUSIVE),
        ("T4", {"steps": 20}, INCONCLUSIVE),
    ],
)
def test_rules_of_the_trajectories(id, change, verdict):
    assert judge(id, trajectory(**change)).verdict == verdict


def test_the_trajectories_notes_name_the_best_equation_and_when_the_papers_left():
    table = trajectory(
        error=lambda t: np.where(t.eval("order == 1 and kernel == 'exact'"), 0.001, 0.1),
        above_from=lambda t: 40 + t["seed"],
    )
    outcome = judge("T1", table)
    assert "mlp: above 5 % for good from step 40 of 120; best first order with exact kernel, 0.001" in outcome.note
    assert "at lr 0.0003 (0.001)" in judge("T4", table).note


def stages(accuracy, **columns):
    """Measurements of all k, strategies and networks, four seeds, whose accuracies are given by a function of the table."""
    axes = {
        "norm": [False, True],
        "k": range(1, 6),
        "stages": ["inverse-exp", "uniform", "exp", "naive"],
        "seed": range(4),
    }
    table = pd.DataFrame([dict(zip(axes, x, strict=True)) for x in itertools.product(*axes.values())])
    table = table[(table["k"] > 1) | (table["stages"] == "naive")].reset_index(drop=True).assign(guess=0.1)
    noise = 0.002 * np.array([-1.0, 1.0, 0.5, -0.5])[table["seed"]]
    return table.assign(accuracy=accuracy(table) + noise * (table["k"] > 1), **columns)


def better(count, gain=0.02, norms=(False, True)):
    """Accuracies at which k = 2 gains under so many strategies and loses under the others, on these networks."""
    winners = ["inverse-exp", "uniform", "exp", "naive"][:count]
    return lambda t: (
        0.9 + np.where((t["k"] == 2) & t["norm"].isin(norms), np.where(t["stages"].isin(winners), gain, -gain), 0.0)
    )


@pytest.mark.parametrize(
    "id, accuracy, verdict",
    [
        ("K1", better(4), REPRODUCED),
        ("K1", better(3), REPRODUCED),
        ("K1", better(2), CONTRADICTED),
        ("K1", better(4, gain=0.0), INCONCLUSIVE),
        ("K1", better(3, norms=[False]), REPRODUCED),
        ("K1", better(4, norms=[True]), INCONCLUSIVE),  # judged on the network without normalization layers
        ("K1", lambda t: better(4)(t) - 0.5, INCONCLUSIVE),  # Adam has not come halfway: too short
        ("K2", lambda t: 0.9 - 0.02 * t["k"], REPRODUCED),
        ("K2", lambda t: np.where((t["k"] > 3) & (t["stages"] != "exp"), 0.2, 0.9), REPRODUCED),
        ("K2", lambda t: np.where(t["k"] > 3, 0.2, 0.9), CONTRADICTED),
        ("K2", lambda t: np.where((t["k"] > 3) & t["norm"], 0.2, 0.9), CONTRADICTED),
        ("K2", lambda t: np.where(t["k"] > 3, 0.5, 0.9), INCONCLUSIVE),  # exactly halfway
        ("K2", lambda t: 0.3 + 0 * t["k"], INCONCLUSIVE),
    ],
)
def test_rules_of_the_stages(id, accuracy, verdict):
    assert judge(id, stages(accuracy)).verdict == verdict


def test_collapses_are_named():
    table = stages(lambda t: np.where((t["k"] > 3) & (t["stages"] == "naive"), 0.2, 0.9))
    assert "naive from k = 4 collapsed" in judge("K2", table).value
    assert "none collapsed" in judge("K2", stages(lambda t: 0.9 + 0 * t["k"])).value


def baselines(**values):
    """Measurements and raw runs of three contenders, one setting each, five seeds; ``values``: accuracy or minus the loss."""
    rows = [
        {"task": task, "contender": name, "family": name.removesuffix(" exp"), "lr": 0.1, "weight_decay": 0.0, "seed": seed}
        | {"value": value + 0.001 * (seed - 2) * (name != "AdamW"), "guess": {"images": 0.1, "text": 4.0}[task]}
        for task, sign in (("images", 1), ("text", -1))
        for name, value in zip(("2-Adam exp", "AdamW", "SGD, momentum"), values[task], strict=True)
        for seed in range(5)
    ]  # fmt: skip
    table = pd.DataFrame(rows).assign(chosen_in_family=True, diverged_at=-1, share=1.0)
    table.insert(0, "run", range(len(table)))
    runs = pd.concat([table.assign(step=step) for step in (1, 3)])
    runs = runs.assign(test_loss=-runs["value"], test_score=runs["value"])
    return table, runs.drop(columns=["value", "chosen_in_family", "share"])


@pytest.mark.parametrize(
    "values, verdict",
    [
        ((0.9, 0.8, 0.7), REPRODUCED),
        ((0.8, 0.9, 0.7), CONTRADICTED),
        ((0.8, 0.7, 0.9), CONTRADICTED),  # better than AdamW, but not than the best other baseline
        ((0.8, 0.8, 0.7), INCONCLUSIVE),
        ((0.3, 0.2, 0.1), INCONCLUSIVE),  # AdamW has hardly learnt
    ],
)
@pytest.mark.parametrize("id", ["K4", "K5"])
def test_rules_of_the_baselines(id, values, verdict):
    text = [4 * (v - 1) for v in values]  # minus the loss: a guess has −4
    assert judge(id, *baselines(images=values, text=text)).verdict == verdict


def test_equal_traffic_is_told():
    table, runs = baselines(images=(0.9, 0.8, 0.7), text=(-1.0, -2.0, -3.0))
    runs["test_score"] *= np.where(runs["step"] == 1, 0.5, 1.0)  # half as good after two of four steps
    table["share"] = np.where(table["family"] == "2-Adam", 0.5, 1.0)
    assert "at equal optimizer traffic -0.35" in judge("K4", table, runs).note


@pytest.mark.parametrize(
    "ratio, rate, steps, verdict",
    [
        (1.0, 0.0, 1000, REPRODUCED),
        (1 + 1e-8, 0.0, 1000, CONTRADICTED),
        (1.0, 3e-4, 1000, CONTRADICTED),
        (np.nan, 0.0, 1000, INCONCLUSIVE),
        (np.nan, 3e-4, 1000, CONTRADICTED),
        (1.0, np.nan, 1000, CONTRADICTED),  # the last stage unstable, and no growth
        (1.0, 0.0, 200, INCONCLUSIVE),
    ],
)
def test_k3_asks_both_that_the_last_stage_grows_and_that_no_other_does(ratio, rate, steps, verdict):
    table = pd.DataFrame({"kind": "stages", "k": 2, "place": [1, 2, 1, 2], "silent": [10, 10, -1, -1], "update": 1.0})
    table = table.assign(
        step=steps,
        rate_exact=[0.0, 0.01, 0.0, 0.01],
        rate=[0.0, 0.01 + rate, np.nan, np.nan],
        ratio=[ratio, 1.0, 1.0, 1.0],
    )
    assert judge("K3", table).verdict == verdict


def test_the_ledger_of_the_smoke_scale(smoke):
    ledger = claims.judge(smoke)
    assert ledger.columns.tolist() == claims.COLUMNS
    ids = ledger["id"].tolist()
    assert ids[:12] == [f"S{n}" for n in range(1, 11)] + ["E1", "E2"] and ids[-1] == "L1" and len(set(ids)) == len(ids)
    verdicts = ledger.set_index("id")["verdict"]
    assert (verdicts[["S1", "S7", "S8", "S9", "T3", "K3"]] == REPRODUCED).all()  # by any run, however short
    # 60 steps do not decide these, and the ledger says so.
    short = [
        "S2",
        "S3",
        "S4",
        "S5",
        "S6",
        "S10",
        "E1",
        "E2",
        "T1",
        "T2",
        "T4",
        "G1",
        "G2",
        "G3",
        "G4",
        "K1",
        "K2",
        "K4",
        "K5",
        "L1",
    ]
    assert (verdicts[short] == INCONCLUSIVE).all()
    assert ledger.set_index("id").loc["S2", "note"].startswith("runs too short")
    some = claims.judge(smoke, ["k_sweep", "tightness"])
    assert some["id"].tolist() == ["S7", "S8", "K1", "K2", "K3"]
    text = ledger_text(ledger)
    assert all(f"{row.id:<4} {row.verdict}" in text for row in ledger.itertuples())
    counts = ", ".join(f"{(verdicts == v).sum()} {v}" for v in (REPRODUCED, CONTRADICTED, INCONCLUSIVE))
    assert text.endswith(f"{len(ids)} claims: {counts}")
    shipped = pd.read_csv(smoke / "claims.csv", keep_default_na=False)
    assert shipped["value"].tolist() == ledger["value"].tolist()


def test_shipped_values_stand_beside_ones_own(smoke, tmp_path):
    ledger = claims.judge(smoke)
    path = tmp_path / "claims.csv"
    write_derived(ledger.assign(value="elsewhere", verdict="contradicted").query("id == 'S1'"), path, {})
    both = claims.beside(ledger, path)
    assert both["shipped"].tolist() == ["elsewhere" if id == "S1" else "" for id in ledger["id"]]
    assert "(shipped: elsewhere); the shipped runs say contradicted" in ledger_text(both)
    with pytest.raises(ArtifactError, match="there is no ledger"):
        claims.beside(ledger, tmp_path / "none.csv")
    path.write_text(path.read_text().replace("elsewhere", "nowhere"))
    with pytest.raises(ArtifactError, match="was edited"):
        claims.beside(ledger, path)


def test_a_real_violation_is_found(results):
    """One raw update raised above its bound, with provenance to match: S1 must say so."""
    from ctadam.storage.provenance import read_provenance, write_table

    path = results / "growth/shard-1-of-2.parquet"
    table, record = pd.read_parquet(path), read_provenance(path)
    table.loc[table["beta2"].idxmax(), "update_max"] = 1e3
    write_table(table, path, {k: v for k, v in record.items() if k not in ("file", "sha256", "rows")})
    with pytest.raises(ArtifactError, match="was made from other tables than those beside it"):
        claims.judge(results)
    assert cli.main(["predict", "growth", str(results)]) == cli.main(["measure", "growth", str(results)]) == 0
    assert claims.judge(results).set_index("id").loc["S1", "verdict"] == CONTRADICTED
