"""The runs of the tightness experiment: their gradients, and what is recorded and measured of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam.artifact import config as configuration
from ctadam.experiments import configure
from ctadam.experiments.tightness import runs as tightness
from ctadam.experiments.tightness.measure import measure
from ctadam.experiments.tightness.predict import COLUMNS, predict
from ctadam.theory import stability

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config():
    return configure("tightness", configuration.resolve("smoke")["tightness"])


@pytest.fixture(scope="module")
def table(config):
    return run(tightness.grid(config), config)


def run(runs, config):
    return tightness.run(runs, config, device=CPU, progress=lambda amount: None)[0]


def test_grid_has_every_kind_and_one_row_per_run(config):
    runs = tightness.grid(config)
    assert runs["run"].tolist() == list(range(len(runs)))
    counts = runs["kind"].value_counts()
    assert counts["worst"] == counts["random"] == config.draws and counts["wedge"] == config.wedge_draws
    assert counts["rmsprop"] == counts["sign"] == config.edge_draws // 2
    assert runs.loc[runs["kind"] == "kadam", "draw"].nunique() == config.kadam_draws
    assert not runs.duplicated(["draw", "kind", "place", "silent"]).any() and (runs["step"] < config.steps).all()


def test_wedge_lies_between_the_laws_and_edges_on_the_edges(config):
    runs = tightness.grid(config).set_index("kind")
    pair = {name: runs.loc["wedge", name].to_numpy() for name in ("beta1", "beta2")}
    assert (stability.stability_coefficient(**pair) < 0).all()
    assert (stability.stability_coefficient(**pair, law="exact") > 0).all()
    edge = runs.loc["rmsprop"]
    assert (edge["beta1"] == 0).all() and (edge["beta2"] ** (edge["step"] + 1) <= 1.001e-10).all()
    assert edge["beta2"].min() < 0.2 and edge["beta2"].max() > 0.8
    assert (runs.loc["sign", ["beta1", "beta2"]] == 0).all(axis=None)


def test_worst_case_gradients_attain_the_bound_and_others_do_not_exceed_it(table):
    joined = measure(table).merge(predict(table[COLUMNS].drop_duplicates()), on=["draw", "place"])
    ratio = joined["update"] / joined["bound_exact"]
    attained = joined["kind"].isin(["worst", "wedge", "rmsprop", "sign"])
    assert np.abs(ratio[attained] - 1).max() < 1e-9
    assert ratio[joined["kind"] == "random"].max() <= 1 + 1e-12
    edges = joined[joined["kind"].isin(["rmsprop", "sign"])]
    np.testing.assert_allclose(edges["limit_exact"], (1 - edges["beta2"]) ** -0.5, rtol=1e-14)
    np.testing.assert_allclose(edges["update"], edges["limit_exact"], rtol=1e-9)


def test_runs_equal_torchs_adam_on_the_same_gradients(config):
    """RMSprop is Adam with γ = 0, which torch allows."""
    runs = tightness.grid(config)
    row = runs[(runs["kind"] == "rmsprop") & (runs["step"] > 5)].iloc[[0]]
    found = run(row, config)["update"].item()
    theta = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([theta], lr=1.0, betas=(0.0, float(row["beta2"].item())), eps=1e-300)
    for n in range(row["step"].item() + 1):
        theta.grad = torch.full((1,), float(n == row["step"].item()), dtype=torch.float64)
        before = theta.item()
        optimizer.step()
    assert found == pytest.approx(abs(theta.item() - before), rel=1e-12)


@pytest.mark.parametrize("shards", [2, 5])
def test_a_run_does_not_depend_on_its_shard(config, table, shards):
    runs = tightness.grid(config)
    part = run(runs.iloc[1::shards], config)
    pd.testing.assert_frame_equal(part, table.iloc[1::shards], check_exact=True)


def test_rates_are_those_of_the_last_stage(table):
    measured = measure(table)
    assert measured.loc[measured["kind"] != "kadam", "rate"].isna().all()
    joined = measured.merge(predict(table[COLUMNS].drop_duplicates()), on=["draw", "place"])
    grown = joined[(joined["silent"] >= 0) & (joined["place"] == joined["k"])]
    assert len(grown) and grown["rate"].notna().all()
    assert (joined.loc[joined["silent"] == -1, "rate"].isna()).all()
    elsewhere = joined[(joined["kind"] == "kadam") & (joined["place"] != joined["k"])]
    assert elsewhere["ratio"].max() <= 1 + 1e-9
