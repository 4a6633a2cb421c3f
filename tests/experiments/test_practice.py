"""What ends the growth: the runs change one thing at a time, and their measurements have known answers."""

import numpy as np
import pandas as pd
import pytest

from ctadam.artifact import config
from ctadam.data.text import load_corpus
from ctadam.errors import ArtifactError
from ctadam.experiments.practice import runs as practice
from ctadam.experiments.practice.measure import measure
from ctadam.experiments.practice.predict import COLUMNS, predict
from ctadam.storage.store import read_runs
from ctadam.theory import stability

PAIR = {"beta1": 0.96, "beta2": 0.88}


@pytest.fixture
def parameters():
    return config.resolve("laptop")["practice"]


def test_every_run_changes_one_thing_or_starts_from_what_is_usual(parameters):
    points = practice.points(parameters)
    assert points["run"].tolist() == list(range(len(points)))
    one = points[points["variant"] != "long"]
    assert one["seed"].value_counts().nunique() == 1
    settings = ["beta1", "beta2", "eps", "state_dtype", "clip", "weight_decay", "lr", "precision"]
    one = one.drop_duplicates(settings)
    assert len(one) == len(points[points["variant"] != "long"]) / len(parameters["seeds"])
    bare = {**PAIR, "eps": 0.0, "state_dtype": "float64", "clip": np.inf, "weight_decay": 0.0, "lr": parameters["lr"]}
    bare["precision"] = "float32"
    usual = bare | {"eps": 1e-8, "state_dtype": "float32"}

    def changed(row, start):
        return {name for name in settings if row[name] != start[name]}

    apart = [min(len(changed(row, bare)), len(changed(row, usual)) or 9) for _, row in one.iterrows()]
    assert sorted({frozenset(changed(row, bare)) for _, row in one.iterrows()}, key=len)[0] == frozenset()
    # Alone, but for the pair (two decays), ε with precision, and clipping with decay on top of what is usual.
    assert max(apart) == 2
    assert {"clip"} in [changed(row, bare) for _, row in one.iterrows()]
    assert {"precision"} in [changed(row, bare) for _, row in one.iterrows()]
    assert {"clip", "weight_decay"} in [changed(row, usual) for _, row in one.iterrows()]
    c = stability.stability_coefficient(beta1=one["beta1"], beta2=one["beta2"], law="exact")
    other = (one["beta2"] != PAIR["beta2"]).to_numpy()
    assert (c[other] > 0).all() and (c[~other] < 0).all()


def test_a_point_that_is_not_there(parameters):
    with pytest.raises(ArtifactError, match=r"practice.long.points: 64 is not below practice.long.of, 64"):
        practice.points(parameters | {"long": parameters["long"] | {"points": [0, 64]}})


def test_the_token_is_the_word_of_the_row(smoke):
    runs = read_runs(smoke, "practice")
    settings = config.resolve("smoke")["practice"]
    corpus = load_corpus(
        settings["text"], tokenization="words", test_fraction=settings["test_fraction"],
        context=settings["model"]["context"], limit=settings["words"],
    )  # fmt: skip
    of_words = runs["update_tensor"].isin(["embedding", "head"])
    assert of_words.any() and not of_words.all()
    assert (runs.loc[~of_words, "token"] == "").all()
    assert runs.loc[of_words, "token"].tolist() == [corpus.vocabulary[i] for i in runs.loc[of_words, "update_row"]]


def test_a_limited_text_is_its_beginning():
    whole, part = (
        load_corpus("pydoc", tokenization="words", test_fraction=0.25, context=8, limit=limit) for limit in (None, 1000)
    )
    assert len(part.train) == 750 and len(part.test) == 250 and part.sha256 == whole.sha256
    words = [whole.vocabulary[i] for i in whole.train[:1000]]
    assert [part.vocabulary[i] for i in [*part.train, *part.test]] == words
    with pytest.raises(ArtifactError, match="has 9 words: too short"):
        load_corpus("pydoc", tokenization="words", test_fraction=0.5, context=8, limit=9)


def test_caps_are_predicted_where_there_is_something_to_cap():
    points = pd.DataFrame(
        {
            "run": range(4), "variant": "epsilon", "point": -1,
            "beta1": [0.96, 0.96, 0.9, 0.96], "beta2": [0.88, 0.88, 0.999, 0.88],
            "lr": 1e-3, "weight_decay": 0.0, "eps": [1e-8, 0.0, 1e-8, 1e-12], "state_dtype": "float64", "clip": np.inf,
            "seed": 0, "step": 699,
        }
    )  # fmt: skip
    table = predict(points[COLUMNS])
    assert table["cap"].notna().tolist() == table["cap_unseen"].notna().tolist() == [True, False, False, True]
    unseen, cap = stability.epsilon_cap(**PAIR, eps=1e-8)
    assert (table.loc[0, "cap"], table.loc[0, "cap_unseen"]) == (cap, unseen)
    assert table.loc[3, "cap"] > cap and table.loc[3, "cap_unseen"] > unseen


def test_growth_per_step_unseen_is_told_from_growth_per_step():
    """A token comes back every 50 steps: no growth over the run, growth at the full rate in the time unseen."""
    n = np.arange(400)
    unseen = n % 50
    run = pd.DataFrame(
        {
            "run": 0, "variant": "long", "point": 63, "tokens": "words", **PAIR, "eps": 0.0, "state_dtype": "float64",
            "clip": np.inf, "precision": "float32", "lr": 1e-3,
            "weight_decay": 0.0, "seed": 0, "step": n, "update_tensor": "embedding",
            "update_row": 3, "unseen": unseen, "token": "word", "param_max": 1.0, "param_norm": 1.0, "displacement_max": 1.0,
            "update_max": stability.prefactor(**PAIR, step=n) * np.exp(0.02 * unseen), "train_loss": 9 - n / 100,
            "test_loss": 1.0, "diverged_at": -1,
        }
    )  # fmt: skip
    row = measure(run).iloc[0]
    assert row["unseen_rate"] == pytest.approx(0.02, rel=1e-9) and row["longest_unseen"] == 49
    assert abs(row["rate"]) < 0.002 and row["clip"] == np.inf and row["train_loss_max"] == 9
    never = measure(run.assign(unseen=-1)).iloc[0]
    assert np.isnan(never["unseen_rate"]) and never["unseen_rate_df"] == 0
