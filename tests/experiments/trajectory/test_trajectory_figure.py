"""Test that figure 1 shows what claims T1, T2 and T4-T6 judge."""

import numpy as np

from ctadam.analysis import style
from ctadam.experiments.trajectory import figure
from ctadam.storage.store import read_runs


def test_figure_shows_weights_equations_rates_and_curvature(smoke):
    with style.context():
        picture = figure.draw(smoke)
        adam, adamw, r_squared, errors, ratios, curvature = picture.axes
        assert len(adam.lines) == len(adamw.lines) == 16  # dots and a line for each of 8 weights
        for dots, line in zip(adam.lines[::2], adam.lines[1::2], strict=True):
            assert line.get_zorder() >= dots.get_zorder() and line.get_ydata()[0] == dots.get_ydata()[0]
        assert len(r_squared.lines) == 2 * 4 + 1  # two models, without and with decay: runs and their mean; the target
        assert len(errors.containers) == 8 and len(ratios.containers) == 4
        for ax in (r_squared, errors, ratios):
            assert [text.get_text() for text in ax.get_xticklabels()] == ["0.0003", "0.001", "0.003"]
        lines = [line for line in curvature.lines if line.get_color() == figure.MEASURED]
        assert len(lines) == 3  # one per learning rate
        limits = [line.get_ydata()[0] for line in curvature.lines if line.get_linestyle() == "--"]
        assert limits == [2.1, 38]
        legend = [text.get_text() for text in picture.legends[0].get_texts()]
        assert [label[:9] for label in legend[:4]] == ["1st order", "1st order", "2nd order", "2nd order"]
        style.close(picture)


def test_curvature_is_the_recorded_one_times_the_learning_rate(smoke):
    runs = read_runs(smoke, "trajectory").query("model == 'transformer' and sharpness == sharpness and step > 0")
    with style.context():
        picture = figure.draw(smoke)
        drawn = [line.get_ydata() for line in picture.axes[5].lines if line.get_color() == figure.MEASURED]
        style.close(picture)
    expected = [rows["lr"].to_numpy() * rows["sharpness"].to_numpy() for _, rows in runs.groupby("lr")]
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)
