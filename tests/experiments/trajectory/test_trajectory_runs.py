"""Test that the runs of ``trajectory`` record what they document, and that the solver's error is smaller than the equation's."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from ctadam import cli
from ctadam.artifact import config
from ctadam.data.digits import load_digits
from ctadam.errors import ArtifactError
from ctadam.experiments import configure
from ctadam.experiments.trajectory import runs as trajectory
from ctadam.experiments.trajectory.measure import measure
from ctadam.experiments.trajectory.predict import predict
from ctadam.models.mlp import MLP
from ctadam.optim import KAdam
from ctadam.storage.store import read_csv, read_runs
from ctadam.theory import flow

CPU = torch.device("cpu")


def settings(**changes):
    """Return the smoke configuration with changes."""
    return configure("trajectory", config.resolve("smoke")["trajectory"] | changes)


def ignore(amount):
    pass


def test_grid_covers_every_equation_once():
    runs = trajectory.grid(settings())
    assert runs["run"].tolist() == list(range(len(runs)))
    flows = runs[runs["variant"] == "flow"]
    assert not flows.duplicated(["model", "lr", "weight_decay", "order", "kernel", "seed"]).any()
    assert flows.groupby("weight_decay").size().to_dict() == {0.0: 2 * 3 * 4, 1.0: 2 * 3}
    decayed = flows[flows["weight_decay"] == 1]
    assert set(zip(decayed["order"], decayed["kernel"], strict=True)) == {trajectory.PAPERS}
    assert (runs["variant"] == "discrete").sum() == 2 * 3 * 2
    assert sorted(runs.loc[runs["variant"] == "relabelled", "p"].unique()) == [0.5, 2.0]


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_do_not_repeat_the_optimizer(shards):
    runs = trajectory.grid(settings(lrs=[1e-4, 3e-4, 1e-3, 3e-3], seeds=[100, 101, 102, 103, 104]))
    parts = [runs.iloc[part::shards].query("variant != 'relabelled'") for part in range(shards)]
    assert all(part["lr"].nunique() == 4 // shards for part in parts)


@pytest.fixture(scope="module")
def path():
    """Weights and gradients of KAdam on the MLP, lr 1e-3 and weight decay 1, as float64 arrays (steps + 1, d), with losses."""
    parameters = settings()
    theta, chosen = trajectory._Problem("mlp", parameters, CPU).start(100)
    digits = load_digits(parameters.mlp.examples)
    model = MLP(features=64, width=8, depth=1, classes=10, generator=torch.Generator()).double()
    torch.nn.utils.vector_to_parameters(theta.clone(), model.parameters())
    optimizer = KAdam(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=0.0, weight_decay=1.0, k=1)
    weights, losses = [], []
    for _ in range(parameters.steps + 1):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(digits.images), digits.labels)
        loss.backward()
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone().numpy())
        losses.append(loss.item())
        optimizer.step()
    return np.array(weights), np.array(losses), chosen.numpy()


def test_optimizer_is_kadam(smoke, path):
    weights, losses, _ = path
    runs = read_runs(smoke, "trajectory")
    rows = runs.query("variant == 'discrete' and model == 'mlp' and lr == 0.001 and weight_decay == 1").sort_values(
        "step"
    )
    np.testing.assert_allclose(rows["loss"], losses, rtol=1e-6)
    np.testing.assert_allclose(rows["distance"], np.linalg.norm(weights - weights[0], axis=1), rtol=1e-6)


def test_recorded_r_squared_equals_its_definition(path):
    """Integrate the paper's equation independently and compute R² from both paths."""
    weights, _, chosen = path
    parameters = settings(lrs=[1e-3], picture={"model": "mlp", "lr": 1e-3, "weights": 4}, weights=50)
    runs = trajectory.grid(parameters).query("model == 'mlp' and variant == 'flow' and weight_decay == 1")
    table, _ = trajectory.run(runs, parameters, device=CPU, progress=ignore)
    problem = trajectory._Problem("mlp", parameters, CPU)
    equation = flow.adamw(problem.gradient, lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=1.0, order=2)
    state, solved = equation.start(torch.from_numpy(weights[:1])), [weights[0]]
    for n in range(parameters.steps):
        substeps = max(parameters.mlp.substeps[1], 2 * -(-2 * parameters.first_substeps // (n + 4)))
        state = trajectory._integrate(equation, state, n, substeps)
        solved.append(state[0][0].numpy())
    off, own = np.array(solved) - weights, weights - weights.mean(0)
    error = np.linalg.norm(off, axis=1)[1:] / np.linalg.norm(weights - weights[0], axis=1)[1:]
    np.testing.assert_allclose(table["error"].iloc[1:], error, rtol=1e-5)
    some = chosen[:50]
    trained = np.ptp(weights[:, some] * (1 - 1e-3) ** -np.arange(len(weights))[:, None], axis=0) > 1e-9
    r2 = (1 - (off**2).sum(0) / (own**2).sum(0))[some][trained]
    last = table.iloc[-1]
    assert last["r2_weights"] == len(r2) < 50  # digits have pixels that are always 0, whose weights only decay
    for name, q in trajectory.QUANTILES.items():
        assert last[name] == pytest.approx(np.quantile(r2, q), abs=1e-9)
    assert table["r2_q50"].notna().sum() == 1


def test_pictured_weights_are_among_those_of_the_error(smoke):
    runs = read_runs(smoke, "trajectory")
    names = [f"weight_{i}" for i in range(8)]
    pictured = runs[runs["weight_0"].notna()]
    assert pictured["model"].unique() == ["transformer"] and pictured["run"].nunique() == 4
    for _, rows in pictured.groupby("weight_decay"):
        optimizer, equation = (rows[rows["variant"] == v].reset_index() for v in ("discrete", "flow"))
        off = np.linalg.norm(equation[names].to_numpy(float) - optimizer[names].to_numpy(float), axis=1)
        assert off[0] == 0 and off[-1] > 0
        assert (off[1:] <= (equation["error"] * optimizer["distance"]).to_numpy()[1:] * 1.001 + 1e-7).all()


def test_solver_error_is_smaller_than_the_error(smoke):
    table = read_csv(smoke, "trajectory", "measurements")
    flows = table[table["variant"] == "flow"]
    assert flows["error_end"].between(0, 0.2, inclusive="neither").all() and (flows["diverged_at"] == -1).all()
    assert flows["r2_median"].between(0.9, 1).all()
    checked = flows[flows["solver_error_end"].notna()]
    assert len(checked) == 2 * 3 * 4  # all without weight decay
    assert (checked["solver_error_end"] < 0.3 * checked["error_end"]).all()
    assert (table.loc[table["variant"] == "relabelled", "p_difference_max"] < 1e-12).all()


def test_a_run_does_not_depend_on_those_beside_it():
    small = settings(steps=10, lrs=[1e-3, 3e-3])
    runs = trajectory.grid(small).query("model == 'mlp' and order != 2 and variant != 'relabelled'")
    whole, _ = trajectory.run(runs, small, device=CPU, progress=ignore)
    for place in (2, -1):  # an equation and the optimizer
        alone, _ = trajectory.run(runs.iloc[[place]], small, device=CPU, progress=ignore)
        same = whole[whole["run"] == alone["run"].iloc[0]].reset_index(drop=True)
        pd.testing.assert_frame_equal(same, alone, rtol=1e-5, atol=1e-12)


def test_progress_adds_up_to_the_cost():
    small = settings(lrs=[1e-3])
    runs = trajectory.grid(small).query("model == 'mlp'")
    done = []
    trajectory.run(runs, small, device=CPU, progress=done.append)
    assert sum(done) == trajectory.cost(runs)[0] and trajectory.cost(runs)[1] == "step"


def made(errors, *, lr=1e-3, **columns):
    """Return raw rows of one equation's run with these errors from step 1 on."""
    table = pd.DataFrame({"step": range(len(errors) + 1), "error": np.array([np.nan, *errors], dtype=np.float32)})
    base = {"run": 0, "variant": "flow", "model": "mlp", "order": 1, "kernel": "paper", "p": 0.0, "lr": lr}
    base |= {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "seed": 0, "solver_error": 0.001, "r2_q50": np.nan}
    table = table.assign(**base | {"p_difference": np.nan, "sharpness": np.nan} | columns)
    table.loc[table.index[-1], "r2_q50"] = 0.9
    return table


@pytest.mark.parametrize(
    "errors, above",
    [([0.1, 0.04, 0.03], -1), ([0.01, 0.06, 0.04, 0.07, 0.08], 4), ([0.06, 0.07], 1), ([0.01, np.nan, np.inf], 2)],
)
def test_an_equation_leaves_where_its_error_stays_above_the_tolerance(errors, above):
    row = measure(made(errors)).iloc[0]
    assert row["above_from"] == above and row["steps"] == len(errors) and row["r2_median"] == 0.9
    assert row["diverged_at"] == (-1 if np.isfinite(errors).all() else 2)
    assert row["error_end"] == pytest.approx(errors[-1], nan_ok=True)


def test_late_error_starts_at_step_20():
    errors = np.full(30, 0.01)
    errors[[3, 18, 19, 25]] = 0.9, 0.8, 0.3, 0.2  # of steps 4, 19, 20 and 26
    assert measure(made(errors))["error_late_max"].iloc[0] == pytest.approx(0.3)
    errors[28] = np.nan
    assert np.isnan(measure(made(errors))["error_late_max"].iloc[0])
    assert np.isnan(measure(made(errors[:10]))["error_late_max"].iloc[0])


def test_one_nan_makes_the_relabelled_difference_nan():
    rows = made([0.0] * 3, variant="relabelled", p=0.5, p_difference=1e-15)
    assert measure(rows)["p_difference_max"].iloc[0] == pytest.approx(1e-15)
    rows.loc[2, "p_difference"] = np.nan
    assert np.isnan(measure(rows.drop(index=0))["p_difference_max"].iloc[0])


def test_limits_belong_to_whichever_is_unstable_first():
    rows = [made([0.1], run=i, order=o, kernel=k) for i, (o, k) in enumerate(trajectory.EQUATIONS)]
    rows += [made([0.1], run=9, variant="discrete", order=0, kernel="none")]
    limits = predict(pd.concat(rows).drop_duplicates("run"))["curvature_limit"]
    assert limits.tolist() == pytest.approx([38, 38, 2 + 1 / 9, 2 - np.log(0.9), 38])


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
        ("trajectory.transformer.text.source=no/such.txt", "cannot read the text 'no/such.txt'"),
    ):
        assert cli.main([*words, "--shard", "30/50", "--set", change]) == 1
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, change


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
