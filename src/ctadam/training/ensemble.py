"""Train a model once per run, many runs at a time, and record every step (arXiv 2411.05746, section 3).

Each run draws its initial weights and batches from generators seeded by its own ``seed``. Runs with the same seed start
alike and see the same data in the same order. A run does not depend on the runs trained together with it.

The runs of a chunk are rows of one tensor. A chunk of one run uses autograd; a larger chunk computes all gradients at once
with `torch.func`. Which is faster depends on model and device; see `chunk_size` and docs/ensemble.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from ctadam.optim import stage_betas
from ctadam.training.stack import Layout, StackedKAdam, StackedUnsmoothed
from ctadam.training.tasks import Task
from ctadam.training.torch_optimizers import TORCH_OPTIMIZERS, StackedTorchOptimizer

#: Required columns of a table of runs. Other columns are copied to the result.
RUN_COLUMNS = ("run", "beta1", "beta2", "lr", "weight_decay", "eps", "state_dtype", "seed", "steps")
#: Optional columns and their defaults. ``k`` and ``stages`` are used by ``kadam`` only. ``clip`` is the norm to which the
#: gradient is clipped. ``precision`` is that of the forward and backward pass.
OPTIONAL_COLUMNS: dict[str, Any] = {
    "k": 1,
    "stages": "inverse-exp",
    "clip": math.inf,
    "optimizer": "kadam",
    "precision": "float32",
}
OPTIMIZERS = ("kadam", "unsmoothed", *TORCH_OPTIMIZERS)
STATE_DTYPES = {"float32": torch.float32, "float64": torch.float64}
#: bfloat16 is applied by torch's autocast; parameters and gradients stay float32.
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}

#: On a CPU, the largest number of parameters and layer outputs of all runs of a chunk. Beyond it, the data of a step no longer
#: fit the cache, and batching costs more than it gains (docs/ensemble.md).
CPU_NUMBERS = 2**21
#: Largest chunk; on a CPU, chunks of convolutional networks stop gaining sooner.
LARGEST_CHUNK, CONVOLUTIONS_CHUNK = 64, 8
#: On a GPU, the share of its memory that a chunk may take. The rest is for what `_memory_of_one_run` leaves out: records of
#: further steps, averages of further stages, and the allocator's fragments.
MEMORY_SHARE = 0.5


def generators(seed: int) -> list[torch.Generator]:
    """Return independent generators for the initial weights and for the batches of a run."""
    return [torch.Generator().manual_seed(int(s)) for s in np.random.SeedSequence(int(seed)).generate_state(2)]


def _has_convolutions(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())


def _numbers(model: nn.Module, inputs: Tensor) -> int:
    """Return the number of parameters plus outputs of all innermost layers for one batch."""
    count = sum(p.numel() for p in model.parameters())

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal count
        count += output.numel()

    hooks = [module.register_forward_hook(add) for module in model.modules() if not list(module.children())]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return count


def _memory_of_one_run(task: Task, device: torch.device) -> int:
    """Return the peak GPU memory, in bytes, of one run during one step and its test loss."""
    settings = {
        "run": 0,
        "beta1": 0.9,
        "beta2": 0.999,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "eps": 0.0,
        "seed": 0,
        "steps": 1,
    }
    runs = pd.DataFrame([{**settings, "state_dtype": "float64", **OPTIONAL_COLUMNS}])
    for _ in range(2):  # the first time also allocates cuBLAS's workspace, which all runs share
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _train_chunk(runs, task, device, True, lambda amount: None)
        peak = torch.cuda.max_memory_allocated(device) - before
    return peak


def chunk_size(task: Task, device: torch.device) -> int:
    """Return how many runs of this task are trained together on this device; 1 means one after the other.

    On a GPU, that many runs fill at most `MEMORY_SHARE` of its memory, by the measured peak of one run. Elsewhere the size of
    the model decides, as measured in docs/ensemble.md. Neither the runs' settings nor other processes have an influence.

    Args:
        task: the learning problem.
        device: where to train.
    """
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)  # not the free memory, which depends on other processes
        return int(max(1, min(LARGEST_CHUNK, MEMORY_SHARE * total // _memory_of_one_run(task, device))))
    model = task.build(torch.Generator().manual_seed(0)).to(device)
    inputs, _ = task.read(torch.zeros(task.batch, dtype=torch.int64, device=device))
    largest = CONVOLUTIONS_CHUNK if _has_convolutions(model) else LARGEST_CHUNK
    return max(1, min(largest, CPU_NUMBERS // _numbers(model, inputs)))


class _Recorder:
    """Per-step records on the device. No step waits for the device, and the optimizer's state is not read."""

    def __init__(
        self,
        layout: Layout,
        start: Tensor,
        steps: int,
        watch: Mapping[str, int],
        which: Tensor,
        seeds: int,
        lr: Sequence[float],
        tests: Sequence[str] = ("test_loss",),
        update_rms: bool = False,
    ) -> None:
        device, runs = start.device, len(start)
        self.layout, self.start, self.which = layout, start, which
        self.names = [name.removesuffix(".weight") for name in layout.shapes]
        lengths = [shape[0] if shape else 1 for shape in layout.shapes.values()]
        #: Index of each tensor's first row among the rows of all tensors.
        self.first = np.concatenate([[0], np.cumsum(lengths)])
        self.lr = torch.tensor(lr, dtype=torch.float64, device=device)
        position = {name: i for i, name in enumerate(layout.shapes)}
        self.watch = {position[name]: part for name, part in watch.items()}
        self.last_seen = torch.full((seeds, int(self.first[-1])), -1, device=device)
        self.integers = torch.full((steps, 2, runs), -1, dtype=torch.int64, device=device)
        #: Columns from the sixth on: results of the tests, and r.m.s. of the update.
        self.further = [*tests, *(["update_rms"] if update_rms else [])]
        self.tests = len(tests)
        self.weights = sum(math.prod(shape) for shape in layout.shapes.values())  # a row of parameters is padded
        self.numbers = torch.full((steps, 5 + len(self.further), runs), math.nan, dtype=torch.float64, device=device)
        self.step = -1

    def record(self, step: int, batch: tuple[Tensor, Tensor]) -> None:
        """Record a step's tokens; ``batch`` has one batch per seed."""
        self.step = step
        for i, part in self.watch.items():
            rows = slice(self.first[i], self.first[i + 1])
            self.last_seen[:, rows].scatter_(1, batch[part].flatten(1), step)

    def after_step(self, change: Tensor, params: Tensor, loss: Tensor) -> None:
        """Record −lr·u (which is overwritten), the new parameters, and the loss before the step."""
        if "update_rms" in self.further:
            norm = torch.linalg.vector_norm(change, dim=1, dtype=torch.float64)
            self.numbers[self.step, -1] = norm / self.lr / math.sqrt(self.weights)
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

    def test(self, values: Tensor) -> None:
        """Record the results of the tests, see `Task.tests`."""
        self.numbers[self.step, 5 : 5 + self.tests] = values

    def finite(self) -> np.ndarray:
        """Return for each run whether all records up to this step are finite. Waits for the device."""
        return self.numbers[: self.step + 1, :5].isfinite().all(1).all(0).cpu().numpy()

    def table(self, run: int) -> pd.DataFrame:
        """Return the records of a run as a tidy table, up to and including the first step that is not finite."""
        numbers = self.numbers[: self.step + 1, :, run].cpu().numpy()
        integers = self.integers[: self.step + 1, :, run].cpu().numpy()
        bad = ~np.isfinite(numbers[:, :5]).all(1)
        length = int(bad.argmax()) + 1 if bad.any() else len(bad)
        numbers, (row, unseen) = numbers[:length], integers[:length].T
        tensor = np.searchsorted(self.first, row, side="right") - 1
        return pd.DataFrame(
            {
                "step": np.arange(length, dtype=np.int32),
                "update_max": numbers[:, 0],
                "update_tensor": np.array(self.names, dtype=object)[tensor],
                "update_row": (row - self.first[tensor]).astype(np.int32),
                "unseen": np.where(np.isin(tensor, list(self.watch)), unseen, -1).astype(np.int32),
                "param_max": numbers[:, 1],
                "param_norm": numbers[:, 2],
                "displacement_max": numbers[:, 3],
                "train_loss": numbers[:, 4],
                **{name: numbers[:, 5 + i] for i, name in enumerate(self.further)},
                "diverged_at": np.int32(length - 1 if bad.any() else -1),
            }
        )


def _clip(grads: list[Tensor], max_norm: Tensor) -> list[Tensor]:
    """Scale the gradients of each run to a global norm of at most ``max_norm``, as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        grads: list of tensors of shape (runs, ...).
        max_norm: shape (runs,); inf leaves a run unchanged.
    """
    norms = torch.stack([torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads], 1)
    # torch divides a number by a tensor as the number times the reciprocal.
    scale = ((torch.linalg.vector_norm(norms, dim=1) + 1e-6).reciprocal() * max_norm).clamp(max=1.0)
    scale = torch.where(max_norm.isinf(), 1.0, scale)  # even if the norm is not finite
    return [grad * scale.view(-1, *[1] * (grad.dim() - 1)) for grad in grads]


class _Gradient:
    """Losses, gradients and test losses of a chunk: batched with `torch.func`, or with autograd for one run."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        layout: Layout,
        params: Tensor,
        grad: Tensor,
        clip: Tensor | None,
        batched: bool,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.clip = clip
        self.task, self.views, self.slots = task, layout.views(params), layout.views(grad)

        def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            with torch.autocast(params.device.type, autocast) if autocast else nullcontext():
                return task.loss(functional_call(model, parameters, (inputs,)), targets)

        def tests(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            outputs = functional_call(model, parameters, (inputs,))
            return torch.stack([measure(outputs, targets) for measure in (task.loss, task.score) if measure])

        self.one, self.tests = loss, tests
        self.batched = batched
        if batched:
            self.many = vmap(grad_and_value(loss))
            self.many_tests = vmap(tests, in_dims=(0, None, None), out_dims=1)
        else:
            # Views of the row as autograd leaves.
            self.views = {name: view[0].requires_grad_() for name, view in self.views.items()}

    def __call__(self, inputs: Tensor, targets: Tensor, which: Tensor) -> Tensor:
        """Write the gradients to the tensor that the optimizer reads and return the losses, shape (runs,)."""
        if self.batched:
            grads, losses = self.many(self.views, inputs[which], targets[which])
            ordered = [grads[name] for name in self.slots]
        else:
            loss = self.one(self.views, inputs[0], targets[0])
            ordered, losses = [g[None] for g in torch.autograd.grad(loss, list(self.views.values()))], loss.detach()
        if self.clip is not None:
            ordered = _clip(ordered, self.clip)
        for slot, grad in zip(self.slots.values(), ordered, strict=True):
            slot.copy_(grad)
        return losses

    @torch.no_grad()
    def test(self) -> Tensor:
        """Return the results of the tests, shape (`Task.tests`, runs)."""
        tests = self.many_tests if self.batched else lambda *arguments: self.tests(*arguments)[:, None]
        means = []
        for part in (self.task.test, self.task.validation):
            if part is not None:
                # Add one batch after another, because the order of a sum over a stack may depend on the number of runs.
                total: Any = sum(tests(self.views, x, y) for x, y in zip(*part, strict=True))
                means.append(total / len(part[0]))
        return torch.cat(means)


def _optimizer(runs: pd.DataFrame, params: Tensor, state_dtype: torch.dtype, steps: int) -> Any:
    """Return the optimizer of a chunk, which updates the rows of ``params``."""
    name = runs["optimizer"].iloc[0]
    if name in TORCH_OPTIMIZERS:
        rows: Any = runs.to_dict("records")
        return StackedTorchOptimizer(name, params, rows)
    common: dict[str, Any] = {
        "lr": runs["lr"].tolist(),
        "weight_decay": runs["weight_decay"].tolist(),
        "eps": runs["eps"].tolist(),
        "state_dtype": state_dtype,
    }
    if name == "unsmoothed":
        return StackedUnsmoothed(params, betas=runs[["beta1", "beta2"]].to_numpy().tolist(), **common)
    stages = [
        stage_betas(stages, int(k), betas=(float(beta1), float(beta2)))
        for stages, k, beta1, beta2 in runs[["stages", "k", "beta1", "beta2"]].itertuples(index=False)
    ]
    return StackedKAdam(params, stages=stages, steps=steps, **common)


def _train_chunk(
    runs: pd.DataFrame,
    task: Task,
    device: torch.device,
    batched: bool,
    progress: Callable[[int], object],
    update_rms: bool = False,
) -> list[pd.DataFrame]:
    """Return one table per run of a chunk.

    The runs must agree in optimizer, steps, state_dtype and precision, and be sorted by decreasing k.
    """
    common = runs.iloc[0]
    steps, state_dtype = int(common["steps"]), STATE_DTYPES[common["state_dtype"]]
    seeds, inverse = np.unique(runs["seed"], return_inverse=True)
    sources = [generators(seed) for seed in seeds]
    models = [task.build(weights) for weights, _ in sources]
    layout = Layout(models[0].named_parameters())
    start = torch.zeros((len(models), layout.width))
    for name, view in layout.views(start).items():
        view.copy_(torch.stack([model.get_parameter(name).detach() for model in models]))
    start = start.to(device)[inverse]
    params = start.clone()
    grad = torch.zeros_like(params, dtype=state_dtype)
    # All batches are drawn beforehand (a few indices per step), so that no step waits for a transfer.
    draws = torch.stack([task.draw(steps, order) for _, order in sources], 1).to(device)
    which = torch.from_numpy(inverse).to(device)
    optimizer = _optimizer(runs, params, state_dtype, steps)
    lr = runs["lr"].tolist()
    recorder = _Recorder(layout, start, steps, task.watch, which, len(seeds), lr, task.tests, update_rms)
    norms = torch.tensor(runs["clip"].to_numpy(), dtype=torch.float32)
    clip = norms.to(device) if norms.isfinite().any() else None
    autocast = PRECISIONS[common["precision"]]
    gradient = _Gradient(task, models[0].to(device), layout, params, grad, clip, batched, autocast)
    for step in range(steps):
        batch = task.read(draws[step])
        recorder.record(step, batch)
        losses = gradient(*batch, which)
        with torch.no_grad():
            recorder.after_step(optimizer.step(grad), params, losses)
        progress(len(runs))
        if (step + 1) % task.test_every == 0 or step == steps - 1:
            recorder.test(gradient.test())
            if not recorder.finite().any():  # the only synchronization with the device
                progress(len(runs) * (steps - 1 - step))
                break
    return [recorder.table(run) for run in range(len(runs))]


def _share(progress: Callable[[int], object], own: int, trained: int) -> Callable[[int], object]:
    """Return a progress callback that does not count the copies that fill up a chunk."""
    return lambda amount: progress(amount // trained * own)


def _check(runs: pd.DataFrame) -> None:
    """Raise `ValueError` if the table of runs lacks a column or holds an invalid value."""
    missing = [c for c in RUN_COLUMNS if c not in runs]
    if missing:
        raise ValueError(f"the table of runs lacks the column(s) {', '.join(missing)}")
    for column, known in (("state_dtype", STATE_DTYPES), ("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
        unknown = set(runs[column]) - set(known)
        if unknown:
            raise ValueError(f"unknown {column} {unknown.pop()!r}; known: {', '.join(known)}")
    if (runs["optimizer"].isin(TORCH_OPTIMIZERS) & (runs["state_dtype"] != "float32")).any():
        raise ValueError("torch's optimizers keep their state in float32, like the parameters")
    for column, good, rule in (
        ("lr", runs["lr"] > 0, "above 0"),
        ("weight_decay", runs["weight_decay"] >= 0, "at least 0"),
        ("eps", runs["eps"] >= 0, "at least 0"),
        ("steps", runs["steps"] >= 1, "at least 1"),
        ("clip", runs["clip"] > 0, "above 0"),
    ):
        if not good.all():
            raise ValueError(f"Invalid {column}: {runs[column][~good].iloc[0]} is not {rule}")


def train(
    runs: pd.DataFrame,
    *,
    task: Task,
    device: torch.device,
    chunk: int | None = None,
    progress: Callable[[int], object] = lambda amount: None,
    update_rms: bool = False,
) -> pd.DataFrame:
    """Train the task's model once per run and record every step.

    The update recorded at step n = 0, 1, … is u_n in θ_{n+1} = θ_n − η(λθ_n + u_n). Parameters are recorded after the step. On a
    CPU with a fixed ``chunk``, the result does not depend on which runs are trained together, to the last bit.

    Args:
        runs: one row per run, with the columns `RUN_COLUMNS` and optionally `OPTIONAL_COLUMNS`. Other columns are copied to
            the result. ``beta1`` and ``beta2`` are the paper's γ and β. ``state_dtype`` is ``"float32"`` or ``"float64"``.
            ``k`` and ``stages``: see `ctadam.optim.stage_betas`. ``clip`` is the global norm to which the gradient is clipped,
            inf for none. ``optimizer`` is one of `OPTIMIZERS`. ``precision`` is ``"float32"``, or ``"bfloat16"`` for training
            losses and gradients under `torch.autocast`; test losses are always float32.
        task: the learning problem.
        device: where to train.
        chunk: number of runs trained together; `chunk_size` by default.
        progress: called with the number of steps since the last call, summed over runs.
        update_rms: also record the root mean square of the update.

    Returns:
        DataFrame with one row per step, sorted by run and step. It has the run's columns and

        - ``step``: step index n;
        - ``update_max``: ‖u_n‖_∞;
        - ``update_tensor``, ``update_row``: tensor and row (first index) with the largest update;
        - ``unseen``: steps since the token of that row was last seen, n + 1 if never; −1 if the task does not watch the
          tensor;
        - ``param_max``, ``param_norm``, ``displacement_max``: ‖θ‖_∞, ‖θ‖₂, ‖θ − θ_0‖_∞;
        - ``train_loss``: loss before the step, in the task's unit;
        - ``test_loss``: loss after the step, NaN where not computed; with it the other results in `Task.tests`;
        - ``update_rms``, if requested: root mean square of u_n over all weights;
        - ``diverged_at``: first step with a record that is not finite, which is the last row of its run; −1 if none.

    Raises:
        ValueError: if a column is missing or a value is invalid.
    """
    full = runs.assign(**{c: value for c, value in OPTIONAL_COLUMNS.items() if c not in runs})
    _check(full)
    chunk = chunk or chunk_size(task, device)
    # On a CPU the kernel of batched convolutions depends on their number, so the last chunk is filled up with copies.
    fill = device.type == "cpu" and chunk > 1 and _has_convolutions(task.build(torch.Generator()))
    tables: dict[Any, pd.DataFrame] = {}
    for _, group in full.groupby(["optimizer", "steps", "state_dtype", "precision"], sort=False):
        group = group.sort_values("k", ascending=False, kind="stable")
        for first in range(0, len(group), chunk):
            rows = group.iloc[first : first + chunk]
            trained = rows.iloc[np.minimum(np.arange(chunk), len(rows) - 1)] if fill else rows
            own = _share(progress, len(rows), len(trained))
            chunk_tables = _train_chunk(trained, task, device, chunk > 1, own, update_rms)
            tables |= dict(zip(rows.index, chunk_tables[: len(rows)], strict=True))
    columns = [c for c in runs if c != "steps"]
    parts = []
    for index, run in zip(runs.index, runs[columns].to_dict("records"), strict=True):
        table = tables[index]
        constants = pd.DataFrame({name: [value] * len(table) for name, value in run.items()})
        parts.append(pd.concat([constants, table], axis=1))
    return pd.concat(parts, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True)


def train_tasks(
    runs: pd.DataFrame,
    by: str,
    prepare: Callable[[Any], tuple[Task, dict[str, str]]],
    *,
    device: torch.device,
    progress: Callable[[int], object],
    select: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table,
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Train the runs of several tasks, those of one task together.

    Args:
        runs: see `train`.
        by: column that names the task of a run.
        prepare: function from a value of ``by`` to the task and ``{source: sha256}`` of its data.
        device: where to train.
        progress: see `train`.
        select: function from the records of a task to those that are kept.

    Returns:
        ``(table, details)``: the records sorted by run and step, and for the provenance ``data`` and, per task, ``chunks``
        (number of runs trained together) and ``weights`` (number of weights of the model).
    """
    tables: list[pd.DataFrame] = []
    details: dict[str, dict[str, Any]] = {"data": {}, "chunks": {}, "weights": {}}
    for name, group in runs.groupby(by, sort=False):
        task, data = prepare(name)
        chunk = chunk_size(task, device)
        tables.append(select(train(group, task=task, device=device, chunk=chunk, progress=progress)))
        details["data"] |= data
        details["chunks"][str(name)], details["weights"][str(name)] = chunk, task.weights
    return pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True), details
