"""The sweep over learning rates and k: which runs there are, and what is measured."""

import numpy as np
import pandas as pd
import pytest

from ctadam.artifact import config
from ctadam.experiments import configure
from ctadam.experiments.k_sweep.measure import measure, pairs, tuned
from ctadam.experiments.k_sweep.predict import COLUMNS, predict
from ctadam.experiments.k_sweep.runs import grid, run
from ctadam.optim import stage_betas


def resolved(scale, **changes):
    return configure("k_sweep", config.resolve(scale, {"k_sweep": changes})["k_sweep"])


@pytest.mark.parametrize("scale", config.SCALES)
def test_grid_has_every_strategy_at_every_rate_and_every_k_at_one(scale):
    model = resolved(scale)
    runs = grid(model)
    assert runs["run"].tolist() == list(range(len(runs)))
    assert not runs.duplicated(["norm", "k", "strategy", "lr", "seed"]).any()
    seeds, strategies = len(model.seeds), len(model.strategies)
    for norm, group in runs.groupby("norm"):
        network = model.normalized if norm else model
        rates = len(network.lrs) + (0 if norm else len(model.adam_lrs))
        expected = {k: seeds * (strategies if k > 1 else 1) for k in network.ks}
        expected |= {1: expected[1] * rates, 2: expected[2] * len(network.lrs)}
        assert group.groupby("k").size().to_dict() == expected
    for row in runs.drop_duplicates(["k", "strategy"]).itertuples():
        assert (row.last_beta1, row.last_beta2) == stage_betas(row.strategy, row.k, betas=(0.9, 0.999))[-1]


def test_the_rate_of_the_sweep_over_k_is_one_of_all():
    runs = grid(resolved("smoke", lr=0.5))
    assert (runs["lr"] == 0.5).groupby(runs["k"]).any().all()


def test_new_seeds_are_used():
    assert min(seed for scale in config.SCALES for seed in resolved(scale).seeds) >= 100


@pytest.fixture(scope="module")
def raw():
    import torch

    model = resolved("smoke", strategies=["exp"], seeds=[100], test_every=2)
    runs = grid(model).query("k < 3 and lr >= 0.001 and not norm")
    steps = run(runs, resolved("smoke", test_every=1), device=torch.device("cpu"), progress=lambda n: None)[0]
    return run(runs, model, device=torch.device("cpu"), progress=lambda n: None)[0], steps


def test_update_rms_is_that_of_all_steps_so_far(raw):
    tested, steps = raw
    for number, rows in tested.groupby("run"):
        assert rows["step"].tolist() == [1, 3, 5]
        sizes = steps[steps["run"] == number].set_index("step")["update_rms"].astype(float)
        assert rows.set_index("step")["update_rms"].tolist() == sizes.loc[[1, 3, 5]].tolist()
        # Where the gradient is not 0, Adam's first update is 1.
        assert 0.5 < sizes[0] <= 1.0 + 1e-5


def test_raw_runs_hold_what_claims_and_figures_read(raw):
    tested, _ = raw
    numbers = ["update_rms", "test_loss", "test_score"]
    assert (tested[numbers].dtypes == np.float32).all()
    assert {"param_norm", "update_tensor", "steps", "stages"}.isdisjoint(tested)
    predicted = predict(tested.groupby("run", as_index=False).last()[COLUMNS])
    assert set(predicted["C"] > 0) == {True} and (predicted["lag"] > 0).all()


def results(rows):
    """Raw runs of two tests each, from ``(norm, k, strategy, lr, seed, accuracy, update_rms, diverged_at)``."""
    names = ["norm", "k", "strategy", "lr", "seed", "test_score", "update_rms", "diverged_at"]
    table = pd.DataFrame(rows, columns=names).assign(weight_decay=0.0, test_loss=1.0, chance_level=0.1)
    table.insert(0, "run", range(len(table)))
    return pd.concat([table.assign(step=9, test_score=0.3), table.assign(step=19)], ignore_index=True)


def test_a_diverged_run_counts_as_chance():
    found = measure(results([(False, 1, "naive", 0.1, 0, 0.7, 0.3, -1), (False, 2, "exp", 0.1, 0, 0.9, np.inf, 19)]))
    assert found["accuracy"].tolist() == [0.7, 0.1] and found["steps"].tolist() == [20, 20]
    assert found["update_rms"].isna().tolist() == found["test_loss"].isna().tolist() == [False, True]


def test_pairs_compare_the_same_seed_rate_and_network():
    rows = [(norm, 1, "naive", lr, seed, 0.5 + lr + 0.01 * seed, 0.25, -1)
            for norm in (False, True) for lr in (0.1, 0.2, 0.4) for seed in (0, 1)]  # fmt: skip
    rows += [
        (norm, 2, "exp", 0.1, seed, 0.7 + 0.01 * seed + 0.1 * norm, 0.5, -1)
        for norm in (False, True)
        for seed in (0, 1)
    ]
    found = pairs(measure(results(rows)))
    assert found["gain"].tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert found["rms_ratio"].tolist() == [2.0] * 4 and found["raised_lr"].tolist() == pytest.approx([0.2] * 4)
    assert found["raised_gain"].tolist() == pytest.approx([0.0, 0.0, 0.1, 0.1])
    # Halfway between two rates in the logarithm.
    between = pairs(measure(results([(*row[:6], 0.5 * 2**0.5 if row[1] == 2 else 0.25, -1) for row in rows])))
    assert between["raised_gain"].tolist() == pytest.approx([-0.1, -0.1, 0.0, 0.0])


def test_each_seed_is_tuned_by_the_others():
    # The first rate has the best mean, but only for the luck of seed 0.
    accuracies = {0.1: [0.9, 0.5, 0.5], 0.2: [0.1, 0.6, 0.6]}
    rows = [(False, k, "naive", lr, seed, value, 0.3, -1)
            for k in (1, 2) for lr, values in accuracies.items() for seed, value in enumerate(values)]  # fmt: skip
    rows += [(False, 1, "naive", 0.3, seed, 0.99, 0.3, -1) for seed in range(3)]  # a rate that 2-Adam lacks
    found = tuned(measure(results(rows)))
    for _, group in found.groupby("k"):
        assert group["lr"].tolist() == [0.2, 0.1, 0.1] and group["accuracy"].tolist() == [0.1, 0.5, 0.5]
        assert group["at_end"].all()
