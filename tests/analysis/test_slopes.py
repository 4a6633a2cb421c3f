"""Slopes with an interval for correlated residuals."""

import numpy as np
import pytest
from scipy import stats

from ctadam.analysis.slopes import half_width, slope


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
