"""Verdicts of S1-S6, S10, S11, S14 and S15 on tables made to satisfy, break and leave open each rule, and their power."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctadam.analysis.rules import mean_over_seeds
from ctadam.analysis.verdicts import CONTRADICTED, IN_PART, INCONCLUSIVE, REPRODUCED, Evidence
from ctadam.artifact import config
from ctadam.artifact.ledger import find
from ctadam.artifact.runner import table_of_runs
from ctadam.experiments.growth import claims as growth
from ctadam.experiments.growth.predict import COLUMNS, predict
from ctadam.theory import stability

LAPTOP = config.resolve("laptop")["growth"]


class Made(Evidence):
    """Evidence from tables made here instead of read."""

    def __init__(self, table, runs=None):
        self.__dict__.update(table=table, runs=runs)


def _exact_table():
    """Measurements of the laptop runs that agree with the exact law."""
    runs = table_of_runs("growth", LAPTOP)
    table = predict(runs.assign(step=runs["steps"] - 1)[COLUMNS])
    table = table.merge(runs[["run", "seed", "tokenization", "weight_decay", "steps"]])
    table = table.assign(window_start=(table["steps"] * 0.6).astype(int), diverged_at=-1, rate_r_squared=0.999)
    table["rate"] = table["held_rate"] = table["rate_exact"]
    table.loc[table["tokenization"] == "characters", "rate"] -= 0.005
    table["displacement_rate"] = table["param_rate"] = table["displacement_rate_exact"]
    table["held_share"] = 0.95
    table["peak"] = np.where(table["C"] >= 0, 0.9 * table["bound_exact"], 1e4)
    table["test_loss"] = 3.0 + 0.3 * (table["C"] < 0)
    return table


EXACT = _exact_table()


def made(**columns):
    """The exact measurements, but for these columns, each a value or a function of the table."""
    return EXACT.assign(**{name: value(EXACT) if callable(value) else value for name, value in columns.items()})


def one_seed_less(table):
    """The table without the last seed of the curve and of the rule."""
    return table[~table["seed"].isin([104, 204])]


def judge(id, table, runs=None):
    return find(id).judge(Made(table, runs))


def noise(table, scale, seed=0):
    return scale * np.random.default_rng(seed).normal(size=len(table))


def by_seed(table, scale, seed=0):
    """Normal numbers, one per seed, for all runs of the seed."""
    values = np.random.default_rng(seed).normal(size=1000)
    return scale * values[table["seed"]]


@pytest.mark.parametrize(
    "id, change, verdict",
    [
        ("S2", {}, REPRODUCED),
        ("S2", {"rate_r_squared": 0.9}, CONTRADICTED),
        ("S2", {"rate_r_squared": lambda t: np.where(t["point"] % 2, 0.9, 0.999)}, INCONCLUSIVE),
        ("S2", {"window_start": 490}, INCONCLUSIVE),
        ("S3", {}, REPRODUCED),
        ("S3", {"held_rate": lambda t: 0.7 * t["rate_exact"]}, CONTRADICTED),  # correlated, with another slope
        ("S3", {"rate": lambda t: noise(t, 0.01)}, CONTRADICTED),
        ("S3", {"held_rate": lambda t: t["rate_exact"] * (1 + by_seed(t, 0.3))}, INCONCLUSIVE),
        ("S3", {"window_start": 490}, INCONCLUSIVE),
        ("S4", {}, REPRODUCED),
        ("S4", {"held_rate": lambda t: t["rate_exact"] + 9e-5}, REPRODUCED),
        ("S4", {"held_rate": lambda t: t["rate_exact"] - 2e-4}, CONTRADICTED),
        ("S4", {"held_rate": lambda t: t["rate_paper"]}, CONTRADICTED),
        ("S4", {"held_rate": lambda t: t["rate_exact"] + by_seed(t, 3e-4)}, INCONCLUSIVE),
        ("S4", {"held_rate": lambda t: t["rate_exact"] + 2e-4 * (t["point"] == 54)}, IN_PART),
        ("S4", {"held_rate": lambda t: t["rate_exact"] + 2e-4 * (t["point"] == 53)}, REPRODUCED),  # too near the boundary
        ("S5", {}, REPRODUCED),
        ("S5", {"held_rate": lambda t: np.maximum(0, -0.02 - t["C"]) / 2}, CONTRADICTED),
        ("S5", {"held_rate": lambda t: np.maximum(0, 0.02 - t["C"]) / 2}, CONTRADICTED),
        ("S5", {"held_rate": 0.0}, CONTRADICTED),
        ("S5", {"window_start": 490}, INCONCLUSIVE),
        ("S6", {}, REPRODUCED),
        ("S6", {"param_rate": lambda t: 0.8 * t["displacement_rate_exact"]}, CONTRADICTED),
        ("S6", {"displacement_rate": lambda t: 1.2 * t["displacement_rate_exact"]}, CONTRADICTED),
        ("S6", {"param_rate": lambda t: t["displacement_rate_exact"] * (1 + by_seed(t, 0.3))}, INCONCLUSIVE),
        # The asymptotic rate is not the one that 500 steps show.
        ("S6", {"displacement_rate": lambda t: np.where(t["C"] > -0.025, 0, t["displacement_rate_exact"])}, CONTRADICTED),
        ("S6", {"window_start": 490}, INCONCLUSIVE),
        ("S10", {}, REPRODUCED),
        ("S10", {"rate": lambda t: t["rate"] + 0.01 * (t["tokenization"] == "characters")}, CONTRADICTED),
        ("S10", {"rate": lambda t: t["rate_exact"]}, CONTRADICTED),
        ("S10", {"rate": lambda t: t["rate"] + np.where(t["tokenization"] == "words", by_seed(t, 0.02), 0)}, INCONCLUSIVE),
        ("S10", {"window_start": 490}, INCONCLUSIVE),
        ("S15", {}, REPRODUCED),
        ("S15", {"peak": lambda t: np.where(t["variant"] == "floor", 1.01 * t["bound_paper"], 1)}, CONTRADICTED),
        ("S15", {"test_loss": 3.0}, CONTRADICTED),
        ("S15", {"test_loss": lambda t: t["test_loss"] + by_seed(t, 1.0) * (t["variant"] == "rule")}, INCONCLUSIVE),
        ("S15", {"test_loss": lambda t: np.where(t["batch_size"] == 1024, 2.9, t["test_loss"])}, IN_PART),
        ("S15", {"peak": lambda t: np.where((t["variant"] == "floor") & (t["eps"] == 1e-8), 9, t["peak"])}, IN_PART),
    ],
)  # fmt: skip
def test_rules(id, change, verdict):
    assert judge(id, made(**change)).verdict == verdict


@pytest.mark.parametrize("id", ["S3", "S4", "S5", "S6", "S10", "S15"])
def test_four_seeds_are_too_few_for_an_interval_over_seeds(id):
    found = judge(id, one_seed_less(EXACT))
    assert found.verdict == INCONCLUSIVE


NO_NUMBER = (np.nan, np.inf)


@pytest.mark.parametrize(
    "id, column, which",
    [
        ("S2", "rate_r_squared", "C < -0.01"),
        ("S3", "rate", "C > 0"),
        ("S3", "held_rate", "C < -0.01"),
        ("S4", "held_rate", "point == 60"),
        ("S5", "held_rate", "point == 45"),
        ("S6", "param_rate", "point == 63"),
        ("S10", "rate", "point == 60"),
        ("S15", "test_loss", "variant == 'floor'"),
        ("S15", "peak", "variant == 'floor'"),
        ("S15", "test_loss", "variant == 'rule' and batch_size == 2048"),
    ],
)
@pytest.mark.parametrize("value", NO_NUMBER)
def test_runs_that_are_not_finite_never_reproduce(id, column, which, value):
    table = EXACT.copy()
    at = table.query(which).index[0]
    table.loc[at, column] = value
    found = judge(id, table)
    assert found.verdict in (INCONCLUSIVE, IN_PART) and sum(level.lost for level in found.levels) > 0
    table = EXACT.copy()
    table.loc[at, "diverged_at"] = 3
    assert judge(id, table).verdict in (INCONCLUSIVE, IN_PART)


@pytest.mark.parametrize("id", ["S1", "S2", "S3", "S4", "S5", "S6", "S10", "S14", "S15"])
def test_runs_that_diverged_at_their_first_step_decide_nothing(id):
    columns = [
        "rate",
        "rate_r_squared",
        "held_rate",
        "displacement_rate",
        "param_rate",
        "peak",
        "window_start",
        "test_loss",
    ]
    table = EXACT.assign(**dict.fromkeys(columns, np.nan), steps=0, diverged_at=0)
    runs = table.assign(step=0, update_max=np.nan, update_tensor="head", update_row=0, unseen=1)
    assert judge(id, table, runs).verdict == INCONCLUSIVE


@pytest.mark.parametrize("factor, verdict", [(1.0, REPRODUCED), (1 + 5e-10, REPRODUCED), (1 + 1e-8, CONTRADICTED)])
@pytest.mark.parametrize("law", ["paper", "exact"])
def test_s1_allows_no_update_above_its_bound(law, factor, verdict):
    table = EXACT[EXACT["variant"].isin(["curve", "pair"])]
    runs = table[["run", "beta1", "beta2", "diverged_at"]].merge(pd.DataFrame({"step": range(5)}), how="cross")
    bound = {x: stability.update_bound(**runs[["beta1", "beta2", "step"]], law=x) for x in ("paper", "exact")}
    update = factor * np.minimum(bound["paper"], bound["exact"] if law == "exact" else np.inf)
    found = judge("S1", table, runs.assign(update_max=update))
    # The exact bound lies below the paper's, so an update at the paper's breaks it.
    assert found.verdict == (CONTRADICTED if law == "paper" else verdict)
    assert found.numbers["runs"] == (table["C"] > 0).sum()
    if law == "exact":
        late = found.numbers["largest share of the exact bound in the second half of the steps"]
        assert late == pytest.approx(factor, rel=1e-12)


def test_an_infinite_update_inside_the_region_leaves_s1_open():
    """A finite update above the bound breaks it. An overflow may have other reasons."""
    table = EXACT[EXACT["variant"] == "curve"]
    runs = table[["run", "beta1", "beta2", "diverged_at"]].assign(step=10, update_max=0.5)
    assert judge("S1", table, runs).verdict == REPRODUCED
    overflow = runs.assign(update_max=np.where(runs["run"] == 0, np.inf, 0.5))
    assert judge("S1", table, overflow).verdict == INCONCLUSIVE
    assert judge("S1", table, overflow.replace({"update_max": {0.5: 1e9}})).verdict == CONTRADICTED


def test_s11_needs_no_runs():
    found = judge("S11", None)
    assert found.verdict == REPRODUCED and len(found.levels) == 4
    assert found.levels[0].estimate == pytest.approx(0.2212, abs=1e-4)


def rule_runs(growth=1.0, unseen=None, table=EXACT):
    """Raw runs by the rule that grow at a multiple of the exact rate, in one row."""
    rule = table[table["variant"] == "rule"]
    runs = rule[["run", "beta1", "beta2", "rate_exact", "diverged_at", "seed", "batch_size"]].merge(
        pd.DataFrame({"step": range(400)}), how="cross"
    )
    correction = stability.prefactor(**{name: runs[name].to_numpy() for name in ("beta1", "beta2", "step")})
    rate = runs["rate_exact"] * (growth(runs) if callable(growth) else growth)
    runs["update_max"] = correction * np.exp(rate * runs["step"])
    return runs.assign(update_tensor="embedding", update_row=5, unseen=runs["step"] if unseen is None else unseen)


@pytest.mark.parametrize(
    "growth, peak, verdict",
    [
        (1.0, 1.0, REPRODUCED),
        (0.95, 1.0, REPRODUCED),
        (0.8, 1.0, IN_PART),  # bounded inside all the same
        (0.8, 1.2, CONTRADICTED),
        (1.0, 1.2, IN_PART),
        (lambda runs: 1 + by_seed(runs, 0.3), 1.0, IN_PART),
    ],
)
def test_s14_judges_each_batch_size(growth, peak, verdict):
    table = made(peak=lambda t: np.where(t["C"] > 0, peak * t["bound_exact"], 1e3))
    found = judge("S14", table, rule_runs(growth))
    assert found.verdict == verdict
    assert list(found.by_level) == [f"B = {size}" for size in (128, 256, 512, 768, 1024, 2048)]
    assert [level.part for level in found.levels] == ["update over bound"] * 3 + ["growth over ln(γ/√β)"] * 3


def test_s14_counts_only_rows_that_are_rare_and_not_capped():
    """A row that was seen lately, one near ε's cap and one that took over just now show no growth by the law."""
    pair = {"beta1": 0.95, "beta2": 0.98**8}
    n = np.arange(200)
    steps = pd.DataFrame({**pair, "step": n, "diverged_at": -1, "update_tensor": "head", "update_row": 1, "unseen": n})
    growing = stability.prefactor(**pair, step=n) * np.exp(0.03 * np.clip(n, 21, 49))
    steps["update_max"] = growing
    # 1/(1 − 0.95) = 20 and half of the cap is 50.
    assert growth.held_growth(steps, 100.0) == pytest.approx(0.03, abs=1e-9)
    assert abs(growth.held_growth(steps, 1000.0)) < 1e-9
    jumps = steps.assign(update_row=n, update_max=growing)
    assert np.isnan(growth.held_growth(jumps, 100.0))


def test_s14_is_open_where_seeds_are_few_or_lost():
    # The levels with an interval over seeds need five of them.
    few = one_seed_less(EXACT)
    found = judge("S14", few, rule_runs(table=few))
    assert [found.by_level[f"B = {size}"] for size in (512, 768)] == [REPRODUCED, INCONCLUSIVE]
    lost = EXACT.copy()
    lost.loc[lost.query("variant == 'rule'").groupby("batch_size").head(1).index, "diverged_at"] = 30
    assert judge("S14", lost, rule_runs(table=lost)).verdict == INCONCLUSIVE


def test_the_hinge_finds_where_rates_leave_zero():
    c = np.linspace(0.04, -0.04, 20)
    for at in (-0.02, 0.0, 0.013):
        assert growth.onset(c, 0.5 * np.maximum(0, at - c)) == pytest.approx(at, abs=2e-5)
    assert growth.onset(c, 0.3 * c) == c.min()
    estimate, low, high = growth.onset_interval(
        c, [0.5 * np.maximum(0, at - c) for at in (-0.01, -0.005, 0, 0.005, 0.01)]
    )
    assert low < -0.004 < estimate < 0.004 < high


DRAWS = 400


def intervals(values):
    """Intervals over seeds of many simulations, values of shape (draws, levels, seeds)."""
    return [[mean_over_seeds(level) for level in draw] for draw in values]


def share(target, draws, verdict, count=any):
    """Share of simulations in which any (or all) of the levels have a verdict."""
    return np.mean([count(target.verdict(x.low, x.high) == verdict for x in levels) for levels in draws])


@pytest.mark.parametrize(
    "id, part, levels, null, alternative, spread",
    [
        ("S3", "slope", 1, 1.0, 0.8, 0.04),
        ("S4", "", 10, 0.0, 3e-4, 5e-5),
        ("S6", "‖θ_n − θ_0‖", 1, 1.0, 1.25, 0.05),
        ("S6", "‖θ_n‖", 1, 1.0, 0.75, 0.05),
        ("S10", "", 1, 0.003, -0.003, 1e-3),
        ("S14", "growth over ln(γ/√β)", 3, 1.0, 0.75, 0.05),
        ("S15", "test loss difference", 4, -0.05, 0.1, 0.04),
    ],
)
def test_power_of_intervals_over_seeds(id, part, levels, null, alternative, spread):
    """Five seeds, each with the mean of its runs; the spread is between them, larger than in trial runs."""
    noise_of_seeds = spread * np.random.default_rng(1).normal(size=(DRAWS, levels, 5))
    target = find(id).targets[part]
    assert share(target, intervals(null + noise_of_seeds), CONTRADICTED) <= 0.05
    assert share(target, intervals(alternative + noise_of_seeds[:, :1]), CONTRADICTED) >= 0.8
    if id in ("S10", "S15"):  # no difference must not pass for one
        assert share(target, intervals(noise_of_seeds[:, :1]), REPRODUCED) <= 0.05


def medians(values):
    """BCa intervals of medians over the last axis, as in `bootstrap` but for all rows at once and with fewer resamples."""
    settings = {"axis": -1, "vectorized": True, "n_resamples": 499, "rng": np.random.default_rng(0)}
    return stats.bootstrap((values,), np.median, **settings).confidence_interval


def test_power_of_s2():
    """R² of 50 runs, skewed towards small values as steps down make it, with a median on either side of 0.98."""
    skew = np.random.default_rng(1).gamma(1.0, size=(DRAWS, 50))
    target = find("S2").targets[""]
    for size, least, most in ((0.01, 0.0, 0.05), (0.06, 0.8, 1.0)):
        found = medians(1 - size * skew)
        contradicted = [
            target.verdict(low, high) == CONTRADICTED for low, high in zip(found.low, found.high, strict=True)
        ]
        assert least <= np.mean(contradicted) <= most


def test_power_of_the_correlation_in_s3():
    """Rates of 64 points with the noise of the slope in a window."""
    points = EXACT[EXACT["variant"] == "curve"].drop_duplicates("point")
    target, rng = find("S3").targets["correlation"], np.random.default_rng(1)
    for size, draws, least, most in ((2e-4, DRAWS, 0.0, 0.05), (3e-3, DRAWS, 0.8, 1.0)):
        contradicted = 0
        for _ in range(draws):
            rates = points["rate_exact"] + size * rng.normal(size=64)
            r = growth._correlation(points["rate_paper"].to_numpy(), rates.to_numpy())
            # Fisher's transformation in place of the bootstrap, which takes a second per draw.
            low, high = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(61))
            contradicted += target.verdict(low, high) == CONTRADICTED
        assert least <= contradicted / draws <= most


@pytest.mark.slow  # a simulation of many runs; .ci/run calls it by itself
def test_power_of_s5():
    """Held rates whose spread between seeds is that of points next to the boundary."""
    rates = growth.boundary_points(EXACT[EXACT["variant"] == "curve"])
    c, rng, target = rates.columns.to_numpy(float), np.random.default_rng(1), find("S5").targets[""]
    half = np.ptp(c) / (len(c) - 1) / 2

    def contradicted(at, draws):
        noisy = (np.maximum(0, at - c) / 2 + 6e-4 * rng.normal(size=(5, len(c))) for _ in range(draws))
        found = [growth.onset_interval(c, drawn) for drawn in noisy]
        return np.mean([target.verdict(low / half, high / half) == CONTRADICTED for _, low, high in found])

    assert contradicted(0.0, DRAWS) <= 0.05
    assert contradicted(4 * half, 100) >= 0.9 and contradicted(-4 * half, 100) >= 0.9
