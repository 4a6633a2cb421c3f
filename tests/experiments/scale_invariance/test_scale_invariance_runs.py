"""Test that the weights are scale-invariant up to rounding and that the records describe what the optimizers do."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.func import functional_call

from ctadam.artifact import config
from ctadam.experiments import configure
from ctadam.experiments.scale_invariance import runs as norms
from ctadam.experiments.scale_invariance.measure import measure
from ctadam.experiments.scale_invariance.predict import COLUMNS, predict
from ctadam.models.invariance import make_exact, scale_invariant_weights
from ctadam.models.transformer import RootMeanSquareNorm, Transformer
from ctadam.optim import KAdam
from ctadam.storage.store import read_runs

CPU = torch.device("cpu")
WEIGHTS = {
    "transformer": ["blocks.0.attention.queries", "blocks.0.attention.keys"],
    "cnn": ["0.weight"],
    "mlp": ["0.weight", "3.weight"],
    "linear": ["weight"],
}


def _smoke(**changes):
    return configure("scale_invariance", config.resolve("smoke", {"scale_invariance": changes})["scale_invariance"])


@pytest.fixture(scope="module")
def settings():
    return _smoke()


def _run(runs, settings):
    return norms.run(runs, settings, device=CPU, progress=lambda amount: None)[0]


def test_shards_of_one_variant_can_be_concatenated(settings):
    """A shard may hold one variant; it has all columns, in the same order and of the same types."""
    runs = norms.grid(settings)
    runs = runs[runs["model"] == "linear"].groupby("variant").head(1).assign(steps=20)
    together = _run(runs, settings)
    law, fixed = (_run(runs[runs["variant"] == variant], settings) for variant in ("law", "fixed_norm"))
    assert law.columns.tolist() == fixed.columns.tolist() == together.columns.tolist()
    assert law["optimizer"].isna().all() and fixed["weight"].isna().all() and fixed["norm_sq"].isna().all()
    pd.testing.assert_series_equal(pd.concat([law, fixed]).dtypes, together.dtypes)


def test_qk_norm_is_torchs_and_batches_on_every_device():
    """`torch.nn.RMSNorm` is one operation on a GPU, whose gradient functorch takes model by model; ours is several."""
    x = torch.randn(5, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours, theirs = RootMeanSquareNorm(eps=1e-6)(x), torch.nn.functional.rms_norm(x, (7,), eps=1e-6)
    assert torch.equal(ours, theirs)
    weight = torch.linspace(-1, 2, ours.numel(), dtype=torch.float64).view_as(ours)
    assert torch.equal(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)))
    model = Transformer(
        vocabulary=5, width=8, depth=1, heads=2, context=4, qk_norm=True, generator=torch.Generator().manual_seed(0)
    )
    assert not any(isinstance(module, torch.nn.RMSNorm) for module in model.modules())


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_scale_invariant_to_rounding(settings, name):
    """The loss does not change with their scale, ⟨W, g⟩ = 0 and the gradient falls as 1/scale. Other weights have none of it."""
    task, _ = norms._task(name, norms._settings(settings, "law", name), CPU)
    model = make_exact(task.build(torch.Generator().manual_seed(3)).double())
    inputs, targets = task.read(torch.arange(task.batch))
    invariant = scale_invariant_weights(model)
    assert list(invariant) == WEIGHTS[name]

    def loss(parameters):
        return task.loss(functional_call(model, parameters, (inputs,)), targets)

    start = {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}
    value = loss(start)
    grads = dict(zip(start, torch.autograd.grad(value, list(start.values())), strict=True))
    for parameter, rows in invariant.values():
        weight, grad = start[parameter].detach()[rows], grads[parameter][rows]
        assert abs(float((weight * grad).sum())) < 1e-14 * float(weight.norm() * grad.norm()) * weight.numel()
        for scale in (0.01, 37.0):
            scaled = {key: part.detach().clone() for key, part in start.items()}
            scaled[parameter][rows] *= scale
            scaled[parameter].requires_grad_()
            again = loss(scaled)
            assert again.item() == pytest.approx(value.item(), rel=1e-12)
            (turned,) = torch.autograd.grad(again, scaled[parameter])
            torch.testing.assert_close(turned[rows] * scale, grad, rtol=1e-9, atol=1e-13)
    others = {
        key: value for key, value in start.items() if key not in {parameter for parameter, _ in invariant.values()}
    }
    inner = [abs(float((value.detach() * grads[key]).sum())) for key, value in others.items() if value.dim() > 1]
    assert all(x > 1e-8 for x in inner) and (inner or name in ("mlp", "linear"))


def test_pixels_that_are_never_lit_see_the_radial_part_alone(settings):
    """Why Assumption 2 fails for a map divided by its norm: their gradient is c·W, which Adam makes as large as any other."""
    task, _ = norms._task("linear", norms._settings(settings, "law", "linear"), CPU)
    model = task.build(torch.Generator().manual_seed(0)).double()
    inputs, targets = task.read(torch.arange(500))
    task.loss(model(inputs), targets).backward()
    ratio = (model.weight.grad / model.weight).detach()
    dark = (inputs == 0).all(0)
    assert dark.sum() >= 2
    torch.testing.assert_close(ratio[:, dark], ratio[0, dark][0].expand_as(ratio[:, dark]), rtol=1e-9, atol=0)
    assert ratio[:, ~dark].std() > 10 * ratio[0, dark][0].abs()


def test_layers_with_epsilon_are_not_exact_and_biases_do_not_count():
    from torch import nn

    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False), nn.LayerNorm(4), nn.Tanh())
    assert list(scale_invariant_weights(model)) == ["2.weight"]
    assert model[1].eps > 0 and make_exact(model)[1].eps == model[3].eps == 0


def test_grid_has_every_setting_once(settings):
    runs = norms.grid(settings)
    assert runs["run"].tolist() == list(range(len(runs)))
    assert not runs.drop(columns="run").duplicated().any()
    assert runs.groupby("variant").size().to_dict() == {"law": 4 * 2 * 2, "steady": 2, "fixed_norm": 2 * 2}
    assert (runs.loc[runs["variant"] == "law", "weight_decay"] == 0).all()
    assert (runs.loc[runs["variant"] != "law", "batching"] == "minibatch").all()


@pytest.mark.parametrize(
    ("variant", "model", "batching"),
    [("law", "transformer", "minibatch"), ("law", "cnn", "full"), ("steady", "transformer", "minibatch")],
)
def test_the_optimizer_is_kadam_and_the_records_describe_it(smoke, settings, variant, model, batching):
    """Repeat one run with the optimizer and autograd: norms, updates, angles and cosines of its first weight."""
    runs = read_runs(smoke, "scale_invariance")
    runs = runs.query("variant == @variant and model == @model and batching == @batching and beta1 == 0.9")
    lr, decay = runs["lr"].iloc[0], runs["weight_decay"].iloc[0]
    assert (decay > 0) == (variant == "steady")
    table = norms.grid(settings)
    problem = norms._Problem(
        model, norms._settings(settings, variant, model), table[table["run"] == runs["run"].iloc[0]], CPU
    )
    network = make_exact(problem.task.build(torch.Generator()).double())
    for name, view in problem.layout.views(problem.start).items():
        network.get_parameter(name).data.copy_(view[0])
    optimizer = KAdam(network.parameters(), lr=lr, betas=(0.9, 0.999), eps=0.0, weight_decay=decay, k=1)
    updates = {}
    optimizer.register_update_hook(lambda parameter, update: updates.__setitem__(parameter, update.clone()))
    weight, (parameter, rows) = next(iter(scale_invariant_weights(network).items()))
    records = runs[(runs["record"] == "norm") & (runs["weight"] == weight)].set_index("step")
    cosines = runs[(runs["record"] == "cosine") & (runs["weight"] == weight)]
    assert cosines.empty == (variant == "steady")
    turned, updates_sq, paper, past = 0.0, 0.0, None, {}
    for n in range(20):
        inputs, targets = (
            [part[0] for part in problem.whole] if batching == "full" else problem.task.read(problem.draws[n, 0])
        )
        loss = problem.task.loss(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        before = network.get_parameter(parameter).detach()[rows].clone()
        past[n] = network.get_parameter(parameter).grad[rows].clone()
        optimizer.step()
        update = updates[network.get_parameter(parameter)][rows]
        paper = float((before**2).sum()) if paper is None else paper
        if n in records.index:
            row = records.loc[n]
            assert row["norm_sq"] == pytest.approx(float((before**2).sum()), rel=1e-6)
            assert row["law_paper"] == pytest.approx(paper, rel=1e-6)
            assert row["updates_sq"] == pytest.approx(updates_sq, rel=1e-6)
            assert row["turned"] == pytest.approx(turned, rel=1e-6)
        for row in cosines.query("step == @n").to_dict("records"):
            old = past[n - int(row["lag"])]
            cosine = float((before * old).sum() / before.norm() / old.norm())
            assert row["cosine"] == pytest.approx(cosine, rel=1e-5, abs=1e-7) and row["dimension"] == old.numel()
        after = network.get_parameter(parameter).detach()[rows]
        turned += float(torch.arccos(((before * after).sum() / before.norm() / after.norm()).clamp(max=1)))
        updates_sq += float((update**2).sum())
        paper = (1 - lr * decay) ** 2 * paper + lr**2 * float((update**2).sum())
    assert records.loc[20, "norm_sq"] == pytest.approx(float((after**2).sum()), rel=1e-6)
    assert records.loc[20, "law_paper"] == pytest.approx(paper, rel=1e-6)


def test_without_momentum_the_laws_agree_and_lack_only_the_coarse_share(smoke):
    records = read_runs(smoke, "scale_invariance").query("record == 'norm' and beta1 == 0")
    np.testing.assert_allclose(records["law_inertial"], records["law_paper"], rtol=1e-6)
    np.testing.assert_allclose(records["law_paper"] + records["coarse_share"], records["norm_sq"], rtol=1e-5)
    assert (records["turned_paper"] > 0).sum() == (records["step"] > 0).sum()


def test_optimizers_of_fixed_norm_agree_only_without_momentum(smoke):
    records = read_runs(smoke, "scale_invariance").query("record == 'fixed_norm' and step > 0")
    table = records.pivot_table(index=["run", "beta1", "step"], columns="optimizer", values="direction_distance")
    assert sorted(table.columns) == sorted(norms.FIXED_NORM_OPTIMIZERS)
    without = table.xs(0.0, level="beta1")
    np.testing.assert_allclose(without["2adam_inertial"], without["2adam"], rtol=1e-6)
    assert (table.xs(0.9, level="beta1").diff(axis=1).iloc[:, 1:] != 0).all(axis=None)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_fixed_norms_stay_and_the_first_step_is_that_of_adamw(settings, beta1):
    runs = norms.grid(settings).query("variant == 'fixed_norm' and model == 'linear' and beta1 == @beta1")
    problem = norms._Problem("linear", norms._settings(settings, "fixed_norm", "linear"), runs, CPU)
    (place,) = problem.weights.values()
    start, lr, decay = problem.start[0, place], runs["lr"].iloc[0], runs["weight_decay"].iloc[0]
    free = (1 - lr * decay) * start - lr * problem.gradient(problem.start, 0)[0, place].sign()
    for name in norms.FIXED_NORM_OPTIMIZERS:
        optimizer = norms._FixedNormOptimizer(name, problem, runs, CPU)
        for n in range(3):
            optimizer.step(problem.gradient(optimizer.theta, n), n)
            moved = optimizer.theta[0, place]
            assert float(moved.norm()) == pytest.approx(float(start.norm()), rel=1e-13)
            if n == 0:  # the angle is that of AdamW up to the order of the decay and of the change of the norm
                cosine = torch.nn.functional.cosine_similarity(moved, free, dim=0)
                expected = torch.nn.functional.cosine_similarity(start, free, dim=0)
                assert 1 - cosine < 0.05 * (1 - expected)


def test_a_run_does_not_depend_on_the_others(settings):
    """Alone, with others, in other chunks: the same bits."""
    training = {"steps": 6, "chunk": 3}
    changes = {
        "models": dict.fromkeys(WEIGHTS, training),
        "steady": training,
        "fixed_norm": {"steps": 6, "chunk": 2},
        "cosines": {"lags": [1]},
    }
    settings = _smoke(**changes)
    runs = norms.grid(settings)
    together = _run(runs, settings)
    some_runs = runs.iloc[1::3]
    apart = _run(some_runs, settings)
    pd.testing.assert_frame_equal(
        apart, together[together["run"].isin(some_runs["run"])].reset_index(drop=True), check_exact=True
    )


def test_predictions_contain_the_steady_state():
    parameters = {"run": [0, 1], "variant": "steady", "model": "mlp", "batching": "full", "beta1": 0.9, "beta2": 0.999}
    table = pd.DataFrame({**parameters, "lr": 0.001, "weight_decay": [0.0, 1.0], "step": 500})[COLUMNS]
    free, decayed = predict(table).to_dict("records")
    assert free["amplification"] == pytest.approx(19) and free["remembered"] == 1 and np.isnan(free["angle_paper"])
    assert decayed["angle_paper"] == pytest.approx(0.002**0.5, rel=0.01)
    assert decayed["angle_inertial"] == pytest.approx(decayed["angle_paper"] / 19**0.5, rel=0.01)
    assert decayed["norm_paper"] == pytest.approx(0.001 / 2, rel=0.01)
    assert decayed["norm_inertial"] == pytest.approx(19 * decayed["norm_paper"], rel=0.02)
    assert decayed["remembered"] == pytest.approx(0.999**1000)


def _norm_records(**changes):
    """Return the records of two weights over 100 steps whose squared norm is 1 + n/100."""
    n = np.arange(0, 101, 10)
    true = 1 + n / 100
    keys = {"run": 0, "variant": "law", "model": "mlp", "batching": "full", "beta1": 0.9, "beta2": 0.999, "lr": 0.01}
    keys |= {"weight_decay": 0.0, "seed": 0}
    columns = {
        "record": "norm",
        "step": n,
        "norm_sq": true,
        "law_paper": true,
        "law_inertial": true,
        "coarse_share": 0.0,
    }
    columns |= {"updates_sq": 3.0 * n, "turned": 0.5 * n, "turned_paper": 0.5 * n}
    parts = [pd.DataFrame({**keys, **columns, "weight": weight}) for weight in ("a", "b")]
    parts[1] = parts[1].assign(**changes)
    cosines = pd.DataFrame({"lag": [0.0, 1.0, 2.0], "cosine": [0.5, 0.1, -0.1], "dimension": 100.0})
    parts.append(cosines.assign(**keys, record="cosine", step=100, weight="a"))
    return pd.concat(parts, ignore_index=True)


def test_norms_are_summed_over_weights():
    n = np.arange(0, 101, 10)
    true = 1 + n / 100
    row = measure(_norm_records(law_paper=true - 0.2 * n / 100, coarse_share=0.1 * n / 100, turned=0.6 * n)).iloc[0]
    assert row["start_sq"] == 2 and row["end_sq"] == 4 and row["steps"] == 100
    assert (
        row["end_paper"] == pytest.approx(3.8) and row["end_inertial"] == 4 and row["coarse_sq"] == pytest.approx(0.1)
    )
    assert row["path"] == pytest.approx(110) and row["path_paper"] == pytest.approx(100)
    assert row["window_start"] == 60 and row["window_norm_sq"] == pytest.approx(3.6)
    assert row["window_update_sq"] == pytest.approx(6) and row["angle"] == pytest.approx(0.55)
    assert row["cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_run_that_is_not_finite_has_no_measured_norm(value):
    n = np.arange(0, 101, 10)
    row = measure(_norm_records(norm_sq=np.where(n > 50, value, 1.0))).iloc[0]
    assert np.isnan(row["end_sq"]) and np.isnan(row["window_norm_sq"]) and row["end_paper"] == 4


def test_distances_are_means_over_the_second_half():
    steps = np.array([0, 50, 100])
    rows = [
        {"optimizer": name, "step": n, "direction_distance": size * n / 100}
        for name, size in (("adam", 1), ("2adam", 2))
        for n in steps
    ]
    keys = {"run": 3, "variant": "fixed_norm", "model": "linear", "batching": "full", "beta1": 0.9, "beta2": 0.999}
    keys |= {"lr": 0.01, "weight_decay": 1.0, "seed": 0, "record": "fixed_norm"}
    row = measure(pd.DataFrame(rows).assign(**keys)).iloc[0]
    assert row["distance_adam"] == pytest.approx(0.75) and row["distance_2adam"] == pytest.approx(1.5)
