"""Claims S7, S8, S13 and K3 against tables made to satisfy, break and leave open their rules.

All statistics are exact: largest values, or the mean error of rates without sampling noise, so there is no power to simulate.
"""

import numpy as np
import pandas as pd
import pytest

from ctadam.analysis.verdicts import CLAIMS, CONTRADICTED, IN_PART, INCONCLUSIVE, REPRODUCED, Evidence
from ctadam.experiments import load

load("tightness", "claims")
CLAIM = {claim.id: claim for claim in CLAIMS}


def judge(id, table):
    evidence = Evidence(".", "tightness")
    evidence.__dict__["table"] = table
    return CLAIM[id].judge(evidence)


@pytest.mark.parametrize(
    "worst, random, verdict",
    [
        (1.0, 0.9, REPRODUCED),
        (1 - 1e-8, 0.9, CONTRADICTED),
        (1 + 1e-8, 0.9, CONTRADICTED),
        (1.0, 1 + 1e-8, CONTRADICTED),
        (np.nan, 0.9, INCONCLUSIVE),
        (np.inf, 0.9, INCONCLUSIVE),
        (1.0, np.nan, INCONCLUSIVE),
        (np.nan, 1 + 1e-8, CONTRADICTED),
    ],
)
def test_s7_is_two_sided_for_worst_case_gradients(worst, random, verdict):
    kinds = ["worst", "worst", "random", "random"]
    table = pd.DataFrame({"kind": kinds, "bound_exact": 2.0, "update": [2.0, 2 * worst, 0.1, 2 * random]})
    found = judge("S7", table)
    assert found.verdict == verdict
    if np.isfinite([worst, random]).all():
        assert [level.estimate for level in found.levels] == pytest.approx([worst, random], rel=1e-12)
    else:
        assert sum(level.lost for level in found.levels) == 1


@pytest.mark.parametrize("kind", ["worst", "random"])
def test_s7_needs_both_kinds_of_gradients(kind):
    assert judge("S7", pd.DataFrame({"kind": [kind], "bound_exact": 2.0, "update": 2.0})).verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    "factor, step, verdict",
    [
        (1.0, 99, REPRODUCED),
        (1 + 1e-8, 99, CONTRADICTED),
        (0.5, 99, REPRODUCED),
        (1.0, 1, INCONCLUSIVE),
        (np.nan, 99, INCONCLUSIVE),
    ],
)
def test_s8_asks_for_runs_that_the_papers_law_lets_grow(factor, step, verdict):
    """C = −0.1: e-fold growth needs 20 steps."""
    bounds = {"bound_exact": 2.0, "limit_exact": 2.0}
    table = pd.DataFrame(
        {"kind": ["wedge", "wedge", "worst"], "C": -0.1, "step": step, **bounds, "update": [2 * factor, 0.1, 9]}
    )
    found = judge("S8", table)
    assert found.verdict == verdict
    assert found.levels[0].lost == np.isnan(factor)


@pytest.mark.parametrize(
    "rmsprop, sign, verdicts",
    [
        (1.0, 1.0, (REPRODUCED, REPRODUCED)),
        (1 - 1e-8, 1.0, (CONTRADICTED, REPRODUCED)),
        (1 + 1e-8, 1.0, (CONTRADICTED, REPRODUCED)),
        (1.0, 1 - 1e-8, (REPRODUCED, CONTRADICTED)),
        (1.0, np.nan, (REPRODUCED, INCONCLUSIVE)),
        (np.inf, 1.0, (INCONCLUSIVE, REPRODUCED)),
    ],
)
def test_s13_judges_both_edges(rmsprop, sign, verdicts):
    kinds = ["rmsprop", "rmsprop", "sign", "sign", "worst"]
    limits = [3.0, 10.0, 1.0, 1.0, 2.0]
    table = pd.DataFrame({"kind": kinds, "limit_exact": limits, "update": [3.0, 10 * rmsprop, 1.0, sign, 0.1]})
    found = judge("S13", table)
    assert tuple(found.by_level.values()) == verdicts
    assert found.verdict == (verdicts[0] if verdicts[0] == verdicts[1] else IN_PART)


def stages(steps=1000, **columns):
    """One draw with two stages: gradients that stop, and random ones, with the unstable stage first and last."""
    table = pd.DataFrame({"kind": "kadam", "k": 2, "place": [1, 2, 1, 2], "silent": [10, 10, -1, -1], "update": 1.0})
    table = table.assign(step=steps, rate_exact=[0.0, 0.01] * 2, rate=[-0.1, 0.01, np.nan, np.nan], ratio=1.0)
    return table.assign(**columns)


@pytest.mark.parametrize(
    "ratio, rate, steps, verdict",
    [
        (1.0, 0.0, 1000, REPRODUCED),
        (1 + 1e-8, 0.0, 1000, CONTRADICTED),
        (1.0, 1.9e-4, 1000, REPRODUCED),
        (1.0, 3e-4, 1000, CONTRADICTED),
        (1.0, -3e-4, 1000, CONTRADICTED),
        (np.nan, 0.0, 1000, INCONCLUSIVE),
        (np.nan, 3e-4, 1000, CONTRADICTED),
        (1.0, 0.0, 200, INCONCLUSIVE),
        (1 + 1e-8, 0.0, 200, CONTRADICTED),
        (1.0, np.inf, 1000, INCONCLUSIVE),
    ],
)
def test_k3_asks_that_the_last_stage_grows_and_no_other_does(ratio, rate, steps, verdict):
    found = judge("K3", stages(steps, ratio=[ratio, 1.0, 1.0, 1.0], rate=[-0.1, 0.01 + rate, np.nan, np.nan]))
    assert found.verdict == verdict


def test_k3_an_update_of_0_has_not_grown():
    found = judge("K3", stages(rate=np.nan, update=[1.0, 0.0, 1.0, 1.0]))
    assert found.levels[1].estimate == 0.01 and found.verdict == CONTRADICTED


def test_k3_a_run_without_a_rate_is_lost():
    found = judge("K3", stages(rate=np.nan))
    assert found.levels[1].lost == 1 and found.verdict == INCONCLUSIVE


@pytest.mark.parametrize("place", [1, 2])
def test_k3_needs_the_unstable_stage_in_both_places(place):
    assert judge("K3", stages().query(f"place == {place}")).verdict == INCONCLUSIVE
