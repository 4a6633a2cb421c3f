"""Scale-invariant weights: they are so to rounding, and the records are what the optimizer itself does."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch.func import functional_call

from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED
from ctadam.artifact import config
from ctadam.errors import ArtifactError
from ctadam.experiments.scale_invariance import claims
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


@pytest.fixture(scope="module")
def parameters():
    return config.resolve("smoke")["scale_invariance"]


def _run(points, parameters):
    return norms.run(points, parameters, device=CPU, progress=lambda amount: None)[0]


def test_shards_of_one_kind_can_be_laid_together(parameters):
    """At the paper's scale a shard holds `law` or `pair`; both have all columns, in one order and of one type."""
    points = norms.points(parameters)
    points = points[points["model"] == "linear"].groupby("variant").head(1).assign(steps=20)
    law, pair = (_run(rows, parameters) for _, rows in points.groupby("variant"))
    assert set(law["variant"]) == {"law"} and set(pair["variant"]) == {"pair"}
    assert law.columns.tolist() == pair.columns.tolist() == _run(points, parameters).columns.tolist()
    assert law["optimizer"].isna().all() and pair["weight"].isna().all() and pair["norm_sq"].isna().all()
    together = pd.concat([law, pair], ignore_index=True)
    pd.testing.assert_series_equal(together.dtypes, _run(points, parameters).dtypes)


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


def _problem(parameters, model):
    points = norms.points(parameters)
    points = points[(points["variant"] == "law") & (points["model"] == model)].iloc[:1]
    return norms._Problem(model, parameters["models"][model], 20, points, CPU)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_scale_invariant_to_rounding(parameters, name):
    """The loss does not change with their scale, ⟨W, g⟩ = 0 and the gradient falls as 1/scale; of other weights none holds."""
    task, _ = norms._task(name, parameters["models"][name], CPU)
    model = make_exact(task.build(torch.Generator().manual_seed(3)).double())
    inputs, targets = task.read(torch.arange(task.batch))
    found = scale_invariant_weights(model)
    assert list(found) == WEIGHTS[name]

    def loss(parameters):
        return task.loss(functional_call(model, parameters, (inputs,)), targets)

    start = {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}
    value = loss(start)
    grads = dict(zip(start, torch.autograd.grad(value, list(start.values())), strict=True))
    for parameter, rows in found.values():
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
    others = {key: value for key, value in start.items() if key not in {parameter for parameter, _ in found.values()}}
    inner = [abs(float((value.detach() * grads[key]).sum())) for key, value in others.items() if value.dim() > 1]
    assert all(x > 1e-8 for x in inner) and (inner or name in ("mlp", "linear"))


def test_pixels_that_are_never_lit_see_the_radial_part_alone(parameters):
    """Why Assumption 2 fails for a map divided by its norm: their gradient is c·W, which Adam makes as large as any other."""
    task, _ = norms._task("linear", parameters["models"]["linear"], CPU)
    model = task.build(torch.Generator().manual_seed(0)).double()
    inputs, targets = task.read(torch.arange(500))
    task.loss(model(inputs), targets).backward()
    ratio = (model.weight.grad / model.weight).detach()
    dark = (inputs == 0).all(0)
    assert dark.sum() >= 2
    torch.testing.assert_close(ratio[:, dark], ratio[0, dark][0].expand_as(ratio[:, dark]), rtol=1e-9, atol=0)
    assert ratio[:, ~dark].std() > 10 * ratio[0, dark][0].abs()


def test_layers_with_epsilon_are_not_exact_and_biases_do_not_count(parameters):
    from torch import nn

    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False), nn.LayerNorm(4), nn.Tanh())
    assert list(scale_invariant_weights(model)) == ["2.weight"]
    assert model[1].eps > 0 and make_exact(model)[1].eps == model[3].eps == 0


def test_points_cover_everything_once(parameters):
    points = norms.points(parameters)
    assert points["run"].tolist() == list(range(len(points)))
    assert not points.drop(columns="run").duplicated().any()
    counts = points.groupby("variant").size()
    assert counts["law"] == 4 * 2 * 2 * 2 and counts["pair"] == 2 * 2 * 2
    # Without decay there is no second stage to compare with.
    parameters = {**parameters, "pair": {**parameters["pair"], "weight_decays": [0.0, 1.0]}}
    assert (norms.points(parameters).query("variant == 'pair'")["weight_decay"] > 0).all()


@pytest.mark.parametrize(("model", "batching"), [("transformer", "minibatch"), ("cnn", "full")])
def test_the_optimizer_is_kadam_and_the_record_its_own(smoke, parameters, model, batching):
    """One run made again with the optimizer and autograd: norms, updates, angles and cosines of its weights."""
    runs = read_runs(smoke, "scale_invariance")
    runs = runs.query(
        "variant == 'law' and model == @model and batching == @batching and beta1 == 0.9 and weight_decay == 1"
    )
    lr = runs["lr"].iloc[0]
    settings = parameters["models"][model]
    points = norms.points(parameters)
    problem = norms._Problem(model, settings, 20, points[points["run"] == runs["run"].iloc[0]], CPU)
    network = make_exact(problem.task.build(torch.Generator()).double())
    for name, view in problem.layout.views(problem.start).items():
        network.get_parameter(name).data.copy_(view[0])
    optimizer = KAdam(network.parameters(), lr=lr, betas=(0.9, 0.999), eps=0.0, weight_decay=1.0, k=1)
    updates = {}
    optimizer.register_update_hook(lambda parameter, update: updates.__setitem__(parameter, update.clone()))
    weight, (parameter, rows) = next(iter(scale_invariant_weights(network).items()))
    record = runs[(runs["record"] == "norm") & (runs["weight"] == weight)].set_index("step")
    turned, past = 0.0, {}
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
        if n in record.index:
            row = record.loc[n]
            assert row["norm_sq"] == pytest.approx(float((before**2).sum()), rel=1e-10)
            assert row["update_sq"] == pytest.approx(float((update**2).sum()), rel=1e-7)
            assert row["inner_update"] == pytest.approx(float((update * before).sum()), rel=1e-6, abs=1e-10)
            assert row["turned"] == pytest.approx(turned, rel=1e-7)
        if n == 10:  # a step at which cosines are taken
            for row in (
                runs[(runs["record"] == "cosine") & (runs["weight"] == weight)].query("step == 10").to_dict("records")
            ):
                old = past[n - int(row["lag"])]
                cosine = float((before * old).sum() / before.norm() / old.norm())
                assert row["cosine"] == pytest.approx(cosine, rel=1e-6, abs=1e-12) and row["dimension"] == old.numel()
        after = network.get_parameter(parameter).detach()[rows]
        turned += float(torch.arccos(((before * after).sum() / before.norm() / after.norm()).clamp(max=1)))
    assert record.loc[20, "norm_sq"] == pytest.approx(float((after**2).sum()), rel=1e-9)


def test_the_paper_law_and_what_it_leaves_out(smoke):
    """Without momentum the laws are one, and what is missing from them is ⟨W, g/√v⟩'s share, to rounding."""
    records = read_runs(smoke, "scale_invariance").query("record == 'norm' and beta1 == 0")
    for law in ("unsmoothed", "inertial"):
        np.testing.assert_allclose(records[f"law_{law}"], records["law_paper"], rtol=1e-12)
    np.testing.assert_allclose(records["law_paper"] + records["coarse_share"], records["norm_sq"], rtol=1e-9)
    assert records["gradient_cosine"].abs().max() < 1e-12
    assert (records["turned_paper"] > 0).sum() == (records["step"] > 0).sum()


def test_fixed_norms_stay_and_optimizers_agree_where_they_must(smoke, parameters):
    """Without momentum three of them are one optimizer; with it none is another."""
    records = read_runs(smoke, "scale_invariance").query("record == 'pair' and step > 0")
    table = records.pivot_table(index=["run", "beta1", "step"], columns="optimizer", values="direction_distance")
    assert sorted(table.columns) == sorted(norms.OPPONENTS)  # and AdamW has no distance from itself
    still = table.xs(0.0, level="beta1")
    for name in ("unsmoothed", "inertial"):
        np.testing.assert_allclose(still[name], still["2adam"], rtol=1e-6)
    moving = table.xs(0.9, level="beta1")
    names = list(moving.columns)
    assert all((moving[a] != moving[b]).all() for i, a in enumerate(names) for b in names[:i])

    points = norms.points(parameters).query("variant == 'pair' and model == 'mlp'").iloc[:1]
    problem = norms._Problem("mlp", norms._settings(parameters, "pair", "mlp"), 4, points, CPU)
    for name in norms.OPPONENTS:
        optimizer = norms._FixedNormOptimizer(name, problem, points, CPU)
        for n in range(3):
            optimizer.step(problem.gradient(optimizer.theta, n), n)
        for place in problem.weights.values():
            moved, start = optimizer.theta[0, place], problem.start[0, place]
            assert float(moved.norm()) == pytest.approx(float(start.norm()), rel=1e-13)
            assert float((moved - start).norm()) > 1e-3


def test_a_run_does_not_depend_on_the_others(parameters):
    """Alone, with others, in another order of chunks: the same bits."""
    small = {name: {**settings, "steps": 6, "at_once": 3} for name, settings in parameters["models"].items()}
    parameters = {**parameters, "models": small, "pair": {**parameters["pair"], "steps": 6, "at_once": 2}}
    points = norms.points(parameters)
    together = _run(points, parameters)
    some = points.iloc[1::3]
    apart = _run(some, parameters)
    pd.testing.assert_frame_equal(
        apart, together[together["run"].isin(some["run"])].reset_index(drop=True), check_exact=True
    )


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (
            "transformer",
            {"model": {"width": 9, "depth": 1, "heads": 2, "context": 8}},
            "width 9 is not a multiple of heads 2",
        ),
        ("cnn", {"channels": [12]}, "not multiples of 8"),
    ],
)
def test_sizes_that_do_not_go_together_are_one_line(parameters, model, change, message):
    models = {**parameters["models"], model: {**parameters["models"][model], **change}}
    points = norms.points(parameters)
    with pytest.raises(ArtifactError, match=message):
        _run(points[points["model"] == model].iloc[:1], {**parameters, "models": models})


def test_predictions_know_the_decay():
    points = pd.DataFrame(
        {
            "run": [0, 1], "variant": "law", "model": "mlp", "batching": "full", "beta1": [0.9, 0.9], "beta2": 0.999,
            "lr": 0.01, "weight_decay": [0.0, 1.0], "step": 500,
        }
    )[COLUMNS]  # fmt: skip
    free, decayed = predict(points).to_dict("records")
    assert free["amplification"] == pytest.approx(19) and free["remembered"] == 1 and np.isnan(free["angle_paper"])
    assert decayed["angle_paper"] == pytest.approx(0.02**0.5, rel=0.01)
    assert decayed["angle_inertial"] == pytest.approx(decayed["angle_paper"] / 19**0.5, rel=0.01)
    assert decayed["second_beta2"] == pytest.approx(0.99**2) and decayed["remembered"] == pytest.approx(0.99**1000)


def _norm_records(**changes):
    """Two weights over 100 steps whose norm is 1 + n/100."""
    n = np.arange(0, 101, 10)
    true = 1 + n / 100
    columns = {
        "run": 0, "variant": "law", "model": "mlp", "batching": "full", "beta1": 0.9, "beta2": 0.999, "lr": 0.01,
        "weight_decay": 0.0, "seed": 0, "record": "norm", "step": n, "norm_sq": true, "law_paper": true, "law_unsmoothed": true,
        "law_inertial": true, "coarse_share": 0.0, "gradient_cosine": 0.0, "coarse_cosine": 0.9, "turned": 0.5 * n,
        "turned_paper": 0.5 * n + 1e-9, "lag": np.nan, "dimension": np.nan, "cosine": np.nan, "random_cosine": np.nan,
    }  # fmt: skip
    parts = [pd.DataFrame({**columns, "weight": weight}) for weight in ("a", "b")]
    for name, values in changes.items():
        parts[1][name] = values
    lags = pd.DataFrame({"lag": [0.0, 1.0, 2.0], "cosine": [0.5, 0.1, -0.1], "random_cosine": 0.05, "dimension": 100.0})
    rest = {key: columns[key] for key in columns if key not in lags and np.isscalar(columns[key])}
    return pd.concat(
        [*parts, lags.assign(**{**rest, "record": "cosine", "step": 100, "weight": "a"})], ignore_index=True
    )


def test_errors_are_those_of_the_worst_weight_and_step():
    n = np.arange(0, 101, 10)
    true = 1 + n / 100
    table = measure(_norm_records(law_paper=true - 0.2 * n / 100, coarse_share=0.1 * n / 100, turned=0.6 * n))
    row = table.iloc[0]
    assert row["error_paper"] == pytest.approx(0.1) and row["total_error_paper"] == pytest.approx(0.05)
    # What ⟨W, g/√v⟩ has added accounts for half of it.
    assert row["memory_error_paper"] == pytest.approx(0.05) and row["coarse_error"] == pytest.approx(0.05)
    assert row["error_inertial"] == 0 and row["memory_error_inertial"] == pytest.approx(0.05)
    assert row["turn_ratio"] == pytest.approx(1.2) and row["angle"] == pytest.approx(0.55)
    assert row["angle_window_start"] == 60 and row["growth"] == pytest.approx(2)
    assert row["cosine"] == pytest.approx(1.0) and row["chance"] == pytest.approx(0.5)
    # A run that was not finite has no small error.
    assert measure(_norm_records(law_paper=np.where(n > 50, np.nan, true))).iloc[0]["error_paper"] == np.inf


def test_distances_are_means_over_the_second_half():
    steps = np.array([0, 50, 100])
    rows = [
        {"optimizer": name, "step": n, "loss": loss, "direction_distance": n / 100, "function_distance": n / 50}
        for name, loss in (("free", 1.0), ("2adam", 1.5))
        for n in steps
    ]
    keys = {"run": 3, "variant": "pair", "model": "linear", "batching": "full", "beta1": 0.9, "beta2": 0.999, "lr": 0.01,
            "weight_decay": 1.0, "seed": 0, "record": "pair"}  # fmt: skip
    row = measure(pd.DataFrame(rows).assign(**keys)).iloc[0]
    assert row["direction_2adam"] == pytest.approx(0.75) and row["function_2adam"] == pytest.approx(1.5)
    assert row["loss"] == 1.0 and row["loss_2adam"] == pytest.approx(0.5)


@dataclasses.dataclass
class _Evidence:
    table: pd.DataFrame


def law_table(**columns):
    base = {
        "variant": "law", "model": "mlp", "batching": "full", "steps": 400, "beta1": [0.0, 0.9], "lr": 0.01, "weight_decay": 1.0,
        "coarse_error": 0.01, "coarse_cosine": 0.9, "cosine": 0.5, "chance": 1.0, "turn_ratio": 1.0, "angle": 0.1,
        "angle_paper": 0.1, "angle_inertial": 0.1, "angle_window_start": 240,
    }  # fmt: skip
    for law in ("paper", "unsmoothed", "inertial"):
        base |= {f"{kind}_{law}": [0.01, 0.01] for kind in ("error", "total_error", "memory_error")}
    return _Evidence(pd.DataFrame({**base, **columns}))


@pytest.mark.parametrize(
    ("judge", "good", "bad"),
    [
        (claims._n1, {}, {"memory_error_paper": [0.0, 0.031]}),
        (claims._n2, {}, {"coarse_error": 0.031}),
        (claims._n3, {"error_paper": [0.03, 9.0]}, {"error_paper": [0.031, 0.0]}),
        (claims._n4, {"error_paper": 0.2, "error_unsmoothed": [9.0, 0.05]}, {"error_paper": 0.2, "error_unsmoothed": 0.06}),
        (claims._n4, {"error_paper": [0.0, 0.2]}, {"error_unsmoothed": 0.02}),
        (claims._n5, {"turn_ratio": [0.951, 1.049]}, {"turn_ratio": [1.0, 0.949]}),
        (claims._n8, {"memory_error_paper": 0.2}, {"memory_error_paper": 0.2, "memory_error_inertial": [0.0, 0.06]}),
    ],
)  # fmt: skip
def test_verdicts_of_the_laws(judge, good, bad):
    assert judge(law_table(**good)).verdict == REPRODUCED
    assert judge(law_table(**bad)).verdict == CONTRADICTED
    assert judge(law_table(steps=100)).verdict == INCONCLUSIVE


def pair_table(adam, **columns):
    base = {"variant": "pair", "model": "linear", "batching": "full", "steps": 400, "beta1": 0.9, "lr": 0.03, "weight_decay": 1.0,
            "remembered": 0.0}  # fmt: skip
    for name in norms.OPPONENTS:
        base |= {f"{kind}_{name}": [0.1, 0.1] for kind in ("direction", "function", "loss")}
    return _Evidence(pd.DataFrame({**base, "direction_adam": adam, **columns}))


def test_verdicts_of_the_pairs():
    assert claims._n6(pair_table([0.2, 0.3])).verdict == REPRODUCED
    assert claims._n6(pair_table([0.05, 0.05])).verdict == CONTRADICTED
    # One seed of two: farther on average, but not for every seed.
    assert claims._n6(pair_table([0.15, 0.01])).verdict == INCONCLUSIVE
    for judge, name in ((claims._n7, "unsmoothed"), (claims._n9, "inertial")):
        assert judge(pair_table(0.1, **{f"direction_{name}": 0.05})).verdict == REPRODUCED
        assert judge(pair_table(0.1, **{f"direction_{name}": 0.06})).verdict == CONTRADICTED
        assert judge(pair_table(0.1, remembered=0.06)).verdict == INCONCLUSIVE
        assert judge(pair_table(0.1, beta1=0.5)).verdict == INCONCLUSIVE
