"""The equations against the optimizer: what a run records is what it says, and the solver is not what is measured."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from ctadam import cli
from ctadam.artifact import config
from ctadam.data.digits import load_digits
from ctadam.errors import ArtifactError
from ctadam.experiments.trajectory import runs as trajectory
from ctadam.experiments.trajectory.measure import measure
from ctadam.models.mlp import MLP
from ctadam.optim import KAdam
from ctadam.storage.store import read_csv, read_runs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parameters():
    """A network of 2 × 8 weights less than smoke's, on the digits, and no transformer runs but those asked for."""
    return config.resolve("smoke")["trajectory"]


def test_points_cover_everything_once(parameters):
    points = trajectory.points(parameters)
    assert points["run"].tolist() == list(range(len(points)))
    flows = points[points["variant"] == "flow"]
    assert (
        len(flows) == 2 * 3 * 2 * 4 and not flows.duplicated(["model", "lr", "weight_decay", "order", "kernel"]).any()
    )
    assert (points["variant"] == "discrete").sum() == 2 * 3 * 2
    assert sorted(points.loc[points["variant"] == "relabelled", "p"].unique()) == [0.5, 2.0]
    # Four shards: one equation each.
    for shard in range(4):
        share = points.iloc[shard::4]
        assert len(share[share["variant"] != "discrete"].groupby(["order", "kernel"])) == 1


def test_the_optimizer_is_kadam_and_the_record_its_own(smoke, parameters):
    """Losses, distances and single weights of one run, made again with the optimizer itself."""
    runs = read_runs(smoke, "trajectory")
    row = runs.query("variant == 'discrete' and model == 'mlp' and lr == 0.001 and weight_decay == 1").set_index("step")
    problem = trajectory._Problem("mlp", parameters, CPU)
    theta, chosen = problem.start(0)
    digits = load_digits(parameters["mlp"]["examples"])
    model = MLP(features=64, width=8, depth=1, classes=10, generator=torch.Generator()).double()
    torch.nn.utils.vector_to_parameters(theta.clone(), model.parameters())
    optimizer = KAdam(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=0.0, weight_decay=1.0, k=1)
    before = None
    for n in range(parameters["steps"] + 1):
        loss = F.cross_entropy(model(digits.images), digits.labels)
        now = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        assert row.loc[n, "loss"] == pytest.approx(loss.item(), rel=1e-10)
        assert row.loc[n, "distance"] == pytest.approx(float((now - theta).norm()), rel=1e-9, abs=1e-15)
        shown = row.loc[n, [f"weight_{i}" for i in range(16)]].to_numpy(dtype=float)
        np.testing.assert_allclose(shown, now[chosen[:16]].numpy(), rtol=1e-9, atol=1e-12)
        optimizer.zero_grad()
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        if before is not None:
            assert row.loc[n, "sign_changes"] == pytest.approx(
                float((gradient * before < 0).double().mean()), abs=1e-12
            )
        before = gradient
        optimizer.step()


def test_the_weights_shown_are_those_of_the_errors(smoke):
    """Pictured weights of equation and optimizer start together and part by no more than all weights do."""
    runs = read_runs(smoke, "trajectory")
    names = [f"weight_{i}" for i in range(16)]
    for (_, decay), some in runs[runs["weight_0"].notna()].groupby(["model", "weight_decay"]):
        discrete = some[some["variant"] == "discrete"].set_index("step")
        for _, equation in some[some["variant"] == "flow"].groupby("run"):
            equation = equation.set_index("step")
            off = np.linalg.norm(equation[names].to_numpy() - discrete[names].to_numpy(), axis=1)
            assert off[0] == 0 and off[-1] > 0, decay
            assert (off[1:] <= (equation["error"] * discrete["distance"]).to_numpy()[1:] * (1 + 1e-9)).all()


def test_smoke_runs_track_and_the_solver_is_finer_than_the_error(smoke):
    table = read_csv(smoke, "trajectory", "measurements")
    flows = table[table["variant"] == "flow"]
    assert (flows["error_end"] < 0.2).all() and (flows["error_end"] > 0).all() and (flows["diverged_at"] == -1).all()
    checked = flows[flows["solver_error_end"].notna()]
    assert len(checked) == len(flows) / 2  # those without weight decay
    assert (checked["solver_error_end"] < 0.3 * checked["error_end"]).all()
    assert (table.loc[table["variant"] == "relabelled", "p_difference_max"] < 1e-12).all()


def test_shards_agree_whatever_is_beside_a_run(parameters):
    """A run's numbers do not depend on the runs it is integrated with, but for rounding."""
    small = {**parameters, "steps": 4, "lrs": [1e-3, 3e-3]}
    points = trajectory.points(small).query("model == 'mlp' and order != 2 and variant != 'relabelled'")
    whole, _ = trajectory.run(points, small, device=CPU, progress=lambda n: None)
    alone, _ = trajectory.run(points.iloc[[2]], small, device=CPU, progress=lambda n: None)
    same = whole[whole["run"] == alone["run"].iloc[0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, alone, rtol=1e-9, atol=1e-12)


def test_progress_adds_up_to_the_cost(parameters):
    small = {**parameters, "steps": 3, "lrs": [1e-3]}
    points = trajectory.points(small).query("model == 'mlp'")
    done = []
    trajectory.run(points, small, device=CPU, progress=done.append)
    assert sum(done) == trajectory.cost(points)[0] and trajectory.cost(points)[1] == "step"


def made(errors, *, lr=1e-3, **columns):
    """Raw rows of one equation's run with these errors from step 1 on."""
    table = pd.DataFrame({"step": range(len(errors) + 1), "error": [np.nan, *errors]})
    base = {
        "run": 0, "variant": "flow", "model": "mlp", "order": 1, "kernel": "paper", "p": 0.0, "lr": lr, "weight_decay": 0.0,
        "beta1": 0.9, "beta2": 0.999, "seed": 0, "solver_error": 0.001, "p_difference": np.nan, "distance": np.nan,
        "loss": np.nan, "sign_changes": np.nan,
    }  # fmt: skip
    return table.assign(**base | columns)


@pytest.mark.parametrize(
    "errors, above, largest",
    [
        ([0.1, 0.04, 0.03], -1, 1),
        ([0.01, 0.06, 0.04, 0.07, 0.08], 4, 5),
        ([0.06, 0.07], 1, 2),
        ([0.01, np.nan, np.inf], 2, 1),
    ],
)
def test_when_an_equation_has_left(errors, above, largest):
    row = measure(made(errors)).iloc[0]
    assert row["above_from"] == above and row["error_max_step"] == largest and row["steps"] == len(errors)
    assert row["diverged_at"] == (-1 if np.isfinite(errors).all() else 2)
    assert row["error_end"] == errors[-1] or not np.isfinite(errors[-1])


def test_errors_at_a_common_time():
    """n·lr is the same: 8 steps of the small learning rate, 2 of the one four times as large."""
    runs = pd.concat([made(np.arange(1, 9) / 100), made(np.arange(1, 9) / 10, run=1, lr=4e-3)])
    assert measure(runs)["error_common"].tolist() == pytest.approx([0.08, 0.2])


def test_bad_input_is_one_line(tmp_path, capsys):
    words = ["run", "trajectory", "--scale", "smoke", "--out", str(tmp_path)]
    for change, message in (
        ("trajectory.beta1=0", "trajectory.beta1: 0 is not allowed (allowed: number in (0, 1))"),
        (
            "trajectory.mlp.examples=5000",
            "trajectory.mlp.examples: 5000 is not allowed (allowed: integer in [1, 1797])",
        ),
        ("trajectory.mlp.substeps=[3, 2]", "trajectory.mlp.substeps.0: 3 is not allowed"),
        ("trajectory.transformer.model.heads=3", "model.heads: 3 is not allowed (allowed: a divisor of width, 8)"),
        ("trajectory.transformer.text=no/such.txt", "cannot read the text 'no/such.txt'"),
    ):
        assert cli.main([*words, "--shard", "30/60", "--set", change, "--set", "trajectory.steps=10"]) == 1
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said, change


def test_digits_are_whole_and_say_what_they_are():
    digits = load_digits()
    assert digits.images.shape == (1797, 64) and digits.images.dtype == torch.float64
    assert digits.images.min() == 0 and digits.images.max() == 1 and sorted(digits.labels.unique()) == list(range(10))
    few = load_digits(10)
    assert torch.equal(few.images, digits.images[:10]) and few.sha256 == digits.sha256 and len(few.sha256) == 64
    with pytest.raises(ArtifactError, match="examples: 1798 is not between 1 and 1797"):
        load_digits(1798)


def test_mlp_depends_on_its_generator_alone():
    make = [
        MLP(features=64, width=16, depth=2, classes=10, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    ]
    vectors = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in make]
    assert torch.equal(vectors[0], vectors[1]) and not torch.equal(vectors[0], vectors[2])
    assert make[0](torch.rand(3, 64)).shape == (3, 10)
    hidden = make[0][2].weight  # 16 inputs: deviation 1/4
    assert 0.2 < hidden.std().item() < 0.3 and not make[0][2].bias.any()
    with pytest.raises(ValueError, match="depth -1 is less than 0"):
        MLP(features=64, width=16, depth=-1, classes=10, generator=torch.Generator())
