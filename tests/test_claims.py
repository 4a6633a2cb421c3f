"""Verdicts: each claim's rule against tables made to satisfy it, to break it, and to leave it open."""

import itertools

import numpy as np
import pandas as pd
import pytest

from ctadam import claims, cli
from ctadam.claims import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence
from ctadam.errors import ArtifactError
from ctadam.provenance import write_derived
from ctadam.theory import stability


class Made(Evidence):
    """Evidence from tables made here instead of read."""

    def __init__(self, table, runs=None):
        self.__dict__.update(table=table, runs=runs)


def growth(slower=0.005, **columns):
    """Measurements of 64 points and of the ε variants that agree with the exact law, but for what is given."""
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
    one = {"variant": "epsilon", "point": -1, "beta1": 0.96, "beta2": 0.88, "tokens": "words"}
    epsilon = pd.DataFrame(
        [{**one, "eps": eps, "state_dtype": d} for d in ("float32", "float64") for eps in (0.0, 1e-12, 1e-8)]
    )
    table = pd.concat([curve, few, epsilon], ignore_index=True)
    pair = {"beta1": table["beta1"], "beta2": table["beta2"]}
    table = table.assign(
        run=range(len(table)), seed=0, lr=1e-3, weight_decay=0.0, steps=1000, window_start=600,
        C=stability.stability_coefficient(**pair), C_exact=stability.stability_coefficient(**pair, law="exact"),
        rate_paper=stability.growth_rate(**pair), rate_exact=stability.growth_rate(**pair, law="exact"),
        rate_se=1e-6, rate_df=50.0, rate_r_squared=0.999, displacement_rate_se=1e-6, displacement_rate_df=50.0,
        param_rate_se=1e-6, param_rate_df=50.0, rare_share=1.0, peak=1.0,
    )  # fmt: skip
    table["rate"] = table["rate_exact"] - np.where(table["tokens"] == "characters", slower, 0.0)
    table["held_rate"] = table["displacement_rate"] = table["param_rate"] = table["rate_exact"]
    capped = (table["variant"] == "epsilon") & (table["eps"] > 0)
    unseen, cap = stability.epsilon_cap(beta1=0.96, beta2=0.88, eps=table["eps"].where(capped, 1.0).to_numpy())
    table["cap"], table["cap_unseen"] = np.where(capped, cap, np.nan), np.where(capped, unseen, np.nan)
    table["peak"] = np.where(capped, 0.05 * cap, np.where(table["state_dtype"] == "float32", 1e6, 1e9))
    return table.assign(**{name: value(table) if callable(value) else value for name, value in columns.items()})


def judge(id, table, runs=None):
    (claim,) = (c for c in claims.CLAIMS if c.id == id)
    return claim.judge(Made(table, runs))


NOISE = np.random.default_rng(0).normal(size=80)


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
        ("E1", {}, REPRODUCED),
        ("E1", {"peak": 1.0}, CONTRADICTED),
        ("E1", {"steps": 300}, INCONCLUSIVE),
        ("E1", {"eps": 0.0}, INCONCLUSIVE),
        ("S10", {}, REPRODUCED),
        ("S10", {"rare_share": 0.5}, CONTRADICTED),
        ("S10", {"slower": -0.005}, CONTRADICTED),
        ("S10", {"slower": 0.0}, CONTRADICTED),
    ],
)  # fmt: skip
def test_rules(id, change, verdict):
    assert judge(id, growth(**change)).verdict == verdict


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
    monkeypatch.setattr(claims.quadratic, "read_csv", lambda *_: runs[["beta1", "beta2"]].assign(C=c))
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
        ("T1", {"error": lambda t: np.nan * t["lr"]}, CONTRADICTED),  # a run that is not finite does not track
        ("T1", {"steps": 20}, INCONCLUSIVE),
        ("T1", {"lr": 0.002}, INCONCLUSIVE),
        ("T2", {}, REPRODUCED),
        ("T2", {"error": lambda t: np.where(t.eval(ONE + " and weight_decay == 1"), 0.06, 0.01)}, CONTRADICTED),
        ("T2", {"error": lambda t: np.where(t.eval(ONE + " and weight_decay == 0"), 0.06, 0.01)}, REPRODUCED),
        ("T3", {}, REPRODUCED),
        ("T3", {"p_difference_max": 6e-10}, CONTRADICTED),
        ("T3", {"p_difference_max": np.nan}, CONTRADICTED),
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


def test_the_ledger_of_the_smoke_scale(smoke):
    ledger = claims.judge(smoke)
    assert ledger.columns.tolist() == claims.COLUMNS
    ids = ledger["id"].tolist()
    assert ids[:12] == [f"S{n}" for n in range(1, 11)] + ["E1", "T1"] and len(set(ids)) == len(ids)
    verdicts = ledger.set_index("id")["verdict"]
    assert (verdicts[["S1", "S7", "S8", "S9", "T3"]] == REPRODUCED).all()  # by any run, however short
    # 60 steps do not decide these, and the ledger says so.
    assert (verdicts[["S2", "S3", "S4", "S5", "S6", "S10", "E1", "T1", "T2", "T4"]] == INCONCLUSIVE).all()
    assert ledger.set_index("id").loc["S2", "note"].startswith("runs too short")
    text = claims.as_text(ledger)
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
    assert "(shipped: elsewhere); the shipped runs say contradicted" in claims.as_text(both)
    with pytest.raises(ArtifactError, match="there is no ledger"):
        claims.beside(ledger, tmp_path / "none.csv")
    path.write_text(path.read_text().replace("elsewhere", "nowhere"))
    with pytest.raises(ArtifactError, match="was edited"):
        claims.beside(ledger, path)


def test_a_real_violation_is_found(results):
    """One raw update raised above its bound, with provenance to match: S1 must say so."""
    from ctadam.provenance import read_provenance, write_table

    path = results / "growth/shard-1-of-2.parquet"
    table, record = pd.read_parquet(path), read_provenance(path)
    table.loc[table["beta2"].idxmax(), "update_max"] = 1e3
    write_table(table, path, {k: v for k, v in record.items() if k not in ("file", "sha256", "rows")})
    with pytest.raises(ArtifactError, match="was made from other tables than those beside it"):
        claims.judge(results)
    assert cli.main(["predict", "growth", str(results)]) == cli.main(["measure", "growth", str(results)]) == 0
    assert claims.judge(results).set_index("id").loc["S1", "verdict"] == CONTRADICTED
