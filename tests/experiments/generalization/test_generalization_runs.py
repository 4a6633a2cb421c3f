"""Generalization against C: the grid of runs, what is kept of a run, and measurements whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctadam.analysis import style
from ctadam.analysis.seeds import spearman
from ctadam.artifact import config
from ctadam.experiments import configure
from ctadam.experiments.generalization import figure, runs
from ctadam.experiments.generalization.measure import measure
from ctadam.storage.store import read_csv, read_runs
from ctadam.theory import stability


def settings(scale="laptop", **changes):
    return configure("generalization", config.resolve(scale)["generalization"] | changes)


def test_curves_cross_at_the_usual_pair():
    grid = runs.grid(settings())
    assert grid["run"].tolist() == list(range(len(grid)))
    pairs = grid.drop_duplicates(["curve", "point"]).set_index("curve")
    c = pd.Series(stability.stability_coefficient(beta1=pairs["beta1"], beta2=pairs["beta2"]), pairs.index)
    constant = pd.Series(stability.normal_curve_constant(beta1=pairs["beta1"], beta2=pairs["beta2"]), pairs.index)
    assert pairs.loc["usual", ["beta1", "beta2"]].tolist() == [0.9, 0.999]
    np.testing.assert_allclose(c["level"], c["usual"], atol=1e-12)
    np.testing.assert_allclose(constant["normal"], constant["usual"], rtol=1e-12)
    assert c["usual"] == pytest.approx(0.2212, abs=5e-5)
    assert len(c["normal"]) == 12 and (c["normal"] > 0).sum() >= 8 and (c["normal"] < 0).sum() >= 2
    assert len(c["level"]) == 4 and pairs.loc["level", "beta2"].max() < 0.999


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_every_pair_is_trained_at_every_rate_and_seed(scale):
    model = settings(scale)
    grid = runs.grid(model)
    assert not grid.duplicated(["task", "curve", "point", "lr", "seed"]).any()
    for name, task in (("text", model.text), ("images", model.images or model.photographs)):
        rows = grid[grid["task"] == name]
        assert (rows.groupby(["curve", "point"]).size() == len(model.seeds) * len(task.lrs)).all()
        assert (rows["steps"] == task.steps).all() and not task.steps % task.test_every


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_seeds_are_new_and_enough_for_an_interval(scale):
    seeds = settings(scale).seeds
    assert min(seeds) >= 100 and len(seeds) >= 5


def test_only_steps_with_a_test_loss_are_kept(smoke):
    table = read_runs(smoke, "generalization")
    assert list(table) == runs.COLUMNS and table["test_loss"].dtype == np.float32
    model = settings("smoke")
    for name, task in (("text", model.text), ("images", model.images)):
        expected = list(range(task.test_every - 1, task.steps, task.test_every))
        assert all(run["step"].tolist() == expected for _, run in table[table["task"] == name].groupby("run"))
    assert table["test_loss"].notna().all()
    usual = table.query("curve == 'usual' and lr == 0.01").groupby(["task", "step"])["test_loss"].mean()
    for name in ("text", "images"):
        assert usual[name].iloc[-1] < usual[name].iloc[0]


def raw(losses, run=0, **columns):
    """A raw run of 100 steps, tested every 10, with these test losses; shorter if it diverged."""
    step = np.arange(9, 100, 10)[: len(losses)]
    usual = {"task": "text", "curve": "usual", "point": 0, "beta1": 0.9, "beta2": 0.999, "lr": 1e-3, "seed": 100}
    return pd.DataFrame(usual | {"run": run, "step": step, "test_loss": losses, "diverged_at": -1} | columns)


FALLING = 5 - 0.4 * np.arange(10)


def test_losses_are_means_over_the_last_fifth():
    task = raw(FALLING + 1, run=1, task="images")
    table = measure(pd.concat([raw(FALLING), task])).set_index("run")
    assert table["loss_end"].tolist() == pytest.approx([FALLING[8:].mean(), FALLING[8:].mean() + 1])
    assert table["loss_half"].tolist() == pytest.approx([FALLING[4], FALLING[4] + 1])  # tests at 50 of 40 < n ≤ 50


@pytest.mark.parametrize(
    "losses, diverged_at, half, end",
    [
        ([4.0, 3.0, np.nan], 29, np.inf, np.inf),
        ([*FALLING[:6], np.nan], 65, FALLING[4], np.inf),
        ([*FALLING[:9], np.nan], 99, FALLING[4], np.inf),
        ([*FALLING[:9], np.nan], -1, FALLING[4], np.inf),  # a test loss may overflow although the run is finite
    ],
)
def test_a_diverged_run_has_no_finite_loss_from_there_on(losses, diverged_at, half, end):
    ended = raw(losses, run=1, curve="normal", diverged_at=diverged_at)
    table = measure(pd.concat([raw(FALLING), ended])).set_index("run")
    assert table.loc[1, ["loss_half", "loss_end"]].tolist() == [half, end]


def rates(losses, **columns):
    """Runs with these final losses, ``{(lr, seed): loss}``."""
    start = 100 * (columns.get("curve") == "normal")
    return [
        raw(
            [*FALLING[:-2], end, end],
            run=start + i,
            lr=lr,
            seed=seed,
            diverged_at=99 if np.isnan(end) else -1,
            **columns,
        )
        for i, ((lr, seed), end) in enumerate(losses.items())
    ]


def chosen(table, column, curve):
    return table[table[column] & (table["curve"] == curve)].set_index("seed")["lr"].to_dict()


def test_learning_rates_are_chosen_on_the_other_seeds():
    """lr 0.1 is lucky with seed 100 alone; 0.5 diverges."""
    usual = {(0.1, 100): 0.0, (0.1, 101): 3.0, (0.1, 102): 3.0, (0.01, 100): 1.0, (0.01, 101): 1.0, (0.01, 102): 1.0}
    usual |= {(0.5, 100): np.nan, (0.5, 101): np.nan, (0.5, 102): 0.5}
    other = {key: 1 - loss for key, loss in usual.items()}  # prefers 0.1
    table = measure(pd.concat([*rates(usual), *rates(other, curve="normal")]))
    assert chosen(table, "usual_rate", "usual") == {100: 0.01, 101: 0.01, 102: 0.01}
    assert chosen(table, "usual_rate", "normal") == {100: 0.01, 101: 0.01, 102: 0.01}
    assert chosen(table, "own_rate", "normal") == {100: 0.1, 101: 0.1, 102: 0.1}


def test_of_equally_good_rates_one_is_chosen_and_a_single_seed_decides_for_itself():
    table = measure(pd.concat(rates({(lr, seed): 1.0 for lr in (0.1, 0.01) for seed in (100, 101)})))
    assert chosen(table, "usual_rate", "usual") == {100: 0.01, 101: 0.01} and table["usual_rate"].sum() == 2
    single = measure(pd.concat(rates({(0.01, 100): 2.0, (0.1, 100): 1.0})))
    assert chosen(single, "usual_rate", "usual") == {100: 0.1}


def test_each_task_has_its_own_rate():
    text = rates({(0.01, 100): 2.0, (0.1, 100): 1.0})
    images = [run.assign(task="images", run=run["run"] + 50) for run in rates({(0.01, 100): 1.0, (0.1, 100): 2.0})]
    table = measure(pd.concat([*text, *images]))
    assert table[table["usual_rate"]].set_index("task")["lr"].to_dict() == {"text": 0.1, "images": 0.01}


def test_spearman_is_scipys_seed_by_seed():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"seed": [0] * 20 + [1] * 20, "x": rng.normal(size=40)})
    table["y"] = table["x"] + rng.normal(size=40)
    table.loc[3, "y"] = np.inf
    expected = [stats.spearmanr(group["x"], group["y"]).statistic for _, group in table.groupby("seed")]
    assert spearman(table, "x", "y").tolist() == pytest.approx(expected)
    assert np.isnan(spearman(table.assign(y=1.0), "x", "y")).all()


def test_written_measurements_are_those_of_the_written_runs(smoke):
    again = measure(read_runs(smoke, "generalization"))
    pd.testing.assert_frame_equal(read_csv(smoke, "generalization", "measurements"), again, check_dtype=False)


def test_figure_shows_both_tasks_curves_and_claims(smoke):
    with style.context():
        picture = figure.draw(smoke)
        assert len(picture.axes) == 8
        for normal, inside, level, shares in (picture.axes[:4], picture.axes[4:]):

            def drawn(ax):
                lines = {line.get_marker(): line.get_xdata() for line in ax.lines}
                return {marker: lines[marker] for marker in ("o", "^", "*") if marker in lines}

            # The two choices of the learning rate, the first with the usual pair among its points.
            assert {marker: len(x) for marker, x in drawn(normal).items()} == {"o": 9, "^": 8, "*": 1}
            assert {"o", "*"} == set(drawn(inside)) and 1 < len(drawn(inside)["o"]) < 9 and min(drawn(inside)["o"]) > 0
            assert len(drawn(level)["o"]) == 3 and inside.get_ylim() == level.get_ylim()
            for ax in (normal, inside, level):  # compared with itself the usual pair has no excess loss
                assert {float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "*"} == {0.0}
            assert [text.get_text() for text in shares.get_yticklabels()] == list(figure.NAMES.values())
            assert sum(text.get_text() == "undecided" for text in shares.texts) == 3  # two seeds
        assert picture.axes[3].get_xlim() == picture.axes[7].get_xlim()
        assert len(picture.legends[0].get_texts()) == 4
        style.close(picture)
