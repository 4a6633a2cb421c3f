"""Generalization against C: what is run, what is kept of it, and measurements whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctadam.analysis.seeds import spearman
from ctadam.artifact import config
from ctadam.errors import ArtifactError
from ctadam.experiments.generalization import runs as generalization
from ctadam.experiments.generalization.measure import measure
from ctadam.storage.store import read_csv, read_runs
from ctadam.theory import stability


@pytest.fixture
def parameters():
    return config.resolve("laptop")["generalization"]


def test_points_lie_where_they_should(parameters):
    points = generalization.points(parameters)
    assert points["run"].tolist() == list(range(len(points)))
    assert not points.duplicated(["task", "curve", "level", "point", "lr", "seed"]).any()
    c = stability.stability_coefficient(beta1=points["beta1"], beta2=points["beta2"])
    level = points["curve"] == "level"
    np.testing.assert_allclose(c[level], points.loc[level, "level"], atol=1e-12)
    normal = points[points["curve"] == "normal"].drop_duplicates("point")
    assert len(normal) == 64 and (c[normal.index] > 0).sum() > 40 and (c[normal.index] < 0).sum() > 5
    usual = points[points["curve"] == "usual"].drop_duplicates("point")[["beta1", "beta2"]]
    assert usual.to_numpy().tolist() == [[0.9, 0.999], [0.9, 0.99], [0.9, 0.95], [0.95, 0.95]]
    # Every pair with every learning rate and seed; one learning rate the same for all.
    for task in ("text", "images"):
        some = points[points["task"] == task]
        assert (
            some.groupby(["curve", "level", "point"], dropna=False).size() == 5 * len(parameters[task]["lrs"])
        ).all()
        assert some.loc[some["fixed"], "lr"].unique().tolist() == [parameters[task]["lr"]]


def test_only_steps_with_a_test_loss_are_kept(smoke):
    runs = read_runs(smoke, "generalization")
    settings = config.resolve("smoke")["generalization"]
    for task, group in runs.groupby("task"):
        every, steps = settings[task]["test_every"], settings[task]["steps"]
        expected = list(range(every - 1, steps, every))
        assert all(run["step"].tolist() == expected for _, run in group.groupby("run"))
    assert runs["test_loss"].notna().all()
    # The models learn: the usual pair's loss is below the uniform guess and below what it was.
    usual = runs.query("curve == 'usual' and point == 0 and lr == 0.01")
    losses = usual.groupby(["task", "step"])["test_loss"].mean()
    assert losses["images"].iloc[-1] < losses["images"].iloc[0] < np.log(10) + 0.5
    assert losses["text"].iloc[-1] < losses["text"].iloc[0]


def test_settings_that_do_not_go_together_are_one_line(parameters):
    with pytest.raises(ArtifactError, match=r"generalization.text.lr: 0.5 is not among generalization.text.lrs"):
        generalization.points(parameters | {"text": parameters["text"] | {"lr": 0.5}})
    levels = parameters["levels"] | {"coefficients": [-3.0]}
    with pytest.raises(ArtifactError, match=r"generalization.levels: C = -3 is not to be had"):
        generalization.points(parameters | {"levels": levels})


def raw(losses, run=0, **columns):
    """A raw run of 100 steps, tested every 10, with these test losses; shorter if it diverged."""
    step = np.arange(9, 100, 10)[: len(losses)]
    return pd.DataFrame(
        {
            "run": run, "task": "text", "curve": "usual", "level": np.nan, "point": 0, "beta1": 0.9, "beta2": 0.999,
            "lr": 1e-3, "fixed": True, "seed": 0, "step": step, "test_loss": losses, "diverged_at": -1, **columns,
        }
    )  # fmt: skip


FALLING = 5 - 0.4 * np.arange(10)


def test_losses_at_fixed_steps_and_steps_to_the_usual_pairs_loss():
    usual = raw(FALLING)
    faster = raw(FALLING - 1, run=1, curve="normal")
    between = raw(FALLING + 0.1, run=2, curve="normal", point=1)
    never = raw(np.full(10, 5.0), run=3, curve="normal", point=2)
    at_once = raw(np.full(10, 0.1), run=4, curve="normal", point=3)
    table = measure(pd.concat([usual, faster, between, never, at_once])).set_index("run")
    assert table["loss_quarter"].tolist()[:2] == [FALLING[1], FALLING[1] - 1]  # the last test by step 25 is at 20
    assert table["loss_half"].tolist()[:2] == [FALLING[4], FALLING[4] - 1] and table.loc[0, "loss_end"] == FALLING[9]
    assert (table["target"] == FALLING[4]).all()
    # The loss falls by 0.4 in 10 steps: 1 less is 25 steps sooner, 0.1 more 2.5 later.
    assert table["steps_to_target"].tolist() == pytest.approx([50, 25, 52.5, np.inf, 10])


def test_a_diverged_run_has_no_loss_from_there_on():
    ended = raw([4.0, 3.0, np.nan], run=1, curve="normal", diverged_at=29)
    table = measure(pd.concat([raw(FALLING), ended])).set_index("run")
    assert table.loc[1, ["loss_quarter", "loss_half", "loss_end"]].tolist() == [3.0, np.inf, np.inf]
    assert table.loc[1, "steps_to_target"] == pytest.approx(10 + 10 * (4 - 3.4))


def test_the_learning_rate_is_tuned_on_the_other_seeds():
    """lr 0.1 is lucky with seed 0 alone: seed 0, judged by the others, must not choose it."""
    ends = {(0.1, 0): 0.0, (0.1, 1): 3.0, (0.1, 2): 3.0, (0.01, 0): 1.0, (0.01, 1): 1.0, (0.01, 2): 1.0}
    ends |= {(0.5, 0): np.nan, (0.5, 1): np.nan, (0.5, 2): 0.5}
    parts = [raw(FALLING, run=100)]
    for i, ((lr, seed), end) in enumerate(ends.items()):
        some = {"diverged_at": 99 if np.isnan(end) else -1, "curve": "normal"}
        parts.append(raw([*FALLING[:-1], end], run=i, lr=lr, seed=seed, fixed=lr == 0.01, **some))
    table = measure(pd.concat(parts)).query("run < 100")
    chosen = table[table["tuned"]].set_index("seed")["lr"].to_dict()
    # For seed 2 the two others: 0.1 has 0 and 3, 0.01 has 1 and 1. 0.5 diverged for one of them each time.
    assert chosen == {0: 0.01, 1: 0.01, 2: 0.01}
    only = measure(pd.concat([raw(FALLING), raw(FALLING - 1, run=1, lr=0.1, fixed=False)]))
    assert only["tuned"].tolist() == [False, True]  # no other seed: its own loss


def test_spearman_is_scipys_seed_by_seed():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"seed": [0] * 20 + [1] * 20, "x": rng.normal(size=40)})
    table["y"] = table["x"] + rng.normal(size=40)
    table.loc[3, "y"] = np.inf
    expected = [stats.spearmanr(group["x"], group["y"]).statistic for _, group in table.groupby("seed")]
    assert spearman(table, "x", "y").tolist() == pytest.approx(expected)
    assert np.isnan(spearman(table.assign(y=1.0), "x", "y")).all()


def test_shipped_measurements_are_those_of_the_smoke_run(smoke):
    """Through the files: what was written is what is measured again."""
    again = measure(read_runs(smoke, "generalization"))
    pd.testing.assert_frame_equal(read_csv(smoke, "generalization", "measurements"), again, check_dtype=False)
