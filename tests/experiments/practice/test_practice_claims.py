"""Claims E1, E2 and L1: numbers and verdicts for tables that satisfy, break and leave open each rule, and their power."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ctadam.artifact.ledger import CONTRADICTED, IN_PART, INCONCLUSIVE, REPRODUCED, find
from ctadam.experiments.practice.claims import BOUND, HELD, PEAKS, PER_UNSEEN, PRECISION, UNSEEN
from ctadam.experiments.practice.predict import predict
from ctadam.theory import stability

PAIR = {"beta1": 0.96, "beta2": 0.88}
RATE = float(stability.growth_rate(**PAIR, law="exact"))
DRAWS, FEWER = 400, 50


def judge(id, table):
    return find(id).judge(SimpleNamespace(table=table))


def parts(judgement):
    return {level.part: level.verdict for level in judgement.levels}


def with_predictions(table):
    """Measurements of runs, joined with their predictions."""
    defaults = {"lr": 1e-3, "weight_decay": 0.0, "clip": np.inf, "precision": "float32", "point": -1, "diverged_at": -1}
    table = table.assign(run=range(len(table)), step=table["steps"] - 1)
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    return table.merge(predict(table)[["run", "C", "rate_exact", "cap", "cap_unseen", "underflow_unseen"]], on="run")


def capped(seeds=5, steps=1000):
    """Runs of E1 that follow the predictions exactly."""
    rows = [
        {**PAIR, "variant": "epsilon", "seed": seed, "eps": eps, "state_dtype": dtype, "steps": steps}
        for seed in range(100, 100 + seeds)
        for eps in (0.0, 1e-18, 1e-8)
        for dtype in ("float32", "float64")
    ]
    table = with_predictions(pd.DataFrame(rows))
    plain = np.where(table["state_dtype"] == "float32", 1e6, 1e9)
    return table.assign(peak=(0.1 * table["cap"]).fillna(pd.Series(plain)), peak_unseen=table["cap_unseen"].fillna(900))


CAPPED = capped()


def noisy(generator, *, ratio=1.0, later=1.0, decay=1e-3):
    """E1's table with more spread than trial runs of other seeds had, and true ratios to the predictions."""
    small = (CAPPED["eps"] == 1e-18).to_numpy()
    log, steps = np.log(CAPPED["cap"].max() / CAPPED["cap"].min()), np.ptp(CAPPED["cap_unseen"].dropna())
    plain = ((CAPPED["eps"] == 0) & (CAPPED["state_dtype"] == "float32")).to_numpy()
    noise = generator.normal(0, 0.05, (2, len(CAPPED))) / np.sqrt(2)
    peak = CAPPED["peak"] * np.exp(log * (noise[0] + small * (ratio - 1)) + plain * np.log(decay / 1e-3))
    return CAPPED.assign(peak=peak, peak_unseen=CAPPED["peak_unseen"] + steps * (noise[1] + small * (later - 1)))


def test_caps_as_predicted_reproduce_e1():
    judgement = judge("E1", capped())
    assert judgement.verdict == REPRODUCED and set(parts(judgement)) == {PEAKS, UNSEEN, PRECISION}
    peaks, unseen, precision = judgement.levels
    assert peaks.estimate == pytest.approx(1) and unseen.estimate == pytest.approx(1)
    assert precision.estimate == pytest.approx(1e-3) and {level.n for level in judgement.levels} == {5}


@pytest.mark.parametrize(
    "part, change",
    [
        (PEAKS, lambda t: {"peak": t["peak"].where(t["eps"] != 1e-18, t["peak"] * 50)}),
        (UNSEEN, lambda t: {"peak_unseen": t["peak_unseen"].where(t["eps"] != 1e-18, t["peak_unseen"] + 120)}),
        (PRECISION, lambda t: {"peak": t["peak"].where(t["eps"] > 0, 1e9)}),
    ],
)
def test_each_part_can_contradict_e1(part, change):
    table = capped()
    judgement = judge("E1", table.assign(**change(table)))
    assert parts(judgement) == dict.fromkeys((PEAKS, UNSEEN, PRECISION), REPRODUCED) | {part: CONTRADICTED}
    assert judgement.verdict == CONTRADICTED


@pytest.mark.parametrize(
    "table, open_parts",
    [
        (capped(4), {PEAKS, UNSEEN, PRECISION}),
        (capped(steps=600), {PEAKS, UNSEEN, PRECISION}),
        (capped(steps=750), {PRECISION}),  # ε ends the growth after 640 steps, float32 after 808
        (capped().query("eps != 1e-8"), {PEAKS, UNSEEN}),
        (capped().query("eps > 0"), {PRECISION}),
        (capped().assign(rate_exact=0.0), {PEAKS, UNSEEN, PRECISION}),
    ],
)
def test_e1_needs_seeds_length_and_settings(table, open_parts):
    judgement = judge("E1", table)
    assert {part for part, verdict in parts(judgement).items() if verdict == INCONCLUSIVE} == open_parts
    assert judgement.verdict == INCONCLUSIVE


def test_a_run_that_is_not_finite_cannot_reproduce_e1():
    table = capped(8)
    lost = (table["seed"] == 103) & (table["eps"] == 1e-8) & (table["state_dtype"] == "float64")
    nothing = {name: table[name].mask(lost) for name in ("peak", "peak_unseen")}
    for broken in (table.assign(**nothing), table.assign(diverged_at=np.where(lost, 40, -1))):
        judgement = judge("E1", broken)
        assert parts(judgement) == {PEAKS: INCONCLUSIVE, UNSEEN: INCONCLUSIVE, PRECISION: REPRODUCED}
        assert judgement.levels[0].lost == 1 and judgement.levels[0].estimate == pytest.approx(1)
    none = judge("E1", table.assign(peak=np.nan, diverged_at=0))
    assert none.verdict == INCONCLUSIVE and np.isnan(none.levels[0].estimate)


@pytest.mark.slow  # a simulation of many runs; .ci/run calls it by itself
def test_power_of_e1():
    generator = np.random.default_rng(0)

    def verdicts(draws, **truth):
        return [judge("E1", noisy(generator, **truth)).verdict for _ in range(draws)]

    null = verdicts(DRAWS)
    assert null.count(CONTRADICTED) <= 0.05 * DRAWS and null.count(REPRODUCED) >= 0.8 * DRAWS
    for truth in ({"ratio": 1.5}, {"later": 0.5}, {"decay": 1.0}):
        assert verdicts(FEWER, **truth).count(CONTRADICTED) >= 0.7 * FEWER, truth
    assert verdicts(FEWER, later=1.3).count(REPRODUCED) <= 0.05 * FEWER


def precisions(difference=0.0, seeds=5, **columns):
    """Runs of E2: held rates in bfloat16 that differ from those in float32 by ``difference``, a number or one per seed."""
    full = pd.DataFrame({**PAIR, "seed": range(100, 100 + seeds), "variant": "epsilon", "eps": 0.0, "peak": 1e9})
    full = full.assign(state_dtype="float64", steps=1000, held_rate=RATE)
    half = full.assign(variant="protection", held_rate=RATE + difference, **columns)
    clipped = full.assign(variant="protection", clip=1.0, held_rate=1.0)
    table = pd.concat(
        [full.assign(precision="float32"), clipped.assign(precision="float32"), half.assign(precision="bfloat16")]
    )
    return with_predictions(table)


@pytest.mark.parametrize(
    "table, verdict",
    [
        (precisions(), REPRODUCED),
        (precisions(9e-5), REPRODUCED),
        (precisions(-2e-4), CONTRADICTED),
        (precisions(np.array([0.0, 0.0, 0.0, 0.0, 5e-4])), INCONCLUSIVE),
        (precisions(seeds=4), INCONCLUSIVE),
        (precisions().query("precision == 'float32'"), INCONCLUSIVE),
        (precisions().assign(rate_exact=0.0), INCONCLUSIVE),
        (precisions(seeds=6).assign(diverged_at=lambda t: np.where(t["run"] == 0, 12, -1)), INCONCLUSIVE),
        (precisions(np.nan), INCONCLUSIVE),
    ],
)
def test_e2_compares_held_rates_of_the_same_seed(table, verdict):
    judgement = judge("E2", table)
    assert judgement.verdict == verdict
    if verdict == REPRODUCED:
        assert abs(judgement.levels[0].estimate) <= 9.1e-5 and judgement.levels[0].n == 5


@pytest.mark.slow
def test_power_of_e2():
    generator, table = np.random.default_rng(0), precisions()
    half = (table["precision"] == "bfloat16").to_numpy()

    def verdicts(draws, difference):
        held = (table["held_rate"] + half * generator.normal(difference, 5e-5, len(table)) for _ in range(draws))
        return [judge("E2", table.assign(held_rate=rates)).verdict for rates in held]

    assert verdicts(DRAWS, 0.0).count(CONTRADICTED) <= 0.05 * DRAWS
    assert verdicts(FEWER, 3e-4).count(CONTRADICTED) >= 0.8 * FEWER


GAMMA, BETA = stability.normal_curve_points(count=64)
INSIDE, OUTSIDE = "C = 0.1885", "C = −0.0080"


def long(held=1.0, unseen=1.0, *, ratio=0.9, steps=10_000, passes=0.9, seeds=5):
    """Long runs at a stable and an unstable point, with these held rates and rates per step unseen over the exact law."""
    table = pd.DataFrame({"seed": [*range(100, 100 + seeds)] * 2, "point": [8] * seeds + [53] * seeds})
    table = table.assign(beta1=GAMMA[table["point"]], beta2=BETA[table["point"]], variant="long", eps=0.0)
    table = with_predictions(table.assign(steps=steps, state_dtype="float64"))
    rate = table["rate_exact"].iloc[-1]
    outside = {"held_rate": held, "unseen_rate": unseen}
    table = table.assign(
        **{
            name: np.concatenate([np.zeros(seeds), np.broadcast_to(rate * value, seeds)])
            for name, value in outside.items()
        }
    )
    return table.assign(
        ratio_paper=ratio, ratio_exact=0.95 * ratio, text_passes=passes, longest_unseen=9000.0, train_loss_max=8.0
    )


def test_long_runs_as_predicted_reproduce_l1():
    judgement = judge("L1", long())
    assert judgement.verdict == REPRODUCED and set(judgement.by_level) == {INSIDE, OUTSIDE}
    found = {(level.name, level.part): level.estimate for level in judgement.levels}
    assert found == pytest.approx({(INSIDE, BOUND): 0.9, (OUTSIDE, HELD): 1.0, (OUTSIDE, PER_UNSEEN): 1.0})


@pytest.mark.parametrize(
    "table, inside, outside, verdict",
    [
        (long(ratio=1 + 1e-6), CONTRADICTED, REPRODUCED, IN_PART),
        (long(held=0.8), REPRODUCED, CONTRADICTED, IN_PART),
        (long(unseen=0.8), REPRODUCED, CONTRADICTED, IN_PART),
        (long(unseen=np.array([0.7, 0.9, 1.0, 1.1, 1.3])), REPRODUCED, INCONCLUSIVE, IN_PART),
        (long(seeds=4), REPRODUCED, INCONCLUSIVE, IN_PART),
        (long(steps=9_999), INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE),
        (long(passes=1.01), INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE),
        (long(held=np.nan), REPRODUCED, INCONCLUSIVE, IN_PART),
    ],
)
def test_l1_judges_each_point_by_its_part(table, inside, outside, verdict):
    judgement = judge("L1", table)
    assert judgement.by_level == {INSIDE: inside, OUTSIDE: outside} and judgement.verdict == verdict


def test_runs_that_are_not_finite_cannot_reproduce_l1():
    table = long(seeds=7)
    one = judge("L1", table.assign(diverged_at=np.where(table["seed"] == 102, 5000, -1)))
    assert set(one.by_level.values()) == {INCONCLUSIVE} and {level.lost for level in one.levels} == {1}
    broken = long(held=0.5, seeds=7)
    assert (
        judge("L1", broken.assign(diverged_at=np.where(table["seed"] == 102, 5000, -1))).by_level[OUTSIDE]
        == CONTRADICTED
    )
    none = judge("L1", table.assign(diverged_at=0, steps=0, held_rate=np.nan, unseen_rate=np.nan, ratio_paper=np.nan))
    assert none.verdict == INCONCLUSIVE and {level.lost for level in none.levels} == {7}
    assert judge("L1", table.assign(variant="epsilon")).verdict == INCONCLUSIVE


@pytest.mark.slow
def test_power_of_l1():
    generator, table = np.random.default_rng(0), long()

    def verdicts(draws, truth):
        factors = (generator.normal([[1.0], [truth]], [[0.01], [0.05]], (2, len(table))) for _ in range(draws))
        tables = (
            table.assign(held_rate=table["held_rate"] * held, unseen_rate=table["unseen_rate"] * unseen)
            for held, unseen in factors
        )
        return [judge("L1", each).by_level[OUTSIDE] for each in tables]

    null = verdicts(DRAWS, 1.0)
    assert null.count(CONTRADICTED) <= 0.05 * DRAWS and null.count(REPRODUCED) >= 0.7 * DRAWS
    assert verdicts(FEWER, 0.75).count(CONTRADICTED) >= 0.8 * FEWER
