"""Measurements on series whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from ctadam.experiments.growth.measure import measure
from ctadam.experiments.growth.predict import displacement_rate
from ctadam.theory.stability import prefactor

PAIR = {"beta1": 0.99, "beta2": 0.95}


def run(update, run=0, **columns):
    """A raw run with a given series of updates."""
    n = np.arange(len(update))
    return pd.DataFrame(
        {
            "run": run, "variant": "curve", "point": 3, "tokenization": "words", **PAIR, "eps": 0.0, "state_dtype": "float64",
            "lr": 1e-3, "weight_decay": 0.0, "seed": 0, "step": n, "update_max": update, "update_tensor": "head",
            "update_row": 7, "unseen": n, "param_max": np.exp(0.01 * n), "param_norm": 1.0,
            "displacement_max": 1e-3 * np.exp(0.02 * n), "train_loss": 1.0, "test_loss": np.where(n % 10 == 9, 2.0 + n, np.nan),
            "diverged_at": -1, **columns,
        }
    )  # fmt: skip


def test_rate_is_that_of_the_update_without_its_bias_correction():
    n = np.arange(200)
    row = measure(run(prefactor(**PAIR, step=n) * 5 * np.exp(0.0123 * n))).iloc[0]
    assert row["rate"] == pytest.approx(0.0123, abs=1e-12) and row["held_rate"] == pytest.approx(0.0123, abs=1e-12)
    assert row["displacement_rate"] == pytest.approx(0.02, abs=1e-12)
    assert row["param_rate"] == pytest.approx(0.01, abs=1e-12)
    assert (row["steps"], row["window_start"]) == (200, 120)
    assert row["peak"] == pytest.approx(5 * prefactor(**PAIR, step=0))
    assert row["test_loss"] == 2.0 + 199 and row["held_share"] == 1


def test_sizes_that_are_recorded_every_few_steps_give_the_same_slopes():
    table = run(np.ones(200))
    recorded = table["step"] % 5 == 4
    thinned = table.assign(**{name: table[name].where(recorded) for name in ("param_max", "displacement_max")})
    row = measure(thinned).iloc[0]
    assert row["displacement_rate"] == pytest.approx(0.02, abs=1e-12)
    assert row["param_rate"] == pytest.approx(0.01, abs=1e-12)


def test_held_rate_ignores_jumps_between_rows():
    n = np.arange(100)
    rows = np.where(n < 80, 7, 9)
    update = prefactor(**PAIR, step=n) * np.exp(0.02 * n) * np.where(n < 80, 1.0, 0.3)
    row = measure(run(update, update_row=rows)).iloc[0]
    assert row["held_rate"] == pytest.approx(0.02, abs=1e-12) and row["rate"] < 0.01
    assert row["held_share"] == pytest.approx(38 / 39)


def test_held_rate_is_a_median_that_one_gradient_does_not_move():
    n = np.arange(100)
    update = prefactor(**PAIR, step=n) * np.exp(0.02 * n) * np.where(n < 80, 1.0, 0.3)
    assert measure(run(update)).iloc[0]["held_rate"] == pytest.approx(0.02, abs=1e-12)


def test_diverged_runs_keep_their_row():
    short = run(np.array([1.0, 1.1, np.inf]), diverged_at=2)
    at_once = run(np.array([np.nan]), run=1, seed=1, diverged_at=0)
    table = measure(pd.concat([short, at_once]))
    assert table["diverged_at"].tolist() == [2, 0] and table["steps"].tolist() == [2, 0]
    assert table["peak"].iloc[0] == 1.1 and np.isnan(table["rate"]).all()


def test_a_coordinate_without_gradients_moves_at_the_predicted_slope():
    """Adam's own arithmetic: one gradient of 1, then none."""
    pair, steps = {"beta1": 0.99, "beta2": 0.957}, 300
    m, v, theta, moved = 0.0, 0.0, 0.0, []
    for n in range(steps):
        g = float(n == 0)
        m, v = pair["beta1"] * m + (1 - pair["beta1"]) * g, pair["beta2"] * v + (1 - pair["beta2"]) * g
        theta -= 1e-3 * prefactor(**pair, step=n) * m / np.sqrt(v)
        moved.append(abs(theta))
    measured = np.polyfit(np.arange(180, 300), np.log(moved[180:]), 1)[0]
    assert displacement_rate(**pair, steps=steps) == pytest.approx(measured, rel=1e-9)
    # The asymptote ln(γ/√β) is not reached.
    assert measured > 1.05 * np.log(pair["beta1"] / np.sqrt(pair["beta2"])) or measured < 0.95 * np.log(
        pair["beta1"] / np.sqrt(pair["beta2"])
    )


@pytest.mark.parametrize("betas", [(0.0, 0.9), (0.9, 0.0)])
def test_no_slope_is_predicted_where_a_beta_is_zero(betas):
    assert np.isnan(displacement_rate(beta1=betas[0], beta2=betas[1], steps=10))
