"""Train a model once per point, many points at a time, and record at every step what the paper's section 3 speaks of.

Each run draws its initial weights and its batches from generators seeded by its own ``seed``: two points with the same
seed start alike and see the same data in the same order, and a run does not depend on the runs beside it.

The runs of a chunk are rows of one tensor. With one run a chunk the gradient is autograd's; with more it is that of all
runs at once (`torch.func`). Which is faster is a matter of model and device: see `chunk_size` and docs/ensemble.md.
"""

import math
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from ctadam.optim import stage_betas
from ctadam.training.peers import PEERS, StackedPeer
from ctadam.training.stack import Layout, StackedKAdam, StackedUnsmoothed

#: Columns a table of points must have; any other column is carried through to the result.
POINT_COLUMNS = ("run", "beta1", "beta2", "lr", "weight_decay", "eps", "state_dtype", "seed", "steps")
#: What they may have besides, and what stands for a column that is not there: k-Adam's stages; the norm to which a run's
#: gradient is clipped; or another optimizer. Of the variant with the unsmoothed second normalization and of torch's own,
#: ``k`` and ``stages`` are not read. ``precision``: that of the forward and backward pass.
OPTIONAL_COLUMNS = {"k": 1, "stages": "inverse-exp", "clip": math.inf, "optimizer": "kadam", "precision": "float32"}
OPTIMIZERS = ("kadam", "unsmoothed", *PEERS)
STATE_DTYPES = {"float32": torch.float32, "float64": torch.float64}
#: Of bfloat16 only what torch's autocast takes for safe; parameters and gradients stay float32.
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}

#: On a CPU, the runs of a chunk may together have this many parameters and numbers put out by layers: beyond it, what one
#: step touches leaves the cache before it is used again, and batching loses more than it gains (docs/ensemble.md).
CPU_NUMBERS = 2**21
#: The most runs in a chunk; with convolutions on a CPU, whose gain stops sooner.
LARGEST_CHUNK, CONVOLUTIONS_CHUNK = 64, 8
#: On a GPU, the share of its memory that a chunk may take. The rest is for what `_memory_of_one_run` leaves out: records of
#: further steps, averages of further stages, and the allocator's fragments.
MEMORY_SHARE = 0.5


def generators(seed):
    """Independent generators for the initial weights and for the batches of one run."""
    return [torch.Generator().manual_seed(int(s)) for s in np.random.SeedSequence(int(seed)).generate_state(2)]


def _has_convolutions(model):
    return any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())


def _numbers(model, inputs):
    """Parameters, and all that the innermost layers put out for one batch."""
    count = sum(p.numel() for p in model.parameters())

    def add(module, inputs, output):
        nonlocal count
        count += output.numel()

    hooks = [module.register_forward_hook(add) for module in model.modules() if not list(module.children())]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return count


def _memory_of_one_run(task, device):
    """Return the most bytes of GPU memory that one run holds while it trains for one step and takes its test loss."""
    run = {"run": 0, "beta1": 0.9, "beta2": 0.999, "lr": 1e-3, "weight_decay": 0.0, "eps": 0.0, "seed": 0, "steps": 1}
    point = pd.DataFrame([{**run, "state_dtype": "float64", **OPTIONAL_COLUMNS}])
    for _ in range(2):  # the first time also allocates cuBLAS's workspace, which all runs share
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _train_chunk(point, task, device, True, lambda amount: None)
        peak = torch.cuda.max_memory_allocated(device) - before
    return peak


def chunk_size(task, device):
    """Return how many runs of this task are trained together on this device; 1 means one after the other.

    On a GPU, that many runs fill at most `MEMORY_SHARE` of its memory, by the measured peak of one run. Elsewhere the size of
    the model decides, as measured in docs/ensemble.md. The points and what else the machine does have no influence.

    Args:
        task: `Task`.
        device: `torch.device`.
    """
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)  # not the free memory, which depends on other processes
        return int(max(1, min(LARGEST_CHUNK, MEMORY_SHARE * total // _memory_of_one_run(task, device))))
    model = task.build(torch.Generator().manual_seed(0)).to(device)
    inputs, _ = task.read(torch.zeros(task.batch, dtype=torch.int64, device=device))
    most = CONVOLUTIONS_CHUNK if _has_convolutions(model) else LARGEST_CHUNK
    return max(1, min(most, CPU_NUMBERS // _numbers(model, inputs)))


class _Recorder:
    """Per-step records, kept on the device: nothing in a step waits for it, and the optimizer's state is not read."""

    def __init__(self, layout, start, steps, watch, which, seeds, lr, scored=False):
        device, runs = start.device, len(start)
        self.layout, self.start, self.which = layout, start, which
        self.names = [name.removesuffix(".weight") for name in layout.shapes]
        lengths = [shape[0] if shape else 1 for shape in layout.shapes.values()]
        #: The rows of all tensors, one after the other; where each tensor's begin.
        self.first = np.concatenate([[0], np.cumsum(lengths)])
        self.lr = torch.tensor(lr, dtype=torch.float64, device=device)
        position = {name: i for i, name in enumerate(layout.shapes)}
        self.watch = {position[name]: part for name, part in watch.items()}
        self.last_seen = torch.full((seeds, int(self.first[-1])), -1, device=device)
        self.integers = torch.full((steps, 2, runs), -1, dtype=torch.int64, device=device)
        #: The last are what the tests give: their loss, and the score where there is one.
        self.numbers = torch.full((steps, 7 if scored else 6, runs), math.nan, dtype=torch.float64, device=device)
        self.step = -1

    def see(self, step, batch):
        """Take note of a step's tokens: a batch for each seed."""
        self.step = step
        for i, part in self.watch.items():
            rows = slice(self.first[i], self.first[i + 1])
            self.last_seen[:, rows].scatter_(1, batch[part].flatten(1), step)

    def after_step(self, change, params, loss):
        """Take note of −lr·u, which is overwritten, of the new parameters, and of the loss before the step."""
        change.abs_()
        rows = [
            change[:, place].view(len(change), shape[0] if shape else 1, -1).amax(-1)
            for place, shape in zip(self.layout.places.values(), self.layout.shapes.values(), strict=True)
        ]
        largest, row = torch.cat(rows, 1).max(1)
        integers, numbers = self.integers[self.step], self.numbers[self.step]
        integers[0] = row
        integers[1] = self.step - self.last_seen[self.which, row]
        numbers[0] = largest / self.lr
        numbers[1] = torch.stack(torch.aminmax(params, dim=1)).abs_().amax(0)
        numbers[2] = torch.linalg.vector_norm(params, dim=1, dtype=torch.float64)
        numbers[3] = torch.stack(torch.aminmax(params - self.start, dim=1)).abs_().amax(0)
        numbers[4] = loss

    def test(self, values):
        self.numbers[self.step, 5:] = values

    def finite(self):
        """Whether all is finite in each run up to this step. Waits for the device."""
        return self.numbers[: self.step + 1, :5].isfinite().all(1).all(0).cpu().numpy()

    def table(self, run):
        """The records of one run as a tidy table, up to and with the first step that is not finite."""
        numbers = self.numbers[: self.step + 1, :, run].cpu().numpy()
        integers = self.integers[: self.step + 1, :, run].cpu().numpy()
        bad = ~np.isfinite(numbers[:, :5]).all(1)
        keep = int(bad.argmax()) + 1 if bad.any() else len(bad)
        numbers, (row, unseen) = numbers[:keep], integers[:keep].T
        holder = np.searchsorted(self.first, row, side="right") - 1
        score = {"test_score": numbers[:, 6]} if numbers.shape[1] > 6 else {}
        return pd.DataFrame(
            {
                "step": np.arange(keep, dtype=np.int32),
                "update_max": numbers[:, 0],
                "update_tensor": np.array(self.names, dtype=object)[holder],
                "update_row": (row - self.first[holder]).astype(np.int32),
                "unseen": np.where(np.isin(holder, list(self.watch)), unseen, -1).astype(np.int32),
                "param_max": numbers[:, 1],
                "param_norm": numbers[:, 2],
                "displacement_max": numbers[:, 3],
                "train_loss": numbers[:, 4],
                "test_loss": numbers[:, 5],
                **score,
                "diverged_at": np.int32(keep - 1 if bad.any() else -1),
            }
        )


def _clip(grads, most):
    """Gradients scaled to a global norm of at most ``most``, run by run, as `torch.nn.utils.clip_grad_norm_` does it.

    Args:
        grads: list of tensors of shape (runs, ...).
        most: shape (runs,); inf leaves a run as it is.
    """
    norms = torch.stack([torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads], 1)
    # In torch's order, where a number over a tensor is the number times the reciprocal.
    scale = ((torch.linalg.vector_norm(norms, dim=1) + 1e-6).reciprocal() * most).clamp(max=1.0)
    scale = torch.where(most.isinf(), 1.0, scale)  # also where the norm is not finite
    return [grad * scale.view(-1, *[1] * (grad.dim() - 1)) for grad in grads]


class _Gradient:
    """Losses and gradients of a chunk, and its test losses: batched with `torch.func`, or autograd's for one run."""

    def __init__(self, task, model, layout, params, grad, clip, batched, autocast=None):
        self.clip = clip
        self.task, self.views, self.slots = task, layout.views(params), layout.views(grad)

        def loss(parameters, inputs, targets):
            with torch.autocast(params.device.type, autocast) if autocast else nullcontext():
                return task.loss(functional_call(model, parameters, (inputs,)), targets)

        def tests(parameters, inputs, targets):
            outputs = functional_call(model, parameters, (inputs,))
            return torch.stack([measure(outputs, targets) for measure in (task.loss, task.score) if measure])

        self.one, self.tests = loss, tests
        self.batched = batched
        if batched:
            self.many = vmap(grad_and_value(loss))
            self.many_tests = vmap(tests, in_dims=(0, None, None), out_dims=1)
        else:
            # Views of the row that autograd takes for leaves.
            self.views = {name: view[0].requires_grad_() for name, view in self.views.items()}

    def __call__(self, inputs, targets, which):
        """Write the gradients where the optimizer reads them; the losses, shape (runs,)."""
        if self.batched:
            grads, losses = self.many(self.views, inputs[which], targets[which])
            found = [grads[name] for name in self.slots]
        else:
            loss = self.one(self.views, inputs[0], targets[0])
            found, losses = [g[None] for g in torch.autograd.grad(loss, list(self.views.values()))], loss.detach()
        if self.clip is not None:
            found = _clip(found, self.clip)
        for slot, grad in zip(self.slots.values(), found, strict=True):
            slot.copy_(grad)
        return losses

    @torch.no_grad()
    def test(self):
        """Loss and score, shape (1 or 2, runs)."""
        tests = self.many_tests if self.batched else lambda *arguments: self.tests(*arguments)[:, None]
        # One after the other: the order of a sum over a stack may depend on how many runs there are.
        return sum(tests(self.views, x, y) for x, y in zip(*self.task.test, strict=True)) / len(self.task.test[0])


def _optimizer(points, params, state_dtype, steps):
    """The optimizer of a chunk, on the rows of ``params``."""
    name = points["optimizer"].iloc[0]
    if name in PEERS:
        return StackedPeer(name, params, points.to_dict("records"))
    common = {
        "lr": points["lr"].tolist(),
        "weight_decay": points["weight_decay"].tolist(),
        "eps": points["eps"].tolist(),
        "state_dtype": state_dtype,
    }
    if name == "unsmoothed":
        return StackedUnsmoothed(params, betas=points[["beta1", "beta2"]].to_numpy().tolist(), **common)
    stages = [
        stage_betas(stages, int(k), betas=(float(beta1), float(beta2)))
        for stages, k, beta1, beta2 in points[["stages", "k", "beta1", "beta2"]].itertuples(index=False)
    ]
    return StackedKAdam(params, stages=stages, steps=steps, **common)


def _train_chunk(points, task, device, batched, progress):
    """The tables of one chunk's runs: rows that agree in optimizer, steps, state_dtype and precision, sorted by k, large to
    small."""
    common = points.iloc[0]
    steps, state_dtype = int(common["steps"]), STATE_DTYPES[common["state_dtype"]]
    seeds, which = np.unique(points["seed"], return_inverse=True)
    sources = [generators(seed) for seed in seeds]
    models = [task.build(weights) for weights, _ in sources]
    layout = Layout(models[0].named_parameters())
    start = torch.zeros((len(models), layout.width))
    for name, view in layout.views(start).items():
        view.copy_(torch.stack([model.get_parameter(name).detach() for model in models]))
    start = start.to(device)[which]
    params = start.clone()
    grad = torch.zeros_like(params, dtype=state_dtype)
    # Drawn beforehand, a few numbers a step, so that no step waits for a transfer.
    draws = [torch.randint(task.examples, (steps, task.batch), generator=order) for _, order in sources]
    draws = torch.stack(draws, 1).to(device)
    which = torch.from_numpy(which).to(device)
    optimizer = _optimizer(points, params, state_dtype, steps)
    recorder = _Recorder(
        layout, start, steps, task.watch, which, len(seeds), points["lr"].tolist(), task.score is not None
    )
    clip = torch.tensor(points["clip"].to_numpy(), dtype=torch.float32)
    clip = clip.to(device) if clip.isfinite().any() else None
    autocast = PRECISIONS[common["precision"]]
    gradient = _Gradient(task, models[0].to(device), layout, params, grad, clip, batched, autocast)
    for step in range(steps):
        batch = task.read(draws[step])
        recorder.see(step, batch)
        losses = gradient(*batch, which)
        with torch.no_grad():
            recorder.after_step(optimizer.step(grad), params, losses)
        progress(len(points))
        if (step + 1) % task.test_every == 0 or step == steps - 1:
            recorder.test(gradient.test())
            if not recorder.finite().any():  # the only place where a run waits for the device
                progress(len(points) * (steps - 1 - step))
                break
    return [recorder.table(run) for run in range(len(points))]


def _share(progress, own, trained):
    """Progress without the copies that fill a chunk up: they are no work that was asked for."""
    return lambda amount: progress(amount // trained * own)


def _check(points):
    missing = [c for c in POINT_COLUMNS if c not in points]
    if missing:
        raise ValueError(f"points lack the column(s) {', '.join(missing)}")
    for column, known in (("state_dtype", STATE_DTYPES), ("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
        unknown = set(points[column]) - set(known)
        if unknown:
            raise ValueError(f"unknown {column} {unknown.pop()!r}; known: {', '.join(known)}")
    if (points["optimizer"].isin(PEERS) & (points["state_dtype"] != "float32")).any():
        raise ValueError("torch's optimizers keep their state in float32, as the parameters")
    for column, good, rule in (
        ("lr", points["lr"] > 0, "above 0"),
        ("weight_decay", points["weight_decay"] >= 0, "at least 0"),
        ("eps", points["eps"] >= 0, "at least 0"),
        ("steps", points["steps"] >= 1, "at least 1"),
        ("clip", points["clip"] > 0, "above 0"),
    ):
        if not good.all():
            raise ValueError(f"Invalid {column}: {points[column][~good].iloc[0]} is not {rule}")


def train(points, *, task, device, chunk=None, progress=lambda amount: None):
    """Train the task's model once per point, with k-Adam or an optimizer of torch's, and record every step.

    The update recorded at step n = 0, 1, … is u_n of θ_{n+1} = θ_n − η(λθ_n + u_n); parameters are recorded after it. On
    a CPU the result does not depend, to the last bit, on which points are trained together, if ``chunk`` is the same.

    Args:
        points: DataFrame, a row a run, with the columns `POINT_COLUMNS` (``beta1``, ``beta2`` are the paper's γ and β;
            ``state_dtype`` is ``"float32"`` or ``"float64"``) and those of `OPTIONAL_COLUMNS` (see
            `ctadam.optim.stage_betas`; ``clip``: global norm to which the gradient is clipped, inf for none;
            ``optimizer``: one of `OPTIMIZERS`; ``precision``: ``"float32"``, or ``"bfloat16"`` for training losses and
            gradients under `torch.autocast`, test losses in float32 all the same); further columns are carried through.
        task: `Task`.
        device: `torch.device`.
        chunk: runs trained at a time; `chunk_size` by default.
        progress: called with the steps done since the last call, counted over all runs.

    Returns:
        DataFrame, a row a step, sorted by run and step: the point's columns, and

        - ``step``; ``update_max`` ‖u_n‖_∞; ``update_tensor``, ``update_row``: the tensor and the row (first index) that
          hold it; ``unseen``: for a parameter that the task watches, steps since that row's token was last seen, n + 1
          if never; −1 for others;
        - ``param_max`` ‖θ‖_∞, ``param_norm`` ‖θ‖₂, ``displacement_max`` ‖θ − θ_0‖_∞;
        - ``train_loss`` (before the step), ``test_loss`` (after it; NaN where not taken), in the task's unit; where the
          task has a score, ``test_score``, taken with the test loss;
        - ``diverged_at``: the first step at which something was not finite, the last row of its run; −1 if none.

    Raises:
        ValueError: a missing column, an unknown state_dtype, or a value out of its range.
    """
    full = points.assign(**{c: value for c, value in OPTIONAL_COLUMNS.items() if c not in points})
    _check(full)
    chunk = chunk or chunk_size(task, device)
    # On a CPU the kernel of batched convolutions changes with their number, so there the last chunk is filled up.
    fill = device.type == "cpu" and chunk > 1 and _has_convolutions(task.build(torch.Generator()))
    tables = {}
    for _, group in full.groupby(["optimizer", "steps", "state_dtype", "precision"], sort=False):
        group = group.sort_values("k", ascending=False, kind="stable")
        for first in range(0, len(group), chunk):
            rows = group.iloc[first : first + chunk]
            trained = rows.iloc[np.minimum(np.arange(chunk), len(rows) - 1)] if fill else rows
            made = _train_chunk(trained, task, device, chunk > 1, _share(progress, len(rows), len(trained)))
            tables |= dict(zip(rows.index, made[: len(rows)], strict=True))
    columns = [c for c in points if c != "steps"]
    parts = []
    for index, point in zip(points.index, points[columns].to_dict("records"), strict=True):
        table = tables[index]
        constants = pd.DataFrame({name: [value] * len(table) for name, value in point.items()})
        parts.append(pd.concat([constants, table], axis=1))
    return pd.concat(parts, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True)
