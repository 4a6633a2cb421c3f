"""Test that figure 1 shows what claims T1, T2 and T4-T6 judge."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ctadam.analysis import style
from ctadam.experiments.trajectory import figure
from ctadam.experiments.trajectory.measure import START
from ctadam.storage.store import read_runs


def test_figure_shows_weights_equations_rates_and_curvature(smoke):
    with style.context():
        picture = figure.draw(smoke)
        weights, r_squared, curvature, mlp, transformer, ratios = picture.axes
        assert len(weights.lines) == 8 and len(weights.collections) == 1  # lines of the equation, dots of the optimizer
        assert all(line.get_zorder() > weights.collections[0].get_zorder() for line in weights.lines)
        # Two models, without and with decay: runs and their mean; the target.
        assert len(r_squared.lines) == 2 * 4 + 1
        for ax in (mlp, transformer):
            looks = {look["marker"] for look in style.EQUATIONS.values()}
            assert {line.get_marker() for line in ax.lines} & looks == looks
        assert mlp.get_ylim() == transformer.get_ylim()
        for ax in (r_squared, mlp, transformer, ratios):
            assert [text.get_text() for text in ax.get_xticklabels()] == ["0.0003", "0.001", "0.003"]
        assert not {line.get_color() for line in ratios.lines} & {look["color"] for look in style.EQUATIONS.values()}
        lines = [line for line in curvature.lines if line.get_color() == figure.MEASURED]
        assert len(lines) == 3  # one per learning rate
        limits = [line.get_ydata()[0] for line in curvature.lines if line.get_linestyle() == "--"]
        assert [round(limit, 1) for limit in limits] == [38, 2.1]
        legend = [text.get_text() for text in picture.legends[0].get_texts()]
        assert [label[:9] for label in legend] == ["1st order", "1st order", "2nd order", "2nd order"]
        style.close(picture)


def test_errors_are_the_geometric_means_over_seeds():
    rows = [{"lr": 1e-3, "error_end": e, "equation": (2, "paper")} for e in (1e-3, 1e-1)]
    with style.context():
        ax = plt.figure().add_subplot()
        ax.set(xscale="log", yscale="log")
        figure._errors(ax, pd.DataFrame(rows))
        (point,) = [line for line in ax.lines if line.get_marker() == style.EQUATIONS[2, "paper"]["marker"]]
        np.testing.assert_allclose(point.get_xydata(), [[1e-3, 1e-2]])
        style.close(ax.figure)


def test_curvature_is_the_recorded_one_times_the_learning_rate(smoke):
    runs = read_runs(smoke, "trajectory").query("model == 'transformer' and sharpness == sharpness and step > 0")
    with style.context():
        picture = figure.draw(smoke)
        drawn = [line.get_ydata() for line in picture.axes[2].lines if line.get_color() == figure.MEASURED]
        style.close(picture)
    expected = [rows["lr"].to_numpy() * rows["sharpness"].to_numpy() for _, rows in runs.groupby("lr")]
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


def test_marker_stands_where_the_equation_leaves():
    """Paths cross 2.1 at step 50 and stay below 38; the seeds leave at 40, 60 and never. At another rate all are lost early."""
    steps = np.arange(121)
    grid = [(lr, seed) for lr in (1e-3, 3e-3) for seed in (0, 1, 2)]
    common = {"model": "mlp", "weight_decay": 0.0}
    runs = pd.concat(
        pd.DataFrame({"lr": lr, "seed": seed, "step": steps, "sharpness": np.where(steps < 50, 1, 5) / lr, **common})
        for lr, seed in grid
    ).assign(variant="discrete")
    left = {(1e-3, 0): 40, (1e-3, 1): 60, (1e-3, 2): -1, (3e-3, 0): 1, (3e-3, 1): 3, (3e-3, 2): 20}
    rows = [
        {"lr": lr, "seed": seed, "order": order, "kernel": "paper", "above_from": left[lr, seed] if order == 2 else -1}
        for lr, seed in grid
        for order in (1, 2)
    ]
    table = pd.DataFrame(rows).assign(variant="flow", steps=120, error_end=0.1, error_late_max=0.1, **common)
    table["curvature_limit"] = np.where(table["order"] == 2, 2.1, 38.0)
    with style.context():
        ax = plt.figure().add_subplot()
        figure._sharpness(ax, runs, table)
        markers = [line for line in ax.lines if line.get_marker() == style.EQUATIONS[2, "paper"]["marker"]]
        assert not [line for line in ax.lines if line.get_marker() == style.EQUATIONS[1, "paper"]["marker"]]
        (late,), (early,) = (
            [line for line in markers if (line.get_xdata()[0] > START) == side] for side in (True, False)
        )
        assert late.get_xdata()[0] == 60 and late.get_ydata()[0] == 5 and early.get_ydata()[0] == 1
        assert [path.vertices[:, 0].tolist() for path in ax.collections[0].get_paths()] == [[40, 120]]
        style.close(ax.figure)
