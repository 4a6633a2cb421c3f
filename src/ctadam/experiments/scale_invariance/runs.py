"""Train models with scale-invariant weights, and record norms, directions and distances (arXiv 2411.05746, on normalization).

All runs use float64, ε = 0 and normalization layers without ε, so that the weights are scale-invariant up to rounding. The theory
is in `ctadam.theory.scale_invariance`. Three variants share one table:

``law``
    Adam without weight decay on a model with scale-invariant weights; two of the models have other weights too. The records
    compare the measured norm with the norm laws, and hold the angle by which the direction turns and the cosines with past
    gradients.
``steady``
    The same for the transformer with weight decay, in minibatches, until the start is forgotten. Without cosines.
``fixed_norm``
    AdamW on a model with scale-invariant weights only, and the same model trained with fixed norms by each of
    `FIXED_NORM_OPTIMIZERS`, with the same start and the same minibatches. The records hold the distance from AdamW in direction.

The norm laws are integrated during training, because they need the update of every step and most steps leave no record.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ctadam.data.digits import load_digits
from ctadam.data.text import load_corpus
from ctadam.experiments import with_columns
from ctadam.experiments.scale_invariance.config import Config
from ctadam.models.cnn import CNN
from ctadam.models.invariance import make_exact, scale_invariant_weights
from ctadam.models.mlp import MLP, NormalizedLinear
from ctadam.models.transformer import Transformer
from ctadam.optim import kadam_update_, stage_
from ctadam.optim.arithmetic import stage_update
from ctadam.theory import scale_invariance as theory
from ctadam.training import Task, classification, language
from ctadam.training.ensemble import generators
from ctadam.training.stack import Layout

#: Number of digits in the test set, taken from the end.
_TEST = 360
#: Verification must not shorten these runs, because their batches and cosines are drawn for all steps at once.
SHORTENED = False
BATCHINGS = ("minibatch", "full")
#: Columns of the records of each kind, in addition to those of the run, ``record`` and ``step``. They are stored in float32.
NORM = ("norm_sq", "law_paper", "law_inertial", "coarse_share", "updates_sq", "turned", "turned_paper")
COSINE = ("lag", "dimension", "cosine")
RECORDS = ("weight", *NORM, *COSINE, "optimizer", "direction_distance")
#: Optimizers for weights of fixed norm:
#: ``adam``: Adam at AdamW's learning rate, which turns the direction by ηu/‖W_0‖ at every step: the norm does not act;
#: ``2adam``: 2-Adam with γ₂ = 0, whose second average is one number per weight and stands for its norm by the paper's law;
#: ``2adam_inertial``: the same by the inertial law.
FIXED_NORM_OPTIMIZERS = ("adam", "2adam", "2adam_inertial")


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    A run of variant ``fixed_norm`` trains AdamW and all of `FIXED_NORM_OPTIMIZERS`.

    Args:
        config: section ``scale_invariance`` of the configuration.

    Returns:
        DataFrame with ``run``, ``variant`` (``law``, ``steady`` or ``fixed_norm``), ``model``, ``batching`` (one of `BATCHINGS`),
        ``beta1`` (paper's γ), ``beta2`` (paper's β), ``lr``, ``weight_decay``, ``seed`` and ``steps``.
    """
    laws, fixed, steady = config.models, config.fixed_norm, config.steady
    groups = [
        ("law", model, batching, settings.lr, 0.0, settings.steps)
        for batching in BATCHINGS
        for model in type(laws).model_fields
        for settings in [getattr(laws, model)]
    ]
    groups.append(("steady", "transformer", "minibatch", laws.transformer.lr, steady.weight_decay, steady.steps))
    groups += [
        ("fixed_norm", model, "minibatch", fixed.lr, weight_decay, fixed.steps)
        for model in type(fixed.models).model_fields
        if getattr(fixed.models, model) is not None
        for weight_decay in fixed.weight_decays
    ]
    table = pd.DataFrame(groups, columns=["variant", "model", "batching", "lr", "weight_decay", "steps"])
    for name, values in (("seed", config.seeds), ("beta1", config.beta1s)):
        table = table.merge(pd.DataFrame({name: values}), how="cross")
    table = table.assign(beta2=config.beta2, run=range(len(table)))
    names = ["run", "variant", "model", "batching", "beta1", "beta2", "lr", "weight_decay", "seed", "steps"]
    return table[names].astype({"beta1": float, "lr": float, "weight_decay": float})


def _settings(config: Config, variant: str, model: str) -> dict[str, Any]:
    """Return the settings of a model in a variant: its sizes, ``batch``, ``examples`` and ``chunk``."""
    if variant == "fixed_norm":
        return dict(config.fixed_norm) | {"examples": 0} | dict(getattr(config.fixed_norm.models, model))
    settings = dict(getattr(config.models, model))
    return settings | {"chunk": config.steady.chunk} if variant == "steady" else settings


def _task(name: str, settings: Mapping[str, Any], device: torch.device) -> tuple[Task, dict[str, str]]:
    """Return the task of a model, and the sha256 of its data by source."""
    if name == "transformer":
        size, text = dict(settings["model"]), settings["text"]
        corpus = load_corpus(
            text.source, tokenization="characters", test_fraction=text.test_fraction, context=size["context"]
        )
        task = language(corpus, **size, batch=settings["batch"], test_batches=1, test_every=1, device=device)

        def build_transformer(generator: torch.Generator) -> nn.Module:
            return Transformer(vocabulary=len(corpus.vocabulary), **size, qk_norm=True, generator=generator)

        return dataclasses.replace(task, build=build_transformer), {text.source: corpus.sha256}

    def build(generator: torch.Generator) -> nn.Module:
        if name == "cnn":
            return CNN(
                inputs=1, height=8, width=8, channels=settings["channels"], classes=10, norm=True, generator=generator
            )
        if name == "linear":
            return NormalizedLinear(features=64, classes=10, scale=settings["scale"], generator=generator)
        size = {key: settings[key] for key in ("width", "depth")}
        return MLP(features=64, classes=10, **size, normalize=True, generator=generator)

    digits = load_digits()
    images = digits.images.view(-1, *((1, 8, 8) if name == "cnn" else (64,)))
    task = classification(
        (images[:-_TEST], digits.labels[:-_TEST]),
        (images[-_TEST:], digits.labels[-_TEST:]),
        build=build,
        batch=settings["batch"],
        test_every=1,
        device=device,
    )
    return task, {"digits": digits.sha256}


class _Problem:
    """A model and its data for many runs that are trained together. Each run has one row of parameters.

    Args:
        name: name of the model.
        settings: its settings, see `_settings`.
        runs: one row per run; all have the same ``batching`` and ``steps``.
        device: where to train.

    Attributes:
        task: the learning problem.
        data: sha256 of the data by source.
        layout: positions of the tensors in a row.
        weights: columns of each scale-invariant weight, by name.
        start: initial parameters, float64 of shape (runs, width).
    """

    def __init__(self, name: str, settings: Mapping[str, Any], runs: pd.DataFrame, device: torch.device) -> None:
        self.task, self.data = _task(name, settings, device)
        model = make_exact(self.task.build(torch.Generator().manual_seed(0)).double()).to(device)
        full = min(settings["examples"], self.task.examples)
        self.layout = Layout(model.named_parameters())
        self.weights: dict[str, slice] = {}
        for weight, (parameter, rows) in scale_invariant_weights(model).items():
            place, shape = self.layout.places[parameter], self.layout.shapes[parameter]
            first, last, _ = rows.indices(shape[0])
            size = math.prod(shape[1:])
            self.weights[weight] = slice(place.start + first * size, place.start + last * size)

        seeds, which = np.unique(runs["seed"], return_inverse=True)
        steps = int(runs["steps"].iloc[0])
        sources = [generators(seed) for seed in seeds]
        start = torch.zeros((len(seeds), self.layout.width), dtype=torch.float64)
        for row, (weights, _) in zip(start, sources, strict=True):
            built = self.task.build(weights)
            for view_name, view in self.layout.views(row[None]).items():
                view[0].copy_(built.get_parameter(view_name).detach())
        which_seed = torch.from_numpy(which)
        self.start = start[which_seed].to(device)
        draws, whole = [], []
        for _, order in sources:
            draws.append(torch.randint(self.task.examples, (steps, self.task.batch), generator=order))
            whole.append(torch.randperm(self.task.examples, generator=order)[:full])
        self.which = which_seed.to(device)
        #: Indices of the examples, shape (steps, seeds, batch).
        self.draws = torch.stack(draws, 1).to(device)
        #: Inputs and targets of the full batch, one batch per run; None for minibatches.
        self.whole: tuple[Tensor, ...] | None = None
        if runs["batching"].iloc[0] == "full":
            self.whole = tuple(part[self.which] for part in self.task.read(torch.stack(whole).to(device)))

        def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            return self.task.loss(functional_call(model, parameters, (inputs,)), targets)

        self._gradient = vmap(grad(loss))

    def gradient(self, theta: Tensor, n: int, rows: Tensor | None = None) -> Tensor:
        """Return the gradients at step n, of the same shape as ``theta``.

        Args:
            theta: parameters, shape (rows, width).
            n: step index.
            rows: index of the run whose batch each row of ``theta`` uses; by default the rows are the runs.
        """
        batch = self.whole
        if batch is None:
            batch = tuple(part[self.which] for part in self.task.read(self.draws[n]))
        if rows is not None:
            batch = tuple(part[rows] for part in batch)
        grads = self._gradient(self.layout.views(theta), *batch)
        gradients = torch.zeros_like(theta)
        for name, view in self.layout.views(gradients).items():
            view.copy_(grads[name])
        return gradients


def _column(runs: pd.DataFrame, name: str, device: torch.device) -> Tensor:
    """Return a column of the runs as float64 of shape (runs, 1)."""
    return torch.tensor(runs[[name]].to_numpy(), dtype=torch.float64, device=device)


class _LawRecorder:
    """Record measured norms, norm laws and angles of the scale-invariant weights. All tensors have the shape (weights, runs).

    Args:
        weights: columns of each scale-invariant weight, by name.
        theta: initial parameters, shape (runs, width).
        runs: one row per run.
        device: where to compute.

    Attributes:
        rows: step index -> records, shape (columns, weights, runs) with the columns `NORM`.
    """

    def __init__(self, weights: Mapping[str, slice], theta: Tensor, runs: pd.DataFrame, device: torch.device) -> None:
        self.weights = weights
        self.lr, self.decay, self.beta1, self.beta2 = (
            _column(runs, name, device)[:, 0] for name in ("lr", "weight_decay", "beta1", "beta2")
        )
        start = self._inner(theta, theta)
        zero = torch.zeros_like(start)
        self.paper: Any = start
        # ‖W‖² and ⟨W, u⟩ by the inertial law, and by the same law with the measured ⟨W, g/√v⟩ in place of 0.
        self.inertial: tuple[Any, Any] = (start, zero)
        self.complete: tuple[Any, Any] = (start, zero)
        self.second_moment, self.updates_sq = zero, zero
        self.turned, self.turned_paper = torch.zeros_like(start), zero
        self.rows: dict[int, Tensor] = {}

    def _inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the inner product of the two tensors within each weight, shape (weights, runs)."""
        return torch.stack([(a[:, place] * b[:, place]).sum(-1) for place in self.weights.values()])

    def record(self, n: int, theta: Tensor) -> None:
        """Keep a record of the state before step n; ``theta`` are its parameters, shape (runs, width)."""
        coarse_share = self.complete[0] - self.inertial[0]
        laws = (self.paper, self.inertial[0], coarse_share)
        self.rows[n] = torch.stack([self._inner(theta, theta), *laws, self.updates_sq, self.turned, self.turned_paper])

    def advance(self, n: int, theta: Tensor, second: Tensor, update: Tensor, normalized: Tensor) -> None:
        """Advance the norm laws by step n.

        Args:
            n: step index.
            theta: parameters before the step, shape (runs, width), like all tensors here.
            second: second moment v_n.
            update: u_n.
            normalized: g_n/√v̂_n.
        """
        update_sq = self._inner(update, update)
        rates: dict[str, Any] = {"lr": self.lr, "weight_decay": self.decay, "update_sq": update_sq}
        self.paper = theory.norm_step(self.paper, **rates)
        before = self.second_moment
        self.second_moment = torch.stack([second[:, place].mean(1) for place in self.weights.values()])
        self.second_moment /= 1 - self.beta2 ** (n + 1)
        gamma: Any = theory.momentum(self.beta1, n)
        rates["share"] = gamma * (before / self.second_moment) ** 0.5
        self.inertial = theory.inertial_step(*self.inertial, **rates)
        radial = (1 - gamma) * self._inner(theta, normalized)
        self.complete = theory.inertial_step(*self.complete, radial=radial, **rates)
        norm_sq = self._inner(theta, theta)
        self.turned_paper = self.turned_paper + theory.angular_step(update_sq=update_sq, norm_sq=norm_sq, lr=self.lr)
        self.updates_sq = self.updates_sq + update_sq

    def turn(self, before: Tensor, after: Tensor) -> None:
        """Add the angles, in radians, between the weights before and after a step."""
        for i, place in enumerate(self.weights.values()):
            old, new = (torch.nn.functional.normalize(x[:, place], dim=1) for x in (before, after))
            self.turned[i] += 2 * torch.asin(torch.linalg.vector_norm(new - old, dim=1) / 2)


def _lags(steps: int, times: int, lags: Sequence[int]) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Return which past gradients to compare with the weights, and how long to keep them.

    Args:
        steps: number of steps of the runs.
        times: number of steps at which the weights are compared, equally spaced.
        lags: ages of the gradients in steps.

    Returns:
        ``({step: lags}, {step of the gradient: step of its last use})``.
    """
    at = np.unique(np.linspace(0, steps, times + 1).astype(int)[1:])
    wanted = {int(t): [lag for lag in lags if lag <= t] for t in at}
    return wanted, {t - lag: t for t, ages in wanted.items() for lag in ages}


@torch.no_grad()
def _run_laws(
    problem: _Problem,
    runs: pd.DataFrame,
    config: Config,
    device: torch.device,
    progress: Callable[[int], object],
) -> list[pd.DataFrame]:
    """Train runs of variant ``law`` or ``steady`` and return their records, see `run`."""
    steps, every = int(runs["steps"].iloc[0]), config.record_every
    beta1, beta2, lr, decay = (_column(runs, name, device) for name in ("beta1", "beta2", "lr", "weight_decay"))
    theta = problem.start.clone()
    average, square = torch.zeros_like(theta), torch.zeros_like(theta)
    recorder = _LawRecorder(problem.weights, theta, runs, device)
    with_cosines = runs["variant"].iloc[0] == "law"
    wanted, kept = _lags(steps, config.cosines.times, config.cosines.lags if with_cosines else ())
    past: dict[int, Tensor] = {}
    cosines = []
    for n in range(steps + 1):
        if n % every == 0 or n == steps:
            recorder.record(n, theta)
        gradient = problem.gradient(theta, min(n, steps - 1))
        if n in kept:
            past[n] = gradient
        for lag in wanted.get(n, ()):
            for weight, place in problem.weights.items():
                cosine = torch.nn.functional.cosine_similarity(theta[:, place], past[n - lag][:, place], dim=1)
                cosines.append((n, lag, weight, place.stop - place.start, cosine.cpu()))
        past = {m: earlier for m, earlier in past.items() if kept[m] > n}
        if n < steps:
            denominator, correction = stage_(gradient, average, square, n + 1.0, beta1=beta1, beta2=beta2, eps=0.0)
            update = stage_update(average, denominator, correction)
            recorder.advance(n, theta, square, update, gradient / denominator)
            before = theta
            theta = (1 - lr * decay) * theta - lr * update
            recorder.turn(before, theta)
            progress(len(runs))

    records = torch.stack(list(recorder.rows.values())).cpu().numpy()  # (times, columns, weights, runs)
    at = np.array(list(recorder.rows))
    tables = []
    points: Any = runs.drop(columns="steps").to_dict("records")
    for i, point in enumerate(points):
        for j, weight in enumerate(problem.weights):
            columns: Any = dict(zip(NORM, records[:, :, j, i].T, strict=True))
            tables.append(pd.DataFrame({**point, "record": "norm", "step": at, "weight": weight, **columns}))
        rows = [(n, weight, lag, dimension, cosine[i].item()) for n, lag, weight, dimension, cosine in cosines]
        if rows:
            table = pd.DataFrame(rows, columns=["step", "weight", *COSINE])
            tables.append(table.assign(**point, record="cosine"))
    return tables


class _FixedNormOptimizer:
    """Train runs by one of `FIXED_NORM_OPTIMIZERS`, with the norm of each weight fixed at its initial value.

    Args:
        name: one of `FIXED_NORM_OPTIMIZERS`.
        problem: model and data of the runs; all its weights are scale-invariant.
        runs: one row per run.
        device: where to train.

    Attributes:
        theta: parameters, shape (runs, width).
    """

    def __init__(self, name: str, problem: _Problem, runs: pd.DataFrame, device: torch.device) -> None:
        self.weights, self.theta = problem.weights, problem.start.clone()
        self.beta1, self.beta2 = (_column(runs, column, device) for column in ("beta1", "beta2"))
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.norms = {weight: self._norm(self.theta[:, place]) for weight, place in self.weights.items()}
        lr, decay = _column(runs, "lr", device), _column(runs, "weight_decay", device)
        #: Learning rate of each weight and run.
        self.lr: dict[str, Tensor] = dict.fromkeys(self.weights, lr)
        #: Second average and its decay, one number per weight and run; empty for Adam.
        self.second: dict[str, Tensor] = {}
        if name == "adam":
            return
        rates: dict[str, Any] = {"lr": lr.cpu().numpy(), "weight_decay": decay.cpu().numpy()}
        factor = theory.amplification(beta1=runs[["beta1"]].to_numpy(), **rates) if name == "2adam_inertial" else 1.0
        for weight, place in self.weights.items():
            norm, dimension = self.norms[weight].cpu().numpy(), place.stop - place.start
            stage = theory.second_stage(norm=norm, dimension=dimension, factor=factor, **rates)
            self.second_beta2, self.lr[weight], self.second[weight] = (torch.from_numpy(x).to(device) for x in stage)

    @staticmethod
    def _norm(weight: Tensor) -> Tensor:
        """Return the norm of each row, shape (runs, 1)."""
        return torch.linalg.vector_norm(weight, dim=1, keepdim=True)

    def step(self, gradient: Tensor, n: int) -> None:
        """Make step n with a gradient of shape (runs, width), and restore the norms."""
        averages: dict[str, Any] = {"exp_avgs": [self.exp_avg], "exp_avg_sqs": [self.exp_avg_sq]}
        update = kadam_update_(gradient, **averages, step=n + 1.0, stages=[(self.beta1, self.beta2)], eps=0.0)
        for weight, place in self.weights.items():
            change = update[:, place]
            if weight in self.second:
                mean_square = change.square().mean(1, keepdim=True)
                self.second[weight] = torch.lerp(mean_square, self.second[weight], self.second_beta2)
                change = change / self.second[weight].sqrt()
            moved = self.theta[:, place] - self.lr[weight] * change
            self.theta[:, place] = moved * (self.norms[weight] / self._norm(moved))


@torch.no_grad()
def _run_fixed_norms(
    problem: _Problem,
    runs: pd.DataFrame,
    config: Config,
    device: torch.device,
    progress: Callable[[int], object],
) -> list[pd.DataFrame]:
    """Train runs of variant ``fixed_norm`` and return their records, see `run`."""
    steps, every, count = int(runs["steps"].iloc[0]), config.fixed_norm.record_every, len(runs)
    beta1, beta2, lr, decay = (_column(runs, name, device) for name in ("beta1", "beta2", "lr", "weight_decay"))
    free = problem.start.clone()
    average, square = torch.zeros_like(free), torch.zeros_like(free)
    optimizers = {name: _FixedNormOptimizer(name, problem, runs, device) for name in FIXED_NORM_OPTIMIZERS}
    rows = torch.arange(count, device=device).repeat(1 + len(optimizers))
    points = runs.drop(columns="steps").assign(record="fixed_norm")
    tables = []
    for n in range(steps + 1):
        if n % every == 0 or n == steps:
            tables += [
                points.assign(step=n, optimizer=name, direction_distance=_distance(problem, free, optimizer.theta))
                for name, optimizer in optimizers.items()
            ]
        if n == steps:
            break
        theta = torch.cat([free, *(optimizer.theta for optimizer in optimizers.values())])
        gradients = problem.gradient(theta, n, rows).split(count)
        update = kadam_update_(gradients[0], [average], [square], n + 1.0, stages=[(beta1, beta2)], eps=0.0)
        free.mul_(1 - lr * decay).sub_(lr * update)
        for optimizer, gradient in zip(optimizers.values(), gradients[1:], strict=True):
            optimizer.step(gradient, n)
        progress(count)
    return tables


def _distance(problem: _Problem, theta: Tensor, other: Tensor) -> np.ndarray:
    """Return the distance between the directions of the weights, root mean square over weights, shape (runs,)."""
    squares = []
    for place in problem.weights.values():
        ours, theirs = (torch.nn.functional.normalize(x[:, place], dim=1) for x in (theta, other))
        squares.append((ours - theirs).square().sum(1))
    distance: np.ndarray = torch.stack(squares).mean(0).sqrt().cpu().numpy()
    return distance


def run(
    runs: pd.DataFrame, config: Config, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one model per row; a row of variant ``fixed_norm`` trains it by every optimizer.

    Args:
        runs: rows of the table that `grid` returns.
        config: section ``scale_invariance`` of the configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per record, with the columns of ``runs`` without ``steps``; ``record``, the
        kind of record; ``step``, the number n of steps done; and the columns of the kind in float32, NaN elsewhere.

        ``norm``, one record per scale-invariant ``weight``:

        - ``norm_sq``: ‖W_n‖²;
        - ``law_paper``, ``law_inertial``: ‖W_n‖² by each law, integrated over all previous updates;
        - ``coarse_share``: part of ‖W_n‖² that comes from ⟨W, g/√v⟩ ≠ 0;
        - ``updates_sq``: sum of ‖u‖² over all previous updates;
        - ``turned``: sum of the angles between the directions Ŵ before and after each step, in radians;
        - ``turned_paper``: the paper's value of it, the sum of η‖u‖/‖W‖.

        ``cosine``, one record per ``weight`` and ``lag``:

        - ``cosine``: cosine of W_n and the gradient ``lag`` steps earlier;
        - ``dimension``: number of entries of the weight.

        ``fixed_norm``, one record per ``optimizer``, one of `FIXED_NORM_OPTIMIZERS`:

        - ``direction_distance``: ‖Ŵ_optimizer − Ŵ_AdamW‖, root mean square over weights.

        ``details`` belongs in the provenance: sha256 of the data, and number of weights of each model.
    """
    tables: list[pd.DataFrame] = []
    data: dict[str, str] = {}
    weights: dict[str, int] = {}
    variant: Any
    name: Any
    for (variant, name, _), group in runs.groupby(["variant", "model", "batching"], sort=False):
        settings = _settings(config, variant, name)
        for first in range(0, len(group), settings["chunk"]):
            chunk = group.iloc[first : first + settings["chunk"]]
            problem = _Problem(name, settings, chunk, device)
            data |= problem.data
            weights[f"{variant} {name}"] = problem.task.weights
            work = _run_fixed_norms if variant == "fixed_norm" else _run_laws
            tables += work(problem, chunk, config, device, progress)
    texts = ("weight", "optimizer")
    table = with_columns(pd.concat(tables, ignore_index=True), RECORDS, texts=texts)
    table = table.astype(dict.fromkeys((name for name in RECORDS if name not in texts), "float32"))
    order = ["run", "record", "step"]
    return table.sort_values(order, kind="stable", ignore_index=True), {"data": data, "weights": weights}
