"""The baselines: which runs there are, what tuning chooses, and what a step costs."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam.artifact import config
from ctadam.errors import ArtifactError
from ctadam.experiments import configure
from ctadam.experiments.baselines import measure as measured
from ctadam.experiments.baselines import predict as predicted
from ctadam.experiments.baselines.contenders import CONTENDERS, FAMILIES
from ctadam.experiments.baselines.figure import looks
from ctadam.experiments.baselines.runs import grid, run
from ctadam.optim import KAdam
from ctadam.training.torch_optimizers import TORCH_OPTIMIZERS


def resolved(scale, **changes):
    return configure("baselines", config.resolve(scale, {"baselines": changes})["baselines"])


@pytest.mark.parametrize("scale", config.SCALES)
def test_all_contenders_have_the_same_grid_and_seeds(scale):
    model = resolved(scale)
    runs = grid(model)
    contenders = model.contenders or list(CONTENDERS)
    cells = runs.groupby(["task", "contender"])[["lr", "weight_decay", "seed"]].apply(
        lambda rows: set(rows.itertuples(index=False))
    )
    assert len(cells) == len(model.steps.model_dump(exclude_unset=True)) * len(contenders)
    assert all(cell == cells.iloc[0] for cell in cells)
    assert len(cells.iloc[0]) * len(cells) == len(runs) and min(model.seeds) >= 100


def test_an_unknown_contender_is_named():
    with pytest.raises(
        ArtifactError, match=r"baselines.contenders.1: 'Lion' is not allowed \(allowed: 2-Adam inverse-exp, "
    ):
        grid(resolved("smoke", contenders=["AdamW", "Lion"]))


def test_an_empty_list_is_all_contenders():
    assert grid(resolved("smoke", contenders=[]))["contender"].drop_duplicates().tolist() == list(CONTENDERS)


def test_every_optimizer_of_the_registry_is_a_contender_with_its_own_look():
    names = {entry.name for entry in TORCH_OPTIMIZERS.values()}
    assert names <= set(CONTENDERS) and names <= set(FAMILIES)
    assert len({tuple(look.values()) for look in looks().values()}) == len(FAMILIES)


def test_tuning_and_test_use_different_examples_and_both_are_recorded():
    model = resolved("smoke", contenders=["AdamW"])
    raw, details = run(grid(model), model, device=torch.device("cpu"), progress=lambda n: None)
    images, text = (raw[raw["task"] == task] for task in ("images", "text"))
    for rows in (images, text):
        assert rows[["test_loss", "validation_loss", "update_rms"]].notna().all(axis=None)
        assert (rows["test_loss"] != rows["validation_loss"]).all()
    assert images["validation_score"].notna().all() and text["validation_score"].isna().all()
    assert raw["test_score"].dtype == raw["validation_score"].dtype == np.float32
    assert details["chunks"].keys() == details["weights"].keys() == {"images", "text"}


def table(values):
    """Validation results of one task: ``values[contender][setting][seed]``."""
    rows = [
        {
            "run": 0,
            "task": "images",
            "contender": c,
            "family": c[0],
            "lr": lr,
            "weight_decay": 0.0,
            "seed": seed,
            "validation": value,
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
    chosen = made[measured.choose(made, made["contender"])]
    settings = {(r.contender, r.seed): r.lr for r in chosen.itertuples()}
    assert settings == {("A", 0): 1, ("A", 1): 0, ("A", 2): 0, ("B", 0): 0, ("B", 1): 0, ("B", 2): 0}


def test_a_family_chooses_among_its_contenders():
    made = table({"A1": [[0.5, 0.5, 0.5]], "A2": [[0.6, 0.4, 0.6]]})
    chosen = made[measured.choose(made, made["family"])]
    assert chosen.set_index("seed")["contender"].to_dict() == {0: "A1", 1: "A2", 2: "A1"}  # a tie goes to the first


def test_judging_by_other_seeds_is_not_biased():
    """Settings that differ by luck alone: the best of the sweep looks good, the value of tuning does not."""
    rng = np.random.default_rng(0)
    best, honest = [], []
    for _ in range(50):
        values = rng.normal(size=(20, 5))
        made = table({"A": values.tolist()})
        best.append(values.mean(1).max())
        honest.append(made.loc[measured.choose(made, made["contender"]), "validation"].mean())
    assert np.mean(best) > 0.7 and abs(np.mean(honest)) < 3 * np.std(honest) / np.sqrt(50)


def raw(**columns):
    """Raw runs of one setting: four tests of each of two runs, the second of which diverges."""
    made = pd.DataFrame({"run": [0] * 4 + [1] * 2, "step": [9, 19, 29, 39, 9, 14], "seed": [0] * 4 + [1] * 2})
    made = made.assign(
        task="images", contender="A", family="A", lr=0.1, weight_decay=0.0, diverged_at=[-1] * 4 + [14] * 2, chance_level=0.15,
        update_rms=0.5, **{f"{part}_score": [0.1, 0.3, 0.5, 0.6, 0.2, np.nan] for part in ("test", "validation")},
        **{f"{part}_loss": [2.0, 1.5, 1.0, 0.9, 2.0, np.nan] for part in ("test", "validation")},
    )  # fmt: skip
    return made.assign(**columns)


def test_a_diverged_run_counts_as_chance():
    found = measured.measure(raw())
    assert found["value"].tolist() == [0.6, 0.15]
    assert measured.measure(raw(task="text", chance_level=3.0))["value"].tolist() == [-0.9, -3.0]


def test_a_part_of_the_steps_is_the_shorter_run():
    share = pd.Series({0: 0.625, 1: 0.625})  # 25 of 40 steps: halfway between two tests
    assert measured.at_share(raw(), share)["value"].tolist() == pytest.approx([0.4, 0.15])
    assert measured.at_share(raw(), share * 0 + 1)["value"].tolist() == pytest.approx([0.6, 0.15])
    assert measured.at_share(raw(task="text"), share)["value"].iloc[0] == pytest.approx(-1.25)


def test_a_result_that_is_not_finite_counts_as_chance():
    rows = raw(test_score=[0.1, 0.3, 0.5, np.nan, 0.2, np.nan])
    assert measured.measure(rows)[["value", "validation"]].iloc[0].tolist() == [0.15, 0.6]


def test_the_rival_is_the_best_baseline_by_validation():
    rows = [raw(run=10 * i, seed=seed, family=family, contender=family, validation_score=score, test_score=0.9 - score)
            .assign(diverged_at=-1).iloc[:4].assign(run=10 * i + seed)
            for i, (family, score) in enumerate({"2-Adam": 0.8, "AdamW": 0.7, "RMSprop": 0.6, "SGD": 0.5}.items())
            for seed in range(3)]  # fmt: skip
    found = measured.measure(pd.concat(rows, ignore_index=True))
    assert found.loc[found["chosen_as_rival"], "family"].tolist() == ["RMSprop"] * 3
    assert found["chosen_in_family"].all()


def test_bytes_are_those_of_the_state():
    """Counted from what each optimizer really keeps for a parameter."""
    rows = [{"run": 0, "task": "images", "contender": name, "step": 9} | row for name, row in CONTENDERS.items()]
    found = predicted.predict(pd.DataFrame(rows)[predicted.COLUMNS]).set_index("contender")
    run = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    for contender, columns in CONTENDERS.items():
        if columns["optimizer"] == "unsmoothed":
            kept = 3  # m, v and w
        else:
            entry = TORCH_OPTIMIZERS.get(columns["optimizer"])
            leaf = torch.nn.Parameter(torch.ones(1000))
            leaf.grad = torch.ones(1000)
            optimizer = entry.optimizer_class([leaf], lr=1e-3, **entry.options(run)) if entry else KAdam([leaf], k=2)
            optimizer.step()
            kept = sum(s.numel() == 1000 for s in optimizer.state[leaf].values() if torch.is_tensor(s))
        assert found.loc[contender, "bytes"] == 12 + 8 * kept, contender
    assert found.loc["AdamW", ["bytes", "share"]].tolist() == [predicted.ADAM_BYTES, 1.0]
    assert found.loc["2-Adam exp", "share"] == pytest.approx(28 / 44) and found.loc["SGD, momentum", "share"] == 1
