"""Measurements on series whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctadam.measurements.growth import measure
from ctadam.measurements.slopes import half_width, slope
from ctadam.theory.stability import prefactor

PAIR = {"beta1": 0.99, "beta2": 0.95}


def run(update, run=0, **columns):
    """A raw run with a given series of updates."""
    n = np.arange(len(update))
    return pd.DataFrame(
        {
            "run": run, "variant": "curve", "point": 3, "tokens": "words", **PAIR, "eps": 0.0, "state_dtype": "float64",
            "lr": 1e-3, "weight_decay": 0.0, "seed": 0, "step": n, "update_max": update, "update_tensor": "head",
            "update_row": 7, "unseen": n, "param_max": np.exp(0.01 * n), "param_norm": 1.0,
            "displacement_max": 1e-3 * np.exp(0.02 * n), "train_loss": 1.0, "test_loss": np.where(n % 10 == 9, 2.0 + n, np.nan),
            "diverged_at": -1, **columns,
        }
    )  # fmt: skip


def test_slope_of_a_line_is_exact():
    x = np.arange(50)
    fit = slope(x, 3 - 0.25 * x)
    assert fit["slope"] == pytest.approx(-0.25, abs=1e-13) and fit["se"] < 1e-9
    assert fit["r_squared"] == pytest.approx(1) and fit["df"] == pytest.approx(48)


def test_interval_covers_the_truth_when_residuals_are_correlated():
    """A random walk that forgets over ten steps around a line: the plain interval is far too narrow, this one is not."""
    rng = np.random.default_rng(0)
    x, covered, plain = np.arange(300), 0, 0
    for _ in range(200):
        noise = np.zeros(300)
        for i in range(1, 300):
            noise[i] = 0.9 * noise[i - 1] + rng.normal()
        fit = slope(x, 0.01 * x + noise)
        covered += abs(fit["slope"] - 0.01) < half_width(fit["se"], fit["df"])
        plain += abs(fit["slope"] - 0.01) < 1.97 * stats.linregress(x, noise).stderr
    assert plain < 120 < 180 <= covered


@pytest.mark.parametrize("size", [0, 1e-13, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-5, 1e-2])
@pytest.mark.parametrize("memory", [0.0, 0.99])
def test_rounding_changes_no_statistic_in_its_first_six_digits(size, memory):
    """Residuals of any size, from those of an exact exponential on, and the rounding errors of another processor."""
    rng, x = np.random.default_rng(1), np.arange(200)
    noise = rng.normal(size=200)
    for i in range(1, 200):
        noise[i] += memory * noise[i - 1]
    y = 8 + 0.02 * x + size * noise
    fits = [slope(x, y + rng.normal(scale=2e-15, size=200)) for _ in range(20)]
    for name, value in fits[0].items():
        assert [fit[name] for fit in fits] == pytest.approx([value] * 20, rel=1e-6), name


def test_slope_leaves_out_what_is_not_finite_and_gives_up_below_five_points():
    fit = slope([0, 1, 2, 3, 4, 5], [0, 1, np.nan, 3, 4, 5])
    assert fit["slope"] == pytest.approx(1) and fit["df"] == 3
    assert np.isnan(slope([0, 1, 2, 3], [0, 1, 2, 3])["slope"])


def test_rate_is_that_of_the_update_without_its_bias_correction():
    n = np.arange(200)
    row = measure(run(prefactor(**PAIR, step=n) * 5 * np.exp(0.0123 * n))).iloc[0]
    assert row["rate"] == pytest.approx(0.0123, abs=1e-12) and row["held_rate"] == pytest.approx(0.0123, abs=1e-12)
    assert row["displacement_rate"] == pytest.approx(0.02, abs=1e-12) and row["param_rate"] == pytest.approx(
        0.01, abs=1e-12
    )
    assert (row["steps"], row["window_start"]) == (200, 120)
    assert row["peak"] == pytest.approx(5 * prefactor(**PAIR, step=0)) and row["peak_step"] == 0
    assert row["test_loss"] == 2.0 + 199 and row["held_share"] == 1


def test_held_rate_ignores_jumps_between_rows():
    n = np.arange(100)
    rows = np.where(n < 80, 7, 9)
    update = prefactor(**PAIR, step=n) * np.exp(0.02 * n) * np.where(n < 80, 1.0, 0.3)
    row = measure(run(update, update_row=rows)).iloc[0]
    assert row["held_rate"] == pytest.approx(0.02, abs=1e-12) and row["rate"] < 0.01
    assert row["held_share"] == pytest.approx(38 / 39)


def test_rare_share_counts_rows_unseen_for_one_over_one_minus_beta():
    n = np.arange(100)  # window: 60 … 99, 1/(1−β) = 20
    unseen = np.where(n < 80, 25, 19)
    row = measure(run(np.ones(100), unseen=unseen)).iloc[0]
    assert row["rare_share"] == pytest.approx(0.5) and row["token_share"] == 1


def test_diverged_runs_keep_their_row():
    short = run(np.array([1.0, 1.1, np.inf]), diverged_at=2)
    at_once = run(np.array([np.nan]), run=1, seed=1, diverged_at=0)
    table = measure(pd.concat([short, at_once]))
    assert table["diverged_at"].tolist() == [2, 0] and table["steps"].tolist() == [2, 0]
    assert table["peak"].iloc[0] == 1.1 and np.isnan(table["rate"]).all()
