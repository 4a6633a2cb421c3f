"""Measurements on series whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from ctadam.experiments.growth.measure import measure
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
