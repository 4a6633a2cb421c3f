"""Test the trainer: records equal independent computations, and runs do not depend on each other."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctadam import KAdam
from ctadam.data.text import batches, load_corpus
from ctadam.errors import ArtifactError
from ctadam.models.transformer import Transformer
from ctadam.optim import stage_betas
from ctadam.training import chunk_size, classification, ensemble, language, train
from ctadam.training.ensemble import generators
from ctadam.training.stack import Layout, StackedKAdam
from ctadam.training.torch_optimizers import TORCH_OPTIMIZERS

SHAPE = {"width": 8, "depth": 2, "heads": 2, "context": 8}
BATCH = 4
CPU = torch.device("cpu")
RECORDS = ["update_max", "param_max", "param_norm", "displacement_max", "train_loss", "test_loss"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("pydoc", tokenization="words", test_fraction=0.1, context=SHAPE["context"])


@pytest.fixture(scope="module")
def task(corpus):
    return language(corpus, **SHAPE, batch=BATCH, test_batches=2, test_every=5, device=CPU)


def points(**columns):
    defaults = {
        "beta1": 0.9, "beta2": 0.999, "lr": 1e-2, "weight_decay": 0.0, "eps": 0.0,
        "state_dtype": "float64", "seed": 0, "steps": 12,
    }  # fmt: skip
    count = max([1, *(len(c) for c in columns.values() if isinstance(c, list))])
    table = pd.DataFrame({**defaults, **columns}, index=range(count))
    table.insert(0, "run", range(count))
    return table


def fit(task, chunk=None, **columns):
    return train(points(**columns), task=task, device=CPU, chunk=chunk)


def perceptron(generator):
    """Return a small network with weights from a generator."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.5, generator=generator)
    return model


def convolutions(generator):
    model = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.5, generator=generator)
    return model


def classes(build):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(50, 6, generator=generator), torch.randint(3, (50,), generator=generator)
    return classification(data, data, build=build, batch=BATCH, test_every=5, device=CPU)


def test_transformer_is_causal_and_equals_torchs_attention():
    model = Transformer(vocabulary=11, width=8, depth=1, heads=2, context=6, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    a, b = model(tokens), model(changed)
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.allclose(a[:, 4:], b[:, 4:])
    attention, x = model.blocks[0].attention, torch.randn(3, 6, 8)
    q, k, v = attention.qkv(x).view(3, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    expected = attention.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(3, 6, 8))
    torch.testing.assert_close(attention(x), expected)
    with pytest.raises(ValueError, match="width 8 is not a multiple of heads 3"):
        Transformer(vocabulary=11, width=8, depth=1, heads=3, context=6, generator=torch.Generator())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_records_equal_those_of_torchs_adamw(corpus, task, weight_decay):
    """Run torch.optim.AdamW and compute the records from the parameters before and after each step."""
    lr, steps = 1e-2, 12
    table = fit(task, lr=lr, weight_decay=weight_decay, eps=1e-8, state_dtype="float32", steps=steps)
    weights, order = generators(0)
    model = Transformer(vocabulary=len(corpus.vocabulary), generator=weights, **SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, foreach=False)
    start = [p.detach().clone() for p in model.parameters()]
    stream = batches(corpus.train, batch=BATCH, context=SHAPE["context"], generator=order)
    names = [name.removesuffix(".weight") for name, _ in model.named_parameters()]
    for (_, row), (inputs, targets) in zip(table.iterrows(), stream, strict=False):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        after = [p.detach() for p in model.parameters()]
        updates = [((b * (1 - lr * weight_decay) - a) / lr).abs() for a, b in zip(after, before, strict=True)]
        # The update is recovered from a difference of float32 parameters, so only to some digits.
        assert row["update_max"] == pytest.approx(max(u.max().item() for u in updates), rel=1e-3)
        holder = names.index(row["update_tensor"])
        assert updates[holder][int(row["update_row"])].max() >= max(u.max() for u in updates) * (1 - 1e-3)
        assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["param_max"] == pytest.approx(max(a.abs().max().item() for a in after), rel=1e-5)
        assert row["param_norm"] == pytest.approx(
            torch.cat([a.flatten() for a in after]).double().norm().item(), rel=1e-5
        )
        moved = max((a - s).abs().max().item() for a, s in zip(after, start, strict=True))
        assert row["displacement_max"] == pytest.approx(moved, rel=1e-4)


def test_unseen_counts_steps_since_the_token(corpus, task):
    """Compare with a plain scan of the batches."""
    table = fit(task, beta1=0.99, beta2=0.9, lr=1e-3, steps=60)
    _, order = generators(0)
    stream = batches(corpus.train, batch=BATCH, context=SHAPE["context"], generator=order)
    seen = [pair for pair, _ in zip(stream, range(60), strict=False)]
    checked = set()
    for row in table.itertuples():
        if row.update_tensor not in ("embedding", "head"):
            assert row.unseen == -1
            continue
        which = 0 if row.update_tensor == "embedding" else 1
        steps = [n for n in range(row.step + 1) if (seen[n][which] == row.update_row).any()]
        assert row.unseen == row.step - (steps[-1] if steps else -1)
        checked.add(row.update_tensor)
    assert checked


MIXED = {
    "beta1": [0.9, 0.99, 0.9, 0.0, 0.95, 0.9, 0.9], "beta2": [0.999, 0.9, 0.999, 0.99, 0.95, 0.999, 0.999],
    "lr": [1e-2, 1e-2, 3e-3, 1e-2, 1e-3, 1e-2, 1e-2], "weight_decay": [0.0, 0.1, 0.0, 0.0, 1.0, 0.1, 0.0],
    "seed": [0, 0, 1, 0, 2, 0, 0], "k": [1, 1, 1, 1, 1, 2, 3],
    "stages": ["naive", "naive", "naive", "naive", "naive", "inverse-exp", [(0.9, 0.99), (0.5, 0.9), (0.0, 0.999)]],
    "clip": [np.inf, 0.1, 0.3, np.inf, 1e3, 0.5, np.inf],
}  # fmt: skip
EACH_EPS = [1e-8, 0.0, 1e-3, 1e-12, 1e-8, 0.0, 0.1]


@pytest.mark.parametrize("build", [None, perceptron, convolutions])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("dtype, eps", [("float32", 1e-8), ("float64", 0.0), ("float32", EACH_EPS)])
def test_run_in_an_ensemble_equals_the_run_alone(task, build, chunk, dtype, eps):
    """Compare bit for bit a run in a full chunk, in the smaller last chunk, and alone."""
    task = classes(build) if build else task
    together = fit(task, chunk=chunk, **MIXED, state_dtype=dtype, eps=eps)
    for run, row in points(**MIXED, state_dtype=dtype, eps=eps).groupby("run"):
        alone = train(row.reset_index(drop=True), task=task, device=CPU, chunk=chunk)
        same = together[together["run"] == run].reset_index(drop=True)
        pd.testing.assert_frame_equal(same, alone, check_exact=True, check_dtype=False)  # `stages` may hold lists
    losses = together.pivot(index="step", columns="run", values="train_loss")
    assert losses.loc[0, 0] == losses.loc[0, 1] != losses.loc[0, 2]  # same seed: same start and data


def by_hand(task, point, optimizer):
    """Train with a torch optimizer and a plain loop; return losses and final parameters."""
    weights, order = generators(point.seed)
    model, losses = task.build(weights), []
    optimizer = optimizer(model.parameters(), point)
    for numbers in torch.randint(task.examples, (point.steps, task.batch), generator=order):
        inputs, targets = task.read(numbers)
        with torch.autocast("cpu", torch.bfloat16, enabled=getattr(point, "precision", "") == "bfloat16"):
            loss = task.loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        if np.isfinite(getattr(point, "clip", np.inf)):
            nn.utils.clip_grad_norm_(model.parameters(), point.clip)
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        test = sum(task.loss(model(x), y) for x, y in zip(*task.test, strict=True)) / len(task.test[0])
    return losses, test.item(), max(p.abs().max().item() for p in model.parameters())


def torchs_own(parameters, point):
    options = {"lr": point.lr, "betas": (point.beta1, point.beta2), "eps": point.eps, "foreach": False}
    if point.weight_decay == 0:
        return torch.optim.Adam(parameters, **options)
    return torch.optim.AdamW(parameters, weight_decay=point.weight_decay, **options)


def own_kadam(parameters, point):
    state_dtype = {"float32": torch.float32, "float64": torch.float64}[point.state_dtype]
    return KAdam(
        parameters, lr=point.lr, betas=(point.beta1, point.beta2), eps=point.eps, weight_decay=point.weight_decay, k=point.k,
        stages=point.stages, foreach=False, state_dtype=state_dtype,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::ctadam.optim.StabilityWarning")
@pytest.mark.parametrize("build", [None, perceptron, convolutions])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("dtype, eps", [("float32", 1e-8), ("float64", 0.0), ("float32", 0.0)])
def test_each_run_equals_a_plain_training_loop(task, build, chunk, dtype, eps):
    """Each run has the same bits as torch.optim.Adam or AdamW (k = 1, float32 state, ε > 0) and KAdam in a plain loop.

    In a batch, LayerNorm's gradients and the losses are summed in another order, so runs agree to float32's rounding only.
    Adam's first steps amplify it where a gradient is nearly 0.
    """
    task = classes(build) if build else task
    table = fit(task, chunk=chunk, **MIXED, state_dtype=dtype, eps=eps)
    for point in points(**MIXED, state_dtype=dtype, eps=eps).itertuples():
        run = table[table["run"] == point.run]
        optimizers = [own_kadam] + [torchs_own] * (point.k == 1 and dtype == "float32" and eps > 0)
        for optimizer in optimizers:
            losses, test, largest = by_hand(task, point, optimizer)
            tolerance = {"rel": 0, "abs": 0} if chunk == 1 else {"rel": 1e-4}
            assert run["train_loss"].tolist() == pytest.approx(losses, **tolerance)
            assert run["test_loss"].iloc[-1] == pytest.approx(test, **tolerance)
            assert run["param_max"].iloc[-1] == pytest.approx(largest, **tolerance)


@pytest.mark.parametrize("chunk", [1, 3])
def test_clipping_changes_only_the_runs_that_request_it(task, chunk):
    """A norm above every gradient's and inf change nothing; a small norm changes the run."""
    plain = fit(task, chunk=chunk)
    table = fit(task, chunk=chunk, clip=[0.1, np.inf, 1e6])
    losses = [table.loc[table["run"] == run, "train_loss"].tolist() for run in range(3)]
    assert losses[1] == losses[2] == pytest.approx(plain["train_loss"].tolist(), rel=0 if chunk == 1 else 1e-6)
    assert losses[0][0] == losses[1][0] and losses[0][-1] != losses[1][-1]


@pytest.mark.parametrize("build", [None, perceptron, convolutions])
@pytest.mark.parametrize("chunk", [1, 4])
def test_mixed_precision_equals_torchs_autocast(task, build, chunk):
    """A single run equals a loop under autocast bit for bit, a batched run equals the run alone, float32 runs are unchanged.

    Batched bfloat16 products are an exception: processors with bfloat16 instructions choose the kernel by batch size.
    """
    task = classes(build) if build else task
    columns = {"precision": ["bfloat16", "float32", "bfloat16", "bfloat16"], "seed": [0, 0, 1, 2]}
    columns |= {"eps": 1e-8, "state_dtype": "float32"}
    table = fit(task, chunk=chunk, **columns)
    losses = [run["train_loss"].tolist() for _, run in table.groupby("run")]
    assert losses[0] != losses[1] == fit(task, chunk=chunk, eps=1e-8, state_dtype="float32")["train_loss"].tolist()
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    for run, row in points(**columns).groupby("run"):
        alone = train(row.reset_index(drop=True), task=task, device=CPU, chunk=chunk)
        exact = chunk == 1 or (row["precision"] == "float32").all()
        among_others = table[table["run"] == run].reset_index(drop=True)
        # Rows are named by the largest update, which can tie; the numbers are compared.
        shown = alone.columns if exact else alone.select_dtypes("floating").columns
        tolerance = {"check_exact": True} if exact else {"rtol": 1e-5}
        pd.testing.assert_frame_equal(among_others[shown], alone[shown], check_dtype=False, **tolerance)
    for point in points(**columns).itertuples():
        run = table[table["run"] == point.run]
        found, test, largest = by_hand(task, point, torchs_own)
        # Batched, products are rounded to bfloat16 after sums in another order.
        tolerance = {"rel": 0, "abs": 0} if chunk == 1 else {"rel": 1e-2}
        assert run["train_loss"].tolist() == pytest.approx(found, **tolerance)
        assert run["test_loss"].iloc[-1] == pytest.approx(test, **tolerance)
        assert run["param_max"].iloc[-1] == pytest.approx(largest, **tolerance)


#: Rows for torch's own optimizers: with and without decay, one of them diverging.
PEER_POINTS = {
    "beta1": [0.9, 0.8, 0.9, 0.9, 0.9], "beta2": [0.999, 0.99, 0.999, 0.999, 0.999], "lr": [1e-2, 1e-2, 3e-3, 1e30, 1e-2],
    "weight_decay": [0.0, 0.1, 1.0, 0.0, 0.1], "seed": [0, 0, 1, 0, 2], "eps": 1e-8, "state_dtype": "float32",
}  # fmt: skip


class Decayed:
    """Return one of torch's optimizers in a plain loop, after a decoupled decay of the parameters."""

    def __init__(self, parameters, point):
        self.parameters, self.keep = list(parameters), 1 - point.lr * point.weight_decay
        _, kind, options, *_ = TORCH_OPTIMIZERS[point.optimizer]
        self.optimizer = kind(self.parameters, lr=point.lr, weight_decay=0.0, **options(point._asdict()))

    def zero_grad(self):
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self):
        for parameter in self.parameters:
            parameter.mul_(self.keep)
        self.optimizer.step()


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_torchs_optimizers_in_an_ensemble_equal_plain_loops(name, chunk):
    """Each row equals a plain loop and the run alone; a diverged run changes no other."""
    task = classes(perceptron)
    table = fit(task, chunk=chunk, **PEER_POINTS, optimizer=name)
    for point in points(**PEER_POINTS, optimizer=name).drop(index=3).itertuples():
        run = table[table["run"] == point.run].reset_index(drop=True)
        losses, test, largest = by_hand(task, point, Decayed)
        tolerance = {"rel": 0, "abs": 0} if chunk == 1 else {"rel": 1e-4}
        assert run["train_loss"].tolist() == pytest.approx(losses, **tolerance)
        assert run["test_loss"].iloc[-1] == pytest.approx(test, **tolerance)
        assert run["param_max"].iloc[-1] == pytest.approx(largest, **tolerance)
        row = points(**PEER_POINTS, optimizer=name).loc[[point.Index]].reset_index(drop=True)
        alone = train(row, task=task, device=CPU, chunk=chunk)
        pd.testing.assert_frame_equal(run, alone, check_exact=True)


@pytest.mark.parametrize("name", ["adamw", "nadam", "radam"])
def test_decoupled_decay_equals_torchs(name):
    """For optimizers whose decay torch decouples, ``weight_decay`` gives the same run."""

    def own(parameters, point):
        _, kind, options, *_ = TORCH_OPTIMIZERS[name]
        decoupled = {} if name == "adamw" else {"decoupled_weight_decay": True}
        return kind(parameters, lr=point.lr, weight_decay=point.weight_decay, **options(point._asdict()), **decoupled)

    task, columns = classes(perceptron), {n: v[1] if isinstance(v, list) else v for n, v in PEER_POINTS.items()}
    table = fit(task, chunk=1, **columns, optimizer=name)
    (point,) = points(**columns, optimizer=name).itertuples()
    assert table["train_loss"].tolist() == by_hand(task, point, own)[0]


@pytest.mark.parametrize("chunk", [1, 2])
def test_update_rms_is_over_all_weights(chunk):
    """Padding does not count, and the other records stay the same."""
    settings = {
        "beta1": [0.0, 0.0],
        "lr": [0.1, 0.2],
        "weight_decay": 0.5,
        "optimizer": "sgd",
        "state_dtype": "float32",
    }
    rows, task = points(**settings, steps=2), classes(perceptron)
    table = train(rows, task=task, device=CPU, chunk=chunk, update_rms=True)
    weights, order = generators(0)
    model, numbers = task.build(weights), torch.randint(task.examples, (2, task.batch), generator=order)[0]
    inputs, targets = task.read(numbers)
    grads = torch.autograd.grad(task.loss(model(inputs), targets), list(model.parameters()))
    expected = torch.cat([g.flatten() for g in grads]).square().mean().sqrt().item()
    assert table.loc[table["step"] == 0, "update_rms"].tolist() == pytest.approx([expected] * 2, rel=1e-4)
    pd.testing.assert_frame_equal(table.drop(columns="update_rms"), train(rows, task=task, device=CPU, chunk=chunk))


def test_validation_examples_are_tested_like_the_test_set(task):
    halves = [tuple(part[half] for part in task.test) for half in (slice(1), slice(1, None))]
    both = fit(
        dataclasses.replace(task, test=halves[0], validation=halves[1]), chunk=2, **{n: v[:2] for n, v in MIXED.items()}
    )
    for name, half in zip(("test_loss", "validation_loss"), halves, strict=True):
        alone = fit(dataclasses.replace(task, test=half), chunk=2, **{n: v[:2] for n, v in MIXED.items()})
        assert both[name].equals(alone["test_loss"])


def test_recorded_update_is_the_change_of_the_parameters():
    """SGD without momentum moves by η·g, so its update is the gradient for any decay."""
    task = classes(perceptron)
    table = fit(task, chunk=1, beta1=0.0, lr=0.1, weight_decay=0.5, optimizer="sgd", state_dtype="float32", steps=1)
    weights, order = generators(0)
    model, numbers = task.build(weights), torch.randint(task.examples, (1, task.batch), generator=order)[0]
    # The gradient is taken before the decay.
    inputs, targets = task.read(numbers)
    grads = torch.autograd.grad(task.loss(model(inputs), targets), list(model.parameters()))
    assert table["update_max"].iloc[0] == pytest.approx(max(g.abs().max().item() for g in grads), rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 4])
def test_unsmoothed_variant_equals_its_equations(chunk):
    """Compare with a float64 loop of the equations: m̂/√v̂ over the root of the average of (g/√v̂)²."""
    task, lr, decay, eps = classes(perceptron), 1e-2, 0.1, 1e-8
    columns = {"beta1": 0.9, "beta2": [0.99, 0.999], "seed": [0, 1], "lr": lr, "weight_decay": decay, "eps": eps}
    table = fit(task, chunk=chunk, **columns, optimizer="unsmoothed", state_dtype="float64", steps=8)
    for run, b2 in enumerate(columns["beta2"]):
        weights, order = generators(run)
        model = task.build(weights)
        m, v, w = ([torch.zeros_like(p, dtype=torch.float64) for p in model.parameters()] for _ in range(3))
        for n, numbers in enumerate(torch.randint(task.examples, (8, task.batch), generator=order), start=1):
            inputs, targets = task.read(numbers)
            loss = task.loss(model(inputs), targets)
            assert table[table["run"] == run]["train_loss"].iloc[n - 1] == pytest.approx(loss.item(), rel=1e-5)
            grads = torch.autograd.grad(loss, list(model.parameters()))
            for i, (parameter, g) in enumerate(zip(model.parameters(), grads, strict=True)):
                g = g.double()
                m[i], v[i] = 0.9 * m[i] + 0.1 * g, b2 * v[i] + (1 - b2) * g**2
                root = (v[i] / (1 - b2**n)).sqrt() + eps
                w[i] = b2 * w[i] + (1 - b2) * (g / root) ** 2
                u = m[i] / (1 - 0.9**n) / root / ((w[i] / (1 - b2**n)).sqrt() + eps)
                with torch.no_grad():
                    parameter.copy_(parameter.double() * (1 - lr * decay) - lr * u)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [[0.0] * 5, [1e-8] * 5, [1e-8, 0.0, 0.1, 1e-12, 0.0]])
@pytest.mark.parametrize("ks", [[1] * 5, [3] * 5, [3, 2, 2, 1, 1]])
@pytest.mark.filterwarnings("ignore::ctadam.optim.StabilityWarning")
def test_stacked_optimizer_equals_kadam_bit_for_bit(dtype, eps, ks):
    """With the same gradients (some zero), parameters and updates equal KAdam's for any other rows."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 33, generator=generator)
    pairs, lr, weight_decay = (
        [(0.9, 0.999), (0.99, 0.9), (0.0, 0.99), (0.9, 0.0), (0.5, 0.5)],
        [1e-3, 0.1, 1, 2, 0.01],
        [0.0, 0.1, 0, 1, 0],
    )
    stages = [stage_betas("inverse-exp", k, betas=betas) for k, betas in zip(ks, pairs, strict=True)]
    rows = {"stages": stages, "lr": lr, "weight_decay": weight_decay, "eps": eps}
    common = {"state_dtype": dtype, "steps": 20}
    stacked = StackedKAdam(start.clone(), **rows, **common)
    single = [
        StackedKAdam(start[r : r + 1].clone(), **{n: v[r : r + 1] for n, v in rows.items()}, **common) for r in range(5)
    ]
    leaves = [nn.Parameter(row.clone()) for row in start]
    options = {"foreach": False, "state_dtype": dtype}
    optimizers = [
        KAdam([leaf], lr=lr[r], betas=pairs[r], eps=eps[r], weight_decay=weight_decay[r], k=ks[r], **options)
        for r, leaf in enumerate(leaves)
    ]
    for _ in range(20):
        grad = torch.randn(5, 33, generator=generator)
        grad[:, ::4] = 0
        change = stacked.step(grad.to(dtype))
        for r, (leaf, optimizer, one) in enumerate(zip(leaves, optimizers, single, strict=True)):
            leaf.grad = grad[r].clone()
            optimizer.step()
            assert torch.equal(one.step(grad[r : r + 1].to(dtype))[0], change[r])
            assert torch.equal(leaf, stacked.params[r]) and torch.equal(leaf, one.params[0])


def test_stages_are_stored_only_for_runs_that_have_them():
    stages = [stage_betas("exp", k, betas=(0.9, 0.999)) for k in (3, 1, 1)]
    common = {"lr": [1e-3] * 3, "weight_decay": [0.0] * 3, "eps": [0.0] * 3, "state_dtype": torch.float32, "steps": 1}
    stacked = StackedKAdam(torch.zeros(3, 7), stages=stages, **common)
    assert [average.shape for average in stacked.averages] == [(2, 3, 7), (2, 1, 7), (2, 1, 7)]
    with pytest.raises(ValueError, match="more stages than the one before"):
        StackedKAdam(torch.zeros(3, 7), stages=stages[::-1], **common)


def test_layout_keeps_every_tensor_apart_and_aligned():
    layout = Layout(perceptron(torch.Generator()).named_parameters())
    rows = torch.arange(2 * layout.width, dtype=torch.float32).view(2, -1)
    views = layout.views(rows)
    assert [tuple(v.shape) for v in views.values()] == [(2, 8, 6), (2, 8), (2, 3, 8), (2, 3)]
    numbers = torch.cat([v.flatten() for v in views.values()])
    assert len(numbers.unique()) == len(numbers)
    assert all(place.start % 16 == 0 for place in layout.places.values()) and layout.width % 16 == 0


def test_steps_do_not_synchronize_or_read_the_state(task, monkeypatch):
    """Between test losses no value is fetched. The recorder reads the applied change and the parameters, not the averages."""
    seen = []
    monkeypatch.setattr(torch.Tensor, "item", lambda *_: pytest.fail("fetched a value"))
    finite = ensemble._Recorder.finite
    monkeypatch.setattr(ensemble._Recorder, "finite", lambda self: seen.append(self.step) or finite(self))
    after = ensemble._Recorder.after_step

    def after_step(self, change, params, loss):
        assert not hasattr(self, "averages")
        after(self, change, params, loss)

    monkeypatch.setattr(ensemble._Recorder, "after_step", after_step)
    fit(task, chunk=4, **{n: v[:4] for n, v in MIXED.items()})
    assert seen == [4, 9, 11]


def test_chunk_size_depends_on_model_and_device(corpus):
    """Small models are batched; a model whose logits over all words fill the cache is trained alone."""
    assert chunk_size(classes(perceptron), CPU) == 64 and chunk_size(classes(convolutions), CPU) == 8
    settings = {"width": 32, "depth": 1, "heads": 4, "context": 32, "batch": 8, "test_batches": 1, "test_every": 1}
    assert chunk_size(language(corpus, **settings, device=CPU), CPU) == 1


def test_a_chunk_fills_half_of_a_gpu(task, monkeypatch):
    """At least one run and at most 64, whatever other processes leave free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 80 * 2**30))
    for one_run, chunk in ((2**20, 64), (2**30, 40), (6 * 2**30, 6), (50 * 2**30, 1)):
        monkeypatch.setattr(ensemble, "_memory_of_one_run", lambda *_, one_run=one_run: one_run)
        assert chunk_size(task, torch.device("cuda")) == chunk


def test_memory_is_measured_while_one_run_trains(task, monkeypatch):
    """Fake counters stand in for a GPU's. A workspace that stays allocated is not the run's, and later runs are unchanged."""
    expected = fit(task, chunk=2, seed=[0, 1])
    allocated, peak, trained = 100, 100, []
    train_chunk = ensemble._train_chunk

    def reset(device):
        nonlocal peak
        peak = allocated

    def spy(points, task, device, batched, progress):
        nonlocal allocated, peak
        allocated = 150  # a workspace that stays
        peak = allocated + 30
        assert batched
        trained.extend(train_chunk(points, task, device, batched, progress))

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(ensemble, "_train_chunk", spy)
    assert ensemble._memory_of_one_run(task, CPU) == 30
    assert [len(table) for table in trained] == [1, 1] and trained[0]["test_loss"].notna().all()
    monkeypatch.setattr(ensemble, "_train_chunk", train_chunk)
    pd.testing.assert_frame_equal(fit(task, chunk=2, seed=[0, 1]), expected, check_exact=True)


def test_test_loss_is_computed_every_test_every_steps(corpus, task):
    table = fit(task, steps=12)
    assert table.index[table["test_loss"].notna()].tolist() == [4, 9, 11]
    assert table["test_loss"].iloc[-1] < np.log(len(corpus.vocabulary))


@pytest.mark.parametrize("chunk", [1, 8])
def test_diverged_run_is_recorded_and_changes_no_other(task, chunk):
    table = fit(task, chunk=chunk, lr=[1e-2, 1e30, 1e-2], seed=[0, 0, 1], steps=12)
    bad = table[table["run"] == 1]
    records = bad[["update_max", "param_max", "param_norm", "displacement_max", "train_loss"]]
    assert (bad["diverged_at"] == len(bad) - 1).all() and len(bad) < 12
    assert np.isfinite(records.iloc[:-1]).all(axis=None) and not np.isfinite(records.iloc[-1]).all()
    for run, seed in ((0, 0), (2, 1)):
        good = table[table["run"] == run].reset_index(drop=True)
        assert len(good) == 12 and (good["diverged_at"] == -1).all()
        pd.testing.assert_frame_equal(good, fit(task, chunk=chunk, seed=seed).assign(run=run), check_exact=True)


def test_invalid_runs_raise(task):
    with pytest.raises(ValueError, match="lacks the column"):
        train(points().drop(columns="beta2"), task=task, device=CPU)
    with pytest.raises(ValueError, match="unknown state_dtype 'float16'"):
        fit(task, state_dtype="float16")
    for column, value in (("lr", 0.0), ("weight_decay", -1.0), ("eps", -1e-8), ("steps", 0), ("clip", 0.0)):
        with pytest.raises(ValueError, match=f"Invalid {column}: {value} is not"):
            fit(task, **{column: [1, value]})
    with pytest.raises(ValueError, match="unknown optimizer 'muon'; known: kadam, unsmoothed, adamw"):
        fit(task, optimizer="muon")
    with pytest.raises(ValueError, match="unknown precision 'float16'; known: float32, bfloat16"):
        fit(task, precision="float16")
    with pytest.raises(ValueError, match="keep their state in float32"):
        fit(task, optimizer="nadam", state_dtype="float64")
    with pytest.raises(ValueError, match="none of 'naive'"):
        fit(task, k=2, stages="nonsense")


def test_a_task_that_draws_once_repeats_no_window(corpus):
    once = language(corpus, **SHAPE, batch=BATCH, test_batches=1, test_every=5, device=CPU, once=True)
    steps = once.examples // BATCH
    short, long = (once.draw(count, torch.Generator().manual_seed(3)) for count in (7, steps))
    assert torch.equal(short, long[:7]) and long.unique().numel() == long.numel()
    inputs, targets = once.read(torch.arange(once.examples))
    assert torch.equal(inputs.flatten(), corpus.train[: inputs.numel()])
    assert torch.equal(targets.flatten(), corpus.train[1 : 1 + targets.numel()])
    with pytest.raises(ArtifactError, match="would repeat some of the"):
        once.draw(steps + 1, torch.Generator())
