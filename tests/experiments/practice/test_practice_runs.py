"""Practice runs change one setting at a time, long runs never repeat their text, and measurements have known answers."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam.artifact import config
from ctadam.data.text import load_corpus
from ctadam.experiments import configure
from ctadam.experiments.practice import runs as practice
from ctadam.experiments.practice.measure import measure
from ctadam.experiments.practice.predict import COLUMNS, predict
from ctadam.storage.store import read_runs
from ctadam.theory import stability

PAIR = {"beta1": 0.96, "beta2": 0.88}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def laptop():
    return configure("practice", config.resolve("laptop")["practice"])


def test_every_run_changes_one_thing_or_starts_from_what_is_usual(laptop):
    runs = practice.grid(laptop)
    assert runs["run"].tolist() == list(range(len(runs)))
    settings = ["beta1", "beta2", "eps", "state_dtype", "clip", "weight_decay", "lr", "precision"]
    one = runs[runs["variant"] != "long"]
    assert not one.duplicated([*settings, "seed"]).any()
    one = one.drop_duplicates(settings)
    bare = {**PAIR, "eps": 0.0, "state_dtype": "float64", "clip": np.inf, "weight_decay": 0.0, "lr": laptop.lr}
    bare["precision"] = "float32"
    usual = bare | {"eps": 1e-8, "state_dtype": "float32"}

    def changed(row, start):
        return {name for name in settings if row[name] != start[name]}

    apart = [min(len(changed(row, bare)), len(changed(row, usual)) or 9) for _, row in one.iterrows()]
    # Alone, but for the pair (two decays), ε with precision, and clipping with decay on top of what is usual.
    assert max(apart) == 2
    changes = [changed(row, bare) for _, row in one.iterrows()]
    assert set() in changes and {"clip"} in changes and {"precision"} in changes
    assert {"clip", "weight_decay"} in [changed(row, usual) for _, row in one.iterrows()]
    c = stability.stability_coefficient(beta1=one["beta1"], beta2=one["beta2"], law="exact")
    other = (one["beta2"] != PAIR["beta2"]).to_numpy()
    assert (c[other] > 0).all() and (c[~other] < 0).all()


def test_every_interval_has_at_least_five_seeds_that_no_earlier_run_used(laptop):
    runs = practice.grid(laptop)
    needed = (runs["eps"] == 0) | (runs["state_dtype"] == "float64")
    judged = runs[((runs["variant"] != "protection") & needed) | (runs["precision"] == "bfloat16")]
    settings = ["variant", "point", "beta1", "beta2", "eps", "state_dtype", "clip", "weight_decay", "lr", "precision"]
    assert judged.groupby(settings)["seed"].nunique().min() >= 5 and runs["seed"].min() >= 100
    bare = runs[(runs["variant"] == "epsilon") & (runs["eps"] == 0) & (runs["state_dtype"] == "float64")]
    assert set(runs.loc[runs["precision"] == "bfloat16", "seed"]) == set(bare["seed"])


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_long_runs_take_10000_steps_whose_growth_float32_parameters_can_hold(scale):
    settings = configure("practice", config.resolve(scale)["practice"])
    long = practice.grid(settings).query("variant == 'long'")
    assert settings.long.steps == 10_000 and long["seed"].nunique() >= 5
    growth = stability.growth_rate(beta1=long["beta1"], beta2=long["beta2"], law="exact") * settings.long.steps
    assert 0 < growth.max() < np.log(np.finfo(np.float32).max) / 2  # normalization squares the parameters


def test_long_runs_read_every_token_at_most_once(laptop):
    """As input and as target, in 10,000 steps on the embedded text."""
    corpus, task = practice._learning(laptop, long=True, device=CPU)
    drawn = task.draw(laptop.long.steps, torch.Generator().manual_seed(0))
    assert drawn.shape == (10_000, laptop.long.batch)
    context = laptop.long.model.context
    positions = drawn[..., None] * context + torch.arange(context)
    assert positions.unique().numel() == positions.numel() < len(corpus.train)
    inputs, targets = task.read(drawn)
    assert torch.equal(inputs, corpus.train[positions]) and torch.equal(targets, corpus.train[positions + 1])


def test_recorded_steps_and_summaries(smoke):
    runs, settings = read_runs(smoke, "practice"), configure("practice", config.resolve("smoke")["practice"])
    asked = practice.grid(settings).set_index("run")["steps"]
    assert set(runs["run"]) == set(asked.index)
    for run, steps in runs.groupby("run"):
        n = set(steps["step"])
        assert {x for x in range(asked[run]) if x % settings.record_every < 2} | {asked[run] - 1} <= n
        assert len(n) < asked[run] and steps["ratio_exact"].nunique() == 1
        bound = stability.update_bound(**steps[["beta1", "beta2", "step"]], law="exact")
        ratio = (steps["update_max"] / bound).max()
        rounding = 1e-9 if steps["state_dtype"].iloc[0] == "float64" else 1e-6
        assert ratio <= steps["ratio_exact"].iloc[0] <= 1 + rounding
    assert (runs["text_passes"] > 0).all() and runs.loc[runs["variant"] == "long", "text_passes"].max() < 1


def test_the_token_is_the_word_of_the_row(smoke):
    runs = read_runs(smoke, "practice").query("variant != 'long'")
    text = configure("practice", config.resolve("smoke")["practice"]).text
    corpus = load_corpus(
        text.source, tokenization="words", test_fraction=text.test_fraction, context=8, limit=text.words
    )
    of_words = runs["update_tensor"].isin(["embedding", "head"])
    assert of_words.any() and not of_words.all()
    assert (runs.loc[~of_words, "token"] == "").all()
    assert runs.loc[of_words, "token"].tolist() == [corpus.vocabulary[i] for i in runs.loc[of_words, "update_row"]]


def test_caps_are_predicted_where_there_is_something_to_cap():
    runs = pd.DataFrame(
        {
            "run": range(4), "variant": "epsilon", "point": -1,
            "beta1": [0.96, 0.96, 0.9, 0.96], "beta2": [0.88, 0.88, 0.999, 0.88],
            "lr": 1e-3, "weight_decay": 0.0, "eps": [1e-8, 0.0, 1e-8, 1e-12], "clip": np.inf, "precision": "float32",
            "state_dtype": ["float64", "float32", "float64", "float64"], "seed": 0, "step": 699,
        }
    )  # fmt: skip
    table = predict(runs[COLUMNS])
    assert table["cap"].notna().tolist() == table["cap_unseen"].notna().tolist() == [True, False, False, True]
    unseen, cap = stability.epsilon_cap(**PAIR, eps=1e-8)
    assert (table.loc[0, "cap"], table.loc[0, "cap_unseen"]) == (cap, unseen)
    assert table.loc[3, "cap"] > cap and table.loc[3, "cap_unseen"] > unseen
    assert 0.88 ** table.loc[1, "underflow_unseen"] == pytest.approx(2.0**-149)
    assert table.loc[0, "underflow_unseen"] > 7 * table.loc[1, "underflow_unseen"]


def recorded(**columns):
    """Recorded steps of one run."""
    n = np.arange(400)
    run = pd.DataFrame(
        {
            "run": 0, "variant": "long", "point": 63, **PAIR, "eps": 0.0, "state_dtype": "float64",
            "clip": np.inf, "precision": "float32", "lr": 1e-3, "weight_decay": 0.0, "seed": 0, "step": n,
            "update_tensor": "embedding", "update_row": 3, "unseen": n % 50, "token": "word",
            "update_max": stability.prefactor(**PAIR, step=n) * np.exp(0.02 * (n % 50)), "test_loss": 1.0,
            "ratio_paper": 0.5, "ratio_exact": 0.6, "train_loss_max": 9.0, "text_passes": 0.9, "diverged_at": -1,
        }
    )  # fmt: skip
    return run.assign(**columns)


def test_growth_is_measured_per_step_unseen_and_between_successive_steps_in_one_row():
    """A token returns every 50 steps: growth at the full rate in the time unseen, and a step down at each return."""
    whole = recorded()
    thinned = whole[(whole["step"] % 10 < 2) | (whole["step"] == 399)]
    for run in (whole, thinned):
        row = measure(run).iloc[0]
        assert row["unseen_rate"] == pytest.approx(0.02, rel=1e-9)
        assert row["held_rate"] == pytest.approx(0.02, rel=1e-9) and row["held_share"] == 1
        assert row["steps"] == 400 and row["peak"] == run["update_max"].max() and row["text_passes"] == 0.9
    never = measure(recorded(unseen=-1)).iloc[0]
    assert np.isnan(never["unseen_rate"]) and np.isnan(never["peak_unseen"])
    moving = measure(recorded(update_row=np.arange(400))).iloc[0]
    assert np.isnan(moving["held_rate"]) and moving["held_share"] == 0


def test_the_step_at_which_a_run_diverged_is_excluded():
    run = recorded(diverged_at=399)
    run.loc[399, "update_max"] = np.inf
    row = measure(run).iloc[0]
    assert np.isfinite(row["peak"]) and row["steps"] == 399 and row["diverged_at"] == 399
    at_once = measure(recorded(diverged_at=0).head(1)).iloc[0]
    assert at_once["steps"] == 0 and np.isnan(at_once["peak"])
