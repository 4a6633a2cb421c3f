"""Claims S9 and S12 against tables made to satisfy, break and leave open their rules.

Both statistics are exact: a count and a maximum over all runs, without sampling error, so there is no power to simulate.
"""

import numpy as np
import pandas as pd
import pytest

from ctadam.analysis.verdicts import CLAIMS, CONTRADICTED, IN_PART, INCONCLUSIVE, REPRODUCED, Evidence
from ctadam.experiments import load
from ctadam.experiments.quadratic.measure import KEYS

load("quadratic", "claims")
CLAIM = {claim.id: claim for claim in CLAIMS}
SETTINGS = [
    ("lr", 1e-3, 0.0, 0.0, 0.0),
    ("lr", 0.1, 0.0, 0.0, 0.0),
    ("noise", 0.01, 1.0, 0.0, 0.0),
    ("weight_decay", 0.01, 0.0, 0.1, 0.0),
    ("distant", 0.01, 0.0, 1.0, 100.0),
]
NAMES = ["η = 0.001", "η = 0.1", "σ = 1", "λ = 0.1", "λ = 1, distant minimum"]


def table():
    """Two runs per setting, the first inside the region and the second outside, none above a bound."""
    runs = pd.DataFrame(SETTINGS, columns=KEYS).merge(pd.DataFrame({"C": [0.2, -0.1]}), how="cross")
    inside, decay = runs["C"] > 0, runs["weight_decay"]
    return runs.assign(
        run=range(len(runs)),
        update_max=np.where(inside, 1.0, 20.0),
        excess_exact=0.0,
        excess_paper=np.where(inside, 0.0, 0.25),
        diverged_at=-1,
        param_start=2.0,
        limit_exact=np.where(inside, 1.5, np.inf),
        param_max=np.where(inside, 1.5 / decay.clip(lower=0.1), 99.0) + np.where(decay > 0, 0.0, np.nan),
    )


def judge(id, monkeypatch, runs):
    monkeypatch.setattr(load("quadratic", "claims"), "read_joined", lambda results, name, runs: runs)
    evidence = Evidence(".", "quadratic")
    evidence.__dict__["runs"] = runs
    return CLAIM[id].judge(evidence)


def changed(where, **columns):
    runs = table()
    for name, value in columns.items():
        runs.loc[runs.query(where).index, name] = value
    return runs


def test_s9_holds_if_no_update_exceeds_its_bound(monkeypatch):
    found = judge("S9", monkeypatch, table())
    assert found.verdict == REPRODUCED
    assert found.by_level == dict.fromkeys(NAMES, REPRODUCED)
    assert [level.estimate for level in found.levels] == [0] * 5
    assert 1.25 in found.numbers.values()  # outside, the paper's bound does not hold
    assert sum(value == 1.0 for value in found.numbers.values()) == 4  # all runs outside have large updates, by sweep


@pytest.mark.parametrize(
    "column, where, excess, verdict",
    [
        ("excess_exact", "C < 0", 1e-8, CONTRADICTED),
        ("excess_exact", "C > 0", 1e-8, CONTRADICTED),
        ("excess_paper", "C > 0", 1e-8, CONTRADICTED),
        ("excess_paper", "C < 0", 2.0, REPRODUCED),  # outside its region the paper guarantees nothing
        ("excess_exact", "C > 0", 5e-10, REPRODUCED),
    ],
)
def test_s9_counts_violations_where_there_is_a_guarantee(monkeypatch, column, where, excess, verdict):
    found = judge("S9", monkeypatch, changed(f"{where} and sweep == 'noise'", **{column: excess}))
    assert found.by_level["σ = 1"] == verdict
    assert found.verdict == (REPRODUCED if verdict == REPRODUCED else IN_PART)
    assert judge("S9", monkeypatch, changed(where, **{column: excess})).verdict == verdict


@pytest.mark.parametrize("column, value", [("diverged_at", 3), ("excess_exact", np.nan), ("update_max", np.inf)])
def test_s9_is_not_reproduced_where_a_run_is_not_finite(monkeypatch, column, value):
    found = judge("S9", monkeypatch, changed("run == 1", **{column: value}))
    assert found.by_level["η = 0.001"] == INCONCLUSIVE and found.levels[0].lost == 1
    assert found.by_level["η = 0.1"] == REPRODUCED


def test_s9_a_violation_counts_although_the_run_diverged_later(monkeypatch):
    found = judge("S9", monkeypatch, changed("run == 1", diverged_at=3, excess_exact=0.1))
    assert found.by_level["η = 0.001"] == CONTRADICTED and found.levels[0].estimate == 1


@pytest.mark.parametrize(
    "factor, verdict", [(1.0, REPRODUCED), (0.3, REPRODUCED), (1 + 1e-8, CONTRADICTED), (1 + 5e-10, REPRODUCED)]
)
def test_s12_compares_parameters_with_the_larger_of_start_and_limit(monkeypatch, factor, verdict):
    limit = {"λ = 0.1": 15.0, "λ = 1, distant minimum": 2.0}  # B/λ = 15, and ‖θ_0‖ = 2 > B/λ = 1.5
    for (name, value), sweep in zip(limit.items(), ("weight_decay", "distant"), strict=True):
        found = judge("S12", monkeypatch, changed(f"sweep == '{sweep}' and C > 0", param_max=value * factor))
        assert found.by_level[name] == verdict
        assert next(x for x in found.levels if x.name == name).estimate == pytest.approx(factor, rel=1e-12)


def test_s12_judges_only_runs_with_decay_inside_the_region(monkeypatch):
    found = judge("S12", monkeypatch, table())  # outside, parameters are 99
    assert set(found.by_level) == {"λ = 0.1", "λ = 1, distant minimum"} and found.verdict == REPRODUCED


@pytest.mark.parametrize("column, value", [("param_max", np.nan), ("param_max", np.inf), ("diverged_at", 0)])
def test_s12_is_not_reproduced_where_a_run_is_not_finite(monkeypatch, column, value):
    found = judge("S12", monkeypatch, changed("sweep == 'distant' and C > 0", **{column: value}))
    assert found.by_level == {"λ = 0.1": REPRODUCED, "λ = 1, distant minimum": INCONCLUSIVE}
    assert judge("S12", monkeypatch, changed("C > 0", **{column: value})).verdict == INCONCLUSIVE


def test_s12_a_violation_counts_beside_a_run_that_is_not_finite(monkeypatch):
    more = pd.concat([table(), table().query("sweep == 'distant' and C > 0").assign(run=99, param_max=5.0)])
    more.loc[more.query("sweep == 'distant' and run != 99 and C > 0").index[:1], "param_max"] = 5.0
    more = more.reset_index(drop=True)
    more.loc[more["run"] == 99, "param_max"] = np.nan
    assert judge("S12", monkeypatch, more).by_level["λ = 1, distant minimum"] == CONTRADICTED
