"""Slopes of time series, and growth between steps at which one row holds the largest update."""

import numpy as np
import pandas as pd
import pytest

from ctadam.analysis.slopes import held, log_update, slope


def test_slope_of_a_line_is_exact():
    x = np.arange(50)
    fit = slope(x, 3 - 0.25 * x)
    assert fit["slope"] == pytest.approx(-0.25, abs=1e-13) and fit["r_squared"] == pytest.approx(1)


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
    assert fit["slope"] == pytest.approx(1)
    assert np.isnan(slope([0, 1, 2, 3], [0, 1, 2, 3])["slope"])


def test_growth_is_held_between_consecutive_steps_of_one_row():
    steps = pd.DataFrame({"step": [0, 1, 2, 4, 5], "update_tensor": [0, 0, 0, 0, 1], "update_row": [3, 3, 4, 4, 4]})
    assert held(steps).tolist() == [False, True, False, False, False]


def test_the_bias_correction_is_divided_out():
    """A coordinate without gradients: ln(u / prefactor) grows by exactly ln(γ/√β) per step."""
    beta1, beta2, n = 0.96, 0.88, np.arange(30)
    update = np.sqrt(1 - beta2 ** (n + 1)) / (1 - beta1 ** (n + 1)) * (beta1 / np.sqrt(beta2)) ** n
    steps = pd.DataFrame({"beta1": beta1, "beta2": beta2, "step": n, "update_max": update})
    assert np.diff(log_update(steps)) == pytest.approx(np.log(beta1 / np.sqrt(beta2)))
