"""The experiments with k-Adam and its baselines: points, what tuning chooses, what a step costs."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam.analysis.seeds import over_seeds
from ctadam.artifact import config
from ctadam.experiments.baselines import measure as measured
from ctadam.experiments.baselines import predict as predicted
from ctadam.experiments.baselines import runs as baselines
from ctadam.experiments.k_sweep import runs as stages
from ctadam.experiments.k_sweep.measure import differences, measure
from ctadam.optim import KAdam, stage_betas
from ctadam.training.torch_optimizers import TORCH_OPTIMIZERS


@pytest.mark.parametrize("scale", config.SCALES)
def test_points_of_the_stages(scale):
    parameters = config.resolve(scale)["k_sweep"]
    points = stages.points(parameters)
    assert points["run"].tolist() == list(range(len(points)))
    few, many = len(parameters["seeds"]), len(parameters["pair_seeds"])
    for _, group in points.groupby("norm"):
        sizes = group.groupby("k").size().to_dict()
        assert sizes == {k: many if k == 1 else 4 * (many if k == 2 else few) for k in parameters["ks"]}
    for row in points.itertuples():
        assert (row.last_beta1, row.last_beta2) == stage_betas(row.stages, row.k, betas=(0.9, 0.999))[-1]


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_points_of_the_baselines(scale):
    parameters = config.resolve(scale)["baselines"]
    points = baselines.points(parameters)
    grid = points.groupby(["task", "contender"])[["lr", "weight_decay", "seed"]].apply(
        lambda g: set(g.itertuples(index=False))
    )
    assert len(grid) == 2 * len(parameters["contenders"])
    assert all(cell == grid.iloc[0] for cell in grid)  # the same grid and seeds for each
    assert len(grid.iloc[0]) * len(grid) == len(points)
    for shard in range(parameters["shards"]) if len(parameters["contenders"]) % parameters["shards"] == 0 else ():
        own = points.iloc[shard :: parameters["shards"]]
        assert own.groupby("contender").size().nunique() == 1
        assert own["contender"].nunique() == len(parameters["contenders"]) / parameters["shards"]


def table(values):
    """Measurements of one task: ``values[contender][setting][seed]``."""
    rows = [
        {
            "run": 0,
            "task": "images",
            "contender": c,
            "family": c[0],
            "lr": lr,
            "weight_decay": 0.0,
            "seed": seed,
            "value": value,
        }
        for c, settings in values.items()
        for lr, seeds in enumerate(settings)
        for seed, value in enumerate(seeds)
    ]
    return pd.DataFrame(rows).assign(run=range(len(rows)))


def test_each_seed_is_judged_at_the_setting_that_the_others_choose():
    # Setting 0 has the best mean, but only for the luck of seed 0: judged without it, setting 1 is chosen there.
    # Ties (B) go to the first.
    made = table({"A": [[0.9, 0.5, 0.5], [0.1, 0.6, 0.6]], "B": [[0.2, 0.3, 0.4], [0.3, 0.2, 0.3]]})
    chosen = made[measured.choose(made, "contender")]
    settings = {(r.contender, r.seed): r.lr for r in chosen.itertuples()}
    assert settings == {("A", 0): 1, ("A", 1): 0, ("A", 2): 0, ("B", 0): 0, ("B", 1): 0, ("B", 2): 0}


def test_a_family_chooses_among_its_contenders():
    made = table({"A1": [[0.5, 0.5, 0.5]], "A2": [[0.6, 0.4, 0.6]]})
    chosen = made[measured.choose(made, "family")]
    assert chosen.set_index("seed")["contender"].to_dict() == {0: "A1", 1: "A2", 2: "A1"}  # a tie goes to the first


def test_judging_by_other_seeds_is_not_biased():
    """Settings that differ by luck alone: the best of the sweep looks good, the value of tuning does not."""
    rng = np.random.default_rng(0)
    best, honest = [], []
    for _ in range(50):
        values = rng.normal(size=(20, 5))
        made = table({"A": values.tolist()})
        best.append(values.mean(1).max())
        honest.append(made.loc[measured.choose(made, "contender"), "value"].mean())
    assert np.mean(best) > 0.7 and abs(np.mean(honest)) < 3 * np.std(honest) / np.sqrt(50)


def raw(**columns):
    """Raw runs of one setting: four tests of each of two runs, the second of which diverges."""
    made = pd.DataFrame({"run": [0] * 4 + [1] * 2, "step": [9, 19, 29, 39, 9, 14], "seed": [0] * 4 + [1] * 2})
    made = made.assign(
        task="images", contender="A", family="A", lr=0.1, weight_decay=0.0, test_score=[0.1, 0.3, 0.5, 0.6, 0.2, np.nan],
        test_loss=[2.0, 1.5, 1.0, 0.9, 2.0, np.nan], diverged_at=[-1] * 4 + [14] * 2, guess=0.15,
    )  # fmt: skip
    return made.assign(**columns)


def test_a_diverged_run_is_worth_a_guess():
    found = measured.measure(raw())
    assert found["value"].tolist() == [0.6, 0.15]
    assert measured.measure(raw(task="text", guess=3.0))["value"].tolist() == [-0.9, -3.0]


def test_a_part_of_the_steps_is_the_shorter_run():
    share = pd.Series({0: 0.625, 1: 0.625})  # 25 of 40 steps: halfway between two tests
    assert measured.at_share(raw(), share)["value"].tolist() == pytest.approx([0.4, 0.15])
    assert measured.at_share(raw(), share * 0 + 1)["value"].tolist() == pytest.approx([0.6, 0.15])
    assert measured.at_share(raw(task="text"), share)["value"].iloc[0] == pytest.approx(-1.25)


def test_bytes_are_those_of_the_state():
    """Counted from what each optimizer really keeps for a parameter."""
    rows = []
    for contender, changes in baselines.CONTENDERS.items():
        rows.append(
            {"run": 0, "task": "images", "contender": contender, "optimizer": "kadam", "k": 1, "step": 9} | changes
        )
    found = predicted.predict(pd.DataFrame(rows)).set_index("contender")
    point = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    for contender, changes in baselines.CONTENDERS.items():
        leaf = torch.nn.Parameter(torch.ones(1000))
        leaf.grad = torch.ones(1000)
        if changes.get("optimizer") == "unsmoothed":
            kept = 3  # m, v and w
        else:
            kind, options = (
                TORCH_OPTIMIZERS[changes["optimizer"]] if "optimizer" in changes else (KAdam, lambda _: {"k": 2})
            )
            optimizer = kind([leaf], lr=1e-3, **options(point))
            optimizer.step()
            kept = sum(s.numel() == 1000 for s in optimizer.state[leaf].values() if torch.is_tensor(s))
        assert found.loc[contender, "bytes"] == 12 + 8 * kept, contender
    assert found.loc["AdamW", ["bytes", "share"]].tolist() == [predicted.ADAM_BYTES, 1.0]
    assert found.loc["2-Adam exp", "share"] == pytest.approx(28 / 44) and found.loc["SGD, momentum", "share"] == 1


def test_measurements_of_the_stages():
    runs = raw(norm=False, k=2, stages="exp", train_loss=1.0, update_max=[3.0, 1.0, 1.0, 1.0, 2.0, np.inf])
    found = measure(runs)
    assert found["accuracy"].tolist() == [0.6, 0.15] and found["update_max"].tolist() == [3.0, np.inf]
    assert (
        found["test_loss"].tolist()[0] == 0.9
        and np.isnan(found["test_loss"][1])
        and found["steps"].tolist() == [40, 15]
    )
    adam = found.assign(k=1, stages="naive", accuracy=[0.5, 0.1])
    assert differences(pd.concat([found, adam]))[False, "exp"] == pytest.approx([0.1, 0.05])


def test_interval_over_seeds_covers_the_mean():
    rng = np.random.default_rng(0)
    inside = [low < 1 < high for _, low, high in (over_seeds(rng.normal(1, 2, 5)) for _ in range(400))]
    assert 0.92 < np.mean(inside) < 0.98
    assert over_seeds([2.0]) == (2.0, -np.inf, np.inf)
    # What cannot be larger than 1 is not said to be.
    mean, low, high = over_seeds([0.9, 0.99, 1.0])
    assert high > 1 and over_seeds([0.9, 0.99, 1.0], within=(-1, 1)) == (mean, low, 1)
