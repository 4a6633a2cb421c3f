"""Targets turn intervals into verdicts, and parts and levels combine them."""

import math

import numpy as np
import pytest
from scipy import stats

from ctadam.analysis import verdicts
from ctadam.analysis.rules import MIN_SEEDS, mean_over_seeds, over_runs
from ctadam.analysis.verdicts import (
    CONTRADICTED,
    IN_PART,
    INCONCLUSIVE,
    REPRODUCED,
    Judgement,
    Level,
    above,
    at_least,
    at_most,
    below,
    combine,
    exact,
    overlaps,
    undecided,
    within,
)


@pytest.mark.parametrize(
    "target, inside, outside, across",
    [
        (above(0), (0.1, 0.2), (-0.2, 0.0), (-0.1, 0.1)),
        (above(0), (1e-300, math.inf), (0.0, 0.0), (0.0, 0.1)),
        (below(0.5), (-math.inf, 0.4), (0.5, 0.6), (0.4, 0.5)),
        (at_most(1), (0.5, 1.0), (1.1, 1.2), (1.0, 1.1)),
        (at_least(0.99), (0.99, 1.0), (0.9, 0.98), (0.98, 1.0)),
        (within(0.1), (0.95, 1.05), (1.2, 1.3), (1.05, 1.15)),
        (within(0.1), (0.9, 1.1), (0.7, 0.8), (0.5, 2.0)),
        (within(1e-4, of=0), (-1e-4, 1e-4), (2e-4, 3e-4), (0.0, 2e-4)),
        (at_most(0.25, contradicted_from=0.5), (0.1, 0.25), (0.5, 0.9), (0.3, 0.4)),
        (at_most(0.25, contradicted_from=0.5), (0.1, 0.2), (0.6, 0.9), (0.4, 0.6)),
    ],
)
def test_an_interval_decides_unless_it_reaches_across(target, inside, outside, across):
    assert target.verdict(*inside) == REPRODUCED
    assert target.verdict(*outside) == CONTRADICTED
    assert target.verdict(*across) == INCONCLUSIVE


@pytest.mark.parametrize("target", [above(0), at_most(1), within(0.1), overlaps(-1, 1), overlaps(-math.inf, 0)])
def test_no_interval_decides_nothing(target):
    for low, high in ((math.nan, 1.0), (0.0, math.nan), (-math.inf, math.inf)):
        assert target.verdict(low, high) == INCONCLUSIVE


def test_an_overlap_decides_by_touching():
    assert overlaps(-1, 1).verdict(0.9, 7) == REPRODUCED
    assert overlaps(-1, 1).verdict(1.1, 7) == CONTRADICTED
    assert overlaps(-math.inf, 0).verdict(-0.1, 3) == REPRODUCED
    assert overlaps(-math.inf, 0).verdict(0.1, 3) == CONTRADICTED


def test_targets_have_one_text_each():
    targets = [
        above(0),
        at_least(0),
        below(0),
        at_most(0),
        within(0.1),
        at_most(0.25, 0.5),
        overlaps(-1, 1),
        overlaps(-math.inf, 0),
    ]
    assert len({str(target) for target in targets}) == len(targets)
    assert str(above(0)) == "above 0" and str(at_most(1 + 1e-9)) == "≤ 1.000000001" and str(within(0.1)) == "0.9 to 1.1"


@pytest.mark.parametrize(
    "parts, needed, verdict",
    [
        ([REPRODUCED, REPRODUCED], None, REPRODUCED),
        ([REPRODUCED, CONTRADICTED], None, CONTRADICTED),
        ([REPRODUCED, INCONCLUSIVE], None, INCONCLUSIVE),
        ([INCONCLUSIVE, CONTRADICTED], None, CONTRADICTED),
        ([REPRODUCED] * 3 + [CONTRADICTED], 3, REPRODUCED),
        ([REPRODUCED] * 2 + [CONTRADICTED] * 2, 3, CONTRADICTED),
        ([REPRODUCED] * 2 + [INCONCLUSIVE, CONTRADICTED], 3, INCONCLUSIVE),
        ([], None, INCONCLUSIVE),
    ],
)
def test_parts_combine_by_how_many_must_hold(parts, needed, verdict):
    assert combine(parts, needed) == verdict


def judged(*levels, target=None, needed=None):
    claim = verdicts.Claim(
        "X1", "D", "", "", "", target or {"": at_most(1)}, needed, (), "growth", "", ".3g", lambda e: Judgement(levels)
    )
    return claim.judge(None)


def test_levels_that_agree_give_their_verdict_and_others_are_in_part():
    good, bad, open_ = exact(0.5, "a"), exact(2.0, "b"), Level(1.0, 0.5, 1.5, "c")
    assert judged(good).verdict == REPRODUCED and judged(bad).verdict == CONTRADICTED
    assert judged(good, bad).verdict == IN_PART and judged(good, open_).verdict == IN_PART
    assert judged().verdict == INCONCLUSIVE
    assert judged(good, bad, open_).by_level == {"a": REPRODUCED, "b": CONTRADICTED, "c": INCONCLUSIVE}


def test_parts_of_a_level_have_their_own_targets():
    target = {"rate": within(0.1), "bound": at_most(1)}
    both = judged(exact(1.05, "a", "rate"), exact(0.9, "a", "bound"), target=target)
    assert both.verdict == REPRODUCED
    assert judged(exact(1.05, "a", "rate"), exact(1.1, "a", "bound"), target=target).verdict == CONTRADICTED


def test_lost_runs_can_contradict_but_not_reproduce():
    assert judged(exact(0.5, lost=1)).verdict == INCONCLUSIVE
    assert judged(exact(2.0, lost=1)).verdict == CONTRADICTED


def test_an_undecided_level_is_inconclusive_whatever_its_estimate():
    assert judged(exact(2.0, undecided="too short")).verdict == INCONCLUSIVE
    assert judged(undecided("nothing grew")).verdict == INCONCLUSIVE


def test_the_digest_follows_every_part_of_the_rule():
    from dataclasses import replace

    claim = verdicts.Claim("X1", "D", "a", "b", "c", {"": at_most(1)}, None, (), "growth", "", ".3g", None)
    changes = [{"text": "z"}, {"statistic": "z"}, {"rule": "z"}, {"targets": {"": at_most(2)}}, {"needed": 1}]
    digests = {
        claim.digest("2026-11-25"),
        claim.digest("2026-11-26"),
        *(replace(claim, **c).digest("2026-11-25") for c in changes),
    }
    assert len(digests) == len(changes) + 2
    assert replace(claim, figure="fig2", columns=("x",)).digest("2026-11-25") == claim.digest("2026-11-25")


def test_too_few_seeds_decide_nothing():
    assert mean_over_seeds([1.0] * (MIN_SEEDS - 1)).undecided and not mean_over_seeds([1.0] * MIN_SEEDS).undecided
    assert mean_over_seeds([]).undecided == "no finite run"


def test_a_seed_without_a_number_is_lost():
    level = mean_over_seeds([1.0, 1.1, 0.9, 1.0, 1.2, np.nan, np.inf])
    assert level.lost == 2 and level.n == 5 and level.estimate == pytest.approx(1.04)


def test_over_runs_needs_runs():
    assert over_runs(np.median, []).undecided == "no run"
    level = over_runs(np.median, np.arange(20.0))
    assert level.low < level.estimate < level.high


@pytest.mark.parametrize("n", [MIN_SEEDS, 16])
def test_t_intervals_contradict_a_true_claim_in_at_most_five_per_cent(n):
    """The mean lies on the edge of the target, the worst case of a true claim; and half a standard deviation beyond it."""
    rng, draws = np.random.default_rng(1), 4000
    edge = rng.normal(0, 1, (draws, n))
    false = np.mean([above(0).verdict(*_interval(row)) == CONTRADICTED for row in edge])
    assert 0.01 < false <= 0.05
    far = rng.normal(-3, 1, (draws // 4, n))
    assert np.mean([above(0).verdict(*_interval(row)) == CONTRADICTED for row in far]) > 0.95


def _interval(row):
    level = mean_over_seeds(row)
    half = stats.t.ppf(0.975, len(row) - 1) * row.std(ddof=1) / math.sqrt(len(row))
    assert level.high - level.estimate == pytest.approx(half)
    return level.low, level.high
