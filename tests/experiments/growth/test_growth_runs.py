"""The table of runs: which points have every seed, and what the batch-size rule and its repair are."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam.artifact import config
from ctadam.artifact.runner import table_of_runs
from ctadam.errors import ArtifactError
from ctadam.experiments import configure
from ctadam.experiments.growth import runs as growth
from ctadam.experiments.growth.predict import COLUMNS, predict
from ctadam.theory import stability

LAPTOP = config.resolve("laptop")["growth"]


@pytest.fixture(scope="module")
def table():
    return table_of_runs("growth", LAPTOP)


@pytest.fixture(scope="module")
def predictions(table):
    return predict(table.assign(step=table["steps"] - 1)[COLUMNS])


def test_the_points_across_the_boundary_and_beyond_have_every_seed(table, predictions):
    curve = table[table["variant"] == "curve"].merge(predictions[["run", "C"]])
    assert curve["point"].nunique() == 64 and curve["seed"].min() == 100
    seeds = curve.groupby("point").agg(seeds=("seed", "nunique"), C=("C", "first"))
    repeated = seeds[seeds["seeds"] == 5]
    assert (repeated["C"] >= 0).sum() == 10 and (seeds.loc[seeds["C"] < 0, "seeds"] == 5).all()
    assert (seeds["seeds"].isin([1, 5])).all()


def test_characters_repeat_the_words_runs_well_outside(table):
    words, characters = (
        table[table["variant"] == name].set_index(["point", "seed"]) for name in ("curve", "characters")
    )
    assert set(characters.index) <= set(words.index)
    same = ["beta1", "beta2", "lr", "eps", "state_dtype", "steps"]
    pd.testing.assert_frame_equal(characters[same], words.loc[characters.index, same])


def test_the_rule_leaves_the_region_between_512_and_768(table, predictions):
    rule = predictions[predictions["variant"] == "rule"]
    outside = rule[rule["C_exact"] < 0]
    assert sorted(rule.loc[rule["C"] > 0, "batch_size"].unique()) == [128, 256, 512]
    assert sorted(outside["batch_size"].unique()) == [768, 1024, 2048] and outside["cap_unseen"].notna().all()
    assert np.allclose(rule["beta2"], 0.98 ** (rule["batch_size"] / 128)) and (rule["beta1"] == 0.95).all()
    assert (table.loc[table["variant"].isin(["rule", "floor"]), "seed"] >= 200).all()


def test_the_floor_is_the_boundary_and_its_bound_grows_like_a_root(predictions):
    floor = predictions[predictions["variant"] == "floor"]
    assert (floor["C"] == 0).all() and (floor["beta2"] == 0.95 / 1.05).all() and floor["eps"].nunique() == 2
    assert floor["bound_paper"].iloc[0] == pytest.approx(
        stability.update_bound(beta1=0.95, beta2=0.95 / 1.05, step=799), rel=1e-12
    )


def test_a_pair_is_trained_like_the_points(table):
    parameters = LAPTOP | {"pairs": [{"beta1": 0.97, "beta2": 0.9}]}
    more = table_of_runs("growth", parameters)
    pair = more[more["variant"] == "pair"]
    assert pair["seed"].tolist() == LAPTOP["seeds"] and set(pair["beta1"]) == {0.97}
    same = ["lr", "eps", "state_dtype", "steps", "tokenization", "weight_decay"]
    assert pair[same].drop_duplicates().iloc[0].equals(more.loc[more["variant"] == "curve", same].iloc[0])
    assert not (table_of_runs("growth", LAPTOP | {"pairs": []})["variant"] == "pair").any()


@pytest.mark.parametrize(
    "repaired, message", [([64], "one of batch_sizes"), ([512], "a batch size at which the recipe's pair has C < 0")]
)
def test_only_batch_sizes_outside_the_region_can_be_repaired(repaired, message):
    with pytest.raises(ArtifactError, match=message):
        config.resolve("laptop", {"growth": {"batch_rule": {"repaired": repaired}}})


def test_a_shortened_run_has_the_same_rows():
    """`ctadam verify` repeats the first steps only."""
    parameters = config.resolve("smoke")["growth"]
    settings = configure("growth", parameters | {"record_every": 3})
    runs = growth.grid(settings).iloc[[0]]
    short, long = (
        growth.run(runs.assign(steps=steps), settings, device=torch.device("cpu"), progress=lambda amount: None)[0]
        for steps in (6, 10)
    )
    columns = [name for name in short if name != "test_loss"]
    pd.testing.assert_frame_equal(short[columns], long.iloc[:6][columns])
    assert short["param_max"].notna().tolist() == [False, False, True] * 2
    assert short["param_max"].dtype == np.float32 and short["update_max"].dtype == np.float64
