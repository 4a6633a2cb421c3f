"""Train models with scale-invariant weights, and record norms, directions and distances (arXiv 2411.05746, on normalization).

All runs use float64, ε = 0 and normalization layers without ε, so that the weights are scale-invariant up to rounding. The theory
is in `ctadam.theory.scale_invariance`. Two variants share one table:

``law``
    AdamW on a model with scale-invariant weights; two of the models have other weights too. The records compare the measured
    norm with the norm laws, and hold the angle by which the direction turns and the cosines with past gradients.
``pair``
    AdamW on a model with scale-invariant weights only, and the same model trained with fixed norms by each of `OPPONENTS`, with
    the same start and the same batches. The records hold the distance from AdamW in direction, in function and in loss. The
    learning rate and the decay of the second average that replace AdamW's come from the theory.

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
from torch.func import functional_call, grad_and_value, vmap

from ctadam.data.digits import load_digits
from ctadam.data.text import load_corpus
from ctadam.errors import ArtifactError
from ctadam.experiments import with_columns
from ctadam.models.cnn import CNN
from ctadam.models.invariance import make_exact, scale_invariant_weights
from ctadam.models.mlp import MLP, NormalizedLinear
from ctadam.models.transformer import Transformer
from ctadam.optim import kadam_update_, stage_, unsmoothed_update_
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
#: Columns of the records of all kinds, in addition to those of the run, ``record`` and ``step``.
RECORDS = (
    "weight", "norm_sq", "law_paper", "law_unsmoothed", "law_inertial", "coarse_share", "update_sq", "unsmoothed_sq",
    "inner_update", "inner_unsmoothed", "gradient_cosine", "coarse_cosine", "turned", "turned_paper", "lag", "dimension",
    "cosine", "random_cosine", "optimizer", "loss", "direction_distance", "function_distance",
)  # fmt: skip
#: Optimizers for weights of fixed norm -> number of averages with the shape of the parameter that each keeps:
#: ``adam``: Adam without a second stage;
#: ``2adam``: 2-Adam with γ₂ = 0, elementwise;
#: ``unsmoothed``: its variant that averages the square of the unsmoothed update;
#: ``inertial``: 2-Adam with the learning rate of the inertial law;
#: ``tensor``: the same with one number per weight as the second average, which corresponds to a norm.
OPPONENTS = {"adam": 2, "2adam": 4, "unsmoothed": 3, "inertial": 4, "tensor": 2}


def _settings(parameters: Mapping[str, Any], variant: str, model: str) -> Mapping[str, Any]:
    """Return the settings of a model in a variant."""
    if variant == "law":
        return parameters["models"][model]
    return parameters["pair"] | parameters["pair"]["models"][model]


def points(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    A run of variant ``pair`` trains AdamW and all of `OPPONENTS`.

    Args:
        parameters: section ``scale_invariance`` of the configuration.

    Returns:
        DataFrame with ``run``, ``variant`` (``law`` or ``pair``), ``model``, ``batching`` (one of `BATCHINGS`), ``beta1``
        (paper's γ), ``beta2`` (paper's β), ``lr``, ``weight_decay``, ``seed`` and ``steps``.
    """
    parts = []
    groups = [("law", model) for model in parameters["models"]] + [
        ("pair", model) for model in parameters["pair"]["models"]
    ]
    for batching in BATCHINGS:
        for variant, model in groups:
            settings = _settings(parameters, variant, model)
            part = pd.DataFrame(
                {"variant": [variant], "model": model, "batching": batching, "steps": settings["steps"]}
            )
            decays = [decay for decay in settings["weight_decays"] if variant == "law" or decay > 0]
            for name, values in (
                ("seed", settings["seeds"]), ("beta1", parameters["beta1s"]), ("lr", settings["lrs"]), ("weight_decay", decays),
            ):  # fmt: skip
                part = part.merge(pd.DataFrame({name: values}), how="cross")
            parts.append(part)
    # With this order, runs that are trained together get the same shard if the number of shards divides twelve.
    table = pd.concat(parts).sort_index(kind="stable").assign(beta2=parameters["beta2"])
    table = table[["variant", "model", "batching", "beta1", "beta2", "lr", "weight_decay", "seed", "steps"]].astype(
        {"beta1": float, "lr": float, "weight_decay": float}
    )
    table.insert(0, "run", range(len(table)))
    return table


def _task(name: str, settings: Mapping[str, Any], device: torch.device) -> tuple[Task, dict[str, str]]:
    """Return the task of a model, and the sha256 of its data by source."""
    if name == "transformer":
        size = settings["model"]
        corpus = load_corpus(settings["text"], tokenization="characters", test_fraction=0.1, context=size["context"])
        task = language(corpus, **size, batch=settings["batch"], test_batches=1, test_every=1, device=device)

        def build_transformer(generator: torch.Generator) -> nn.Module:
            return Transformer(vocabulary=len(corpus.vocabulary), **size, qk_norm=True, generator=generator)

        return dataclasses.replace(task, build=build_transformer), {settings["text"]: corpus.sha256}

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
        (images[:-_TEST], digits.labels[:-_TEST]), (images[-_TEST:], digits.labels[-_TEST:]),
        build=build, batch=settings["batch"], test_every=1, device=device,
    )  # fmt: skip
    return task, {"digits": digits.sha256}


class _Problem:
    """A model and its data for many runs that are trained together. Each run has one row of parameters.

    Args:
        name: name of the model.
        settings: its settings, see `_settings`.
        steps: number of steps for which batches are drawn.
        points: the runs, one row per run; all have the same ``batching``.
        device: where to train.

    Attributes:
        task: the learning problem.
        data: sha256 of the data by source.
        layout: positions of the tensors in a row.
        weights: columns of each scale-invariant weight, by name.
        start: initial parameters, float64 of shape (runs, width).

    Raises:
        ArtifactError: if the sizes of the model do not fit together.
    """

    def __init__(
        self, name: str, settings: Mapping[str, Any], steps: int, points: pd.DataFrame, device: torch.device
    ) -> None:
        try:
            self.task, self.data = _task(name, settings, device)
            model = make_exact(self.task.build(torch.Generator().manual_seed(0)).double()).to(device)
        except ValueError as error:  # sizes that do not fit together, which the configuration's schema cannot check
            raise ArtifactError(f"scale_invariance: {name}: {error}") from error
        full = min(settings["examples"], self.task.examples)
        self.layout = Layout(model.named_parameters())
        self.weights: dict[str, slice] = {}
        for weight, (parameter, rows) in scale_invariant_weights(model).items():
            place, shape = self.layout.places[parameter], self.layout.shapes[parameter]
            first, last, _ = rows.indices(shape[0])
            size = math.prod(shape[1:])
            self.weights[weight] = slice(place.start + first * size, place.start + last * size)

        seeds, which = np.unique(points["seed"], return_inverse=True)
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
        if points["batching"].iloc[0] == "full":
            self.whole = tuple(part[self.which] for part in self.task.read(torch.stack(whole).to(device)))

        def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(model, parameters, (inputs,))
            return self.task.loss(logits, targets), logits

        self._gradient = vmap(grad_and_value(loss, has_aux=True))
        self._test = vmap(loss, in_dims=(0, None, None))

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
        grads, _ = self._gradient(self.layout.views(theta), *batch)
        gradients = torch.zeros_like(theta)
        for name, view in self.layout.views(gradients).items():
            view.copy_(grads[name])
        return gradients

    @torch.no_grad()
    def test(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the test losses, shape (rows,), and the logits on the test set, shape (rows, ..., classes)."""
        return self._test(self.layout.views(theta), *(part[0] for part in self.task.test))


def _column(points: pd.DataFrame, name: str, device: torch.device) -> Tensor:
    """Return a column of the runs as float64 of shape (runs, 1)."""
    return torch.tensor(points[[name]].to_numpy(), dtype=torch.float64, device=device)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products along the last axis."""
    return (a * b).sum(-1)


class _LawRecorder:
    """Record measured norms, norm laws and angles of the scale-invariant weights. All tensors have the shape (weights, runs).

    Args:
        weights: columns of each scale-invariant weight, by name.
        theta: initial parameters, shape (runs, width).
        points: the runs, one row per run.
        device: where to compute.

    Attributes:
        rows: step index -> records, shape (columns, weights, runs) with the columns `COLUMNS`.
    """

    COLUMNS = (
        "norm_sq", "law_paper", "law_unsmoothed", "law_inertial", "coarse_share", "update_sq", "unsmoothed_sq",
        "inner_update", "inner_unsmoothed", "gradient_cosine", "coarse_cosine", "turned", "turned_paper",
    )  # fmt: skip

    def __init__(self, weights: Mapping[str, slice], theta: Tensor, points: pd.DataFrame, device: torch.device) -> None:
        self.weights = weights
        self.lr, self.decay, self.beta1, self.beta2 = (
            _column(points, name, device)[:, 0] for name in ("lr", "weight_decay", "beta1", "beta2")
        )
        start = self._each(theta, theta)
        self.laws: dict[str, Any] = {law: start.clone() for law in theory.LAWS}
        self.complete: Any = start.clone()
        self.overlap: Any
        self.complete_overlap: Any
        self.overlap, self.complete_overlap, self.second_moment = (torch.zeros_like(start) for _ in range(3))
        self.turned, self.turned_paper = torch.zeros_like(start), torch.zeros_like(start)
        self.rows: dict[int, Tensor] = {}

    def _each(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the inner product of the two tensors within each weight, shape (weights, runs)."""
        return torch.stack([_inner(a[:, place], b[:, place]) for place in self.weights.values()])

    def record(
        self,
        n: int,
        theta: Tensor,
        gradient: Tensor,
        first: Tensor,
        second: Tensor,
        update: Tensor,
        unsmoothed: Tensor,
        keep: bool,
    ) -> None:
        """Advance the norm laws by step n, and keep a record of the state before it if ``keep``.

        Args:
            n: step index.
            theta: parameters before the step, shape (runs, width), like all tensors here.
            gradient: g_n.
            first: first moment m_n.
            second: second moment v_n.
            update: u_n.
            unsmoothed: g_n/√v_n.
            keep: whether to keep a record.
        """
        each = self._each
        norm_sq, update_sq, unsmoothed_sq = each(theta, theta), each(update, update), each(unsmoothed, unsmoothed)
        inner, inner_unsmoothed = each(theta, update), each(theta, unsmoothed)
        if keep:
            self.rows[n] = torch.stack(
                [
                    norm_sq, *(self.laws[law] for law in theory.LAWS), self.complete - self.laws["inertial"], update_sq,
                    unsmoothed_sq, inner, inner_unsmoothed, each(theta, gradient) / (norm_sq * each(gradient, gradient)) ** 0.5,
                    each(update, first) / (update_sq * each(first, first)) ** 0.5, self.turned, self.turned_paper,
                ]
            )  # fmt: skip
        rates: dict[str, Any] = {"lr": self.lr, "weight_decay": self.decay}
        for law, square in (("paper", update_sq), ("unsmoothed", unsmoothed_sq)):
            self.laws[law] = theory.norm_step(self.laws[law], update_sq=square, **rates)
        before = self.second_moment
        self.second_moment = torch.stack([second[:, place].mean(1) for place in self.weights.values()])
        self.second_moment /= 1 - self.beta2 ** (n + 1)
        gamma: Any = theory.momentum(self.beta1, n)
        same: dict[str, Any] = {"update_sq": update_sq, "share": gamma * (before / self.second_moment) ** 0.5, **rates}
        self.laws["inertial"], self.overlap = theory.inertial_step(self.laws["inertial"], self.overlap, **same)
        # The law with the measured ⟨W, g/√v⟩ instead of 0. The difference is the part of the norm that Assumption 2 neglects.
        self.complete, self.complete_overlap = theory.inertial_step(
            self.complete, self.complete_overlap, radial=(1 - gamma) * inner_unsmoothed, **same
        )
        self.turned_paper = self.turned_paper + theory.angular_step(update_sq=update_sq, norm_sq=norm_sq, lr=self.lr)

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
    return wanted, {t - lag: t for t, some in wanted.items() for lag in some}


@torch.no_grad()
def _run_laws(
    problem: _Problem,
    points: pd.DataFrame,
    parameters: Mapping[str, Any],
    device: torch.device,
    progress: Callable[[int], object],
) -> list[pd.DataFrame]:
    """Train the runs of variant ``law`` and return their records, see `run`."""
    steps, every = int(points["steps"].iloc[0]), parameters["record_every"]
    beta1, beta2, lr, decay = (_column(points, name, device) for name in ("beta1", "beta2", "lr", "weight_decay"))
    theta = problem.start.clone()
    average, square = torch.zeros_like(theta), torch.zeros_like(theta)
    recorder = _LawRecorder(problem.weights, theta, points, device)
    wanted, kept = _lags(steps, **parameters["cosines"])
    past: dict[int, Tensor] = {}
    cosines = []
    seeds = points["seed"].to_numpy()
    directions = {seed: torch.Generator().manual_seed(int(seed)) for seed in np.unique(seeds)}
    for n in range(steps + 1):
        gradient = problem.gradient(theta, min(n, steps - 1))
        denominator, correction = stage_(gradient, average, square, n + 1.0, beta1=beta1, beta2=beta2, eps=0.0)
        update = stage_update(average, denominator, correction)
        recorder.record(
            n, theta, gradient, average, square, update, gradient / denominator, keep=n % every == 0 or n == steps
        )
        if n in kept:
            past[n] = gradient
        for lag in wanted.get(n, ()):
            random = {
                seed: torch.randn(theta.shape[1], dtype=torch.float64, generator=g) for seed, g in directions.items()
            }
            directions_of_runs = torch.stack([random[seed] for seed in seeds]).to(device)
            for weight, place in problem.weights.items():
                here = theta[:, place]
                cosine, by_chance = (
                    torch.nn.functional.cosine_similarity(here, other[:, place], dim=1)
                    for other in (past[n - lag], directions_of_runs)
                )
                cosines.append((n, lag, weight, place.stop - place.start, cosine.cpu(), by_chance.cpu()))
        past = {m: earlier for m, earlier in past.items() if kept[m] > n}
        if n < steps:
            before = theta
            theta = (1 - lr * decay) * theta - lr * update
            recorder.turn(before, theta)
            progress(len(points))

    records = torch.stack(list(recorder.rows.values())).cpu().numpy()  # (times, columns, weights, runs)
    at = np.array(list(recorder.rows), dtype=np.int32)
    tables = []
    for i, point in enumerate(points.drop(columns="steps").to_dict("records")):
        for j, weight in enumerate(problem.weights):
            columns = dict(zip(recorder.COLUMNS, records[:, :, j, i].T, strict=True))
            rows: dict[Any, Any] = {**point, "record": "norm", "step": at, "weight": weight, **columns}
            tables.append(pd.DataFrame(rows))
        tables.append(
            pd.DataFrame(
                [
                    {**point, "record": "cosine", "step": n, "weight": weight, "lag": lag, "dimension": dimension,
                     "cosine": cosine[i].item(), "random_cosine": by_chance[i].item()}
                    for n, lag, weight, dimension, cosine, by_chance in cosines
                ]
            )
        )  # fmt: skip
    return tables


class _FixedNormOptimizer:
    """Train runs by one of `OPPONENTS`, with the norm of each scale-invariant weight fixed at its initial value.

    Args:
        name: key of `OPPONENTS`.
        problem: model and data of the runs.
        points: the runs, one row per run.
        device: where to train.

    Attributes:
        theta: parameters, shape (runs, width).
        norms: norms of the weights by name, shape (runs, 1).
        lr: learning rate of each parameter, shape (runs, width).
    """

    def __init__(self, name: str, problem: _Problem, points: pd.DataFrame, device: torch.device) -> None:
        self.name, self.weights, self.theta = name, problem.weights, problem.start.clone()
        self.beta1, self.beta2 = (_column(points, column, device) for column in ("beta1", "beta2"))
        self.averages = [torch.zeros_like(self.theta) for _ in range(OPPONENTS[name])]
        #: Second averages of ``tensor``, one number per weight and run.
        self.one = {
            weight: torch.zeros((len(points), 1), dtype=torch.float64, device=device) for weight in self.weights
        }
        self.norms = {weight: self._norm(place) for weight, place in self.weights.items()}
        rates: dict[str, Any] = {key: points[[key]].to_numpy() for key in ("lr", "weight_decay")}
        slower: Any = 1.0
        if name in ("inertial", "tensor"):
            slower = theory.amplification(beta1=points[["beta1"]].to_numpy(), **rates) ** -0.5
        self.lr = torch.zeros_like(self.theta)
        for weight, place in self.weights.items():
            norm = self.norms[weight].cpu().numpy()
            beta2, lr = theory.second_stage(**rates, norm=norm, dimension=place.stop - place.start)
            self.second_beta2, self.lr[:, place] = (torch.from_numpy(x).to(device) for x in (beta2, lr * slower))

    def _norm(self, place: slice) -> Tensor:
        """Return the current norm of a weight, shape (runs, 1)."""
        return torch.linalg.vector_norm(self.theta[:, place], dim=1, keepdim=True)

    def _update(self, gradient: Tensor, step: float) -> Tensor:
        """Return the update for a gradient of shape (runs, width); ``step`` counts from 1."""
        first: dict[str, Any] = {"beta1": self.beta1, "beta2": self.beta2, "eps": 0.0}
        if self.name == "unsmoothed":
            average, square, second_square = self.averages
            return unsmoothed_update_(
                gradient, average, square, second_square, step, second_beta2=self.second_beta2, **first
            )
        stages: Any = [(self.beta1, self.beta2), (0.0, self.second_beta2)][: len(self.averages) // 2]
        update = kadam_update_(gradient, self.averages[::2], self.averages[1::2], step, stages=stages, eps=0.0)
        if self.name == "tensor":
            for weight, place in self.weights.items():
                size = update[:, place].square().mean(1, keepdim=True).sqrt()
                # A stage on one number per weight. Without momentum its first average is its input, so it serves as a buffer.
                second, _ = stage_(size, size, self.one[weight], step, beta1=0.0, beta2=self.second_beta2, eps=0.0)
                update[:, place] /= second
        return update

    def step(self, gradient: Tensor, n: int) -> None:
        """Make step n with a gradient of shape (runs, width), and restore the norms."""
        self.theta -= self.lr * self._update(gradient, n + 1.0)
        for weight, place in self.weights.items():
            self.theta[:, place] *= self.norms[weight] / self._norm(place)


@torch.no_grad()
def _run_pairs(
    problem: _Problem,
    points: pd.DataFrame,
    parameters: Mapping[str, Any],
    device: torch.device,
    progress: Callable[[int], object],
) -> list[pd.DataFrame]:
    """Train the runs of variant ``pair`` and return their records, see `run`."""
    steps, every, count = int(points["steps"].iloc[0]), parameters["pair"]["record_every"], len(points)
    beta1, beta2, lr, decay = (_column(points, name, device) for name in ("beta1", "beta2", "lr", "weight_decay"))
    free = problem.start.clone()
    average, square = torch.zeros_like(free), torch.zeros_like(free)
    optimizers = [_FixedNormOptimizer(name, problem, points, device) for name in OPPONENTS]
    rows = torch.arange(count, device=device).repeat(1 + len(optimizers))
    records = []
    for n in range(steps + 1):
        if n % every == 0 or n == steps:
            records.append((n, _compare(problem, free, optimizers)))
        if n == steps:
            break
        theta = torch.cat([free, *(optimizer.theta for optimizer in optimizers)])
        gradients = problem.gradient(theta, n, rows).split(count)
        update = kadam_update_(gradients[0], [average], [square], n + 1.0, stages=[(beta1, beta2)], eps=0.0)
        free.mul_(1 - lr * decay).sub_(lr * update)
        for optimizer, gradient in zip(optimizers, gradients[1:], strict=True):
            optimizer.step(gradient, n)
        progress(count)
    return [
        pd.DataFrame(
            [
                {**point, "record": "pair", "step": n, "optimizer": name}
                | {key: value[i] for key, value in row.items()}
                for n, compared in records
                for name, row in compared.items()
            ]
        )
        for i, point in enumerate(points.drop(columns="steps").to_dict("records"))
    ]


def _compare(
    problem: _Problem, free: Tensor, optimizers: Sequence[_FixedNormOptimizer]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the distances of the optimizers from AdamW.

    Args:
        problem: model and data of the runs.
        free: parameters trained by AdamW, shape (runs, width).
        optimizers: the optimizers with fixed norms.

    Returns:
        ``{optimizer: {column: array of shape (runs,)}}`` with the columns that `run` describes for the record ``pair``.
    """
    loss, logits = problem.test(free)

    def directions(theta: Tensor) -> list[Tensor]:
        return [torch.nn.functional.normalize(theta[:, place], dim=1) for place in problem.weights.values()]

    ours, size = directions(free), logits.square().mean((1, 2)).sqrt()
    distances = {"free": {"loss": loss.cpu().numpy()}}
    for optimizer in optimizers:
        other_loss, other = problem.test(optimizer.theta)
        pairs = zip(ours, directions(optimizer.theta), strict=True)
        apart: Any = sum((a - b).square().sum(1) for a, b in pairs) / len(ours)
        distances[optimizer.name] = {
            "loss": other_loss.cpu().numpy(),
            "direction_distance": apart.sqrt().cpu().numpy(),
            "function_distance": ((other - logits).square().mean((1, 2)).sqrt() / size).cpu().numpy(),
        }
    return distances


def run(
    points: pd.DataFrame, parameters: Mapping[str, Any], *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one model per row; a row of variant ``pair`` trains it by every optimizer.

    Args:
        points: rows of the table that the function `points` returns.
        parameters: section ``scale_invariance`` of the configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per record, with the columns of ``points`` without ``steps``; ``record``, the
        kind of record; ``step``, the number n of steps done; and the columns of the kind, NaN elsewhere.

        ``norm``, one record per scale-invariant ``weight``:

        - ``norm_sq``: ‖W_n‖²;
        - ``law_paper``, ``law_unsmoothed``, ``law_inertial``: ‖W_n‖² by each law, integrated over all previous updates;
        - ``coarse_share``: part of ‖W_n‖² that comes from ⟨W, g/√v⟩ ≠ 0;
        - ``update_sq``, ``unsmoothed_sq``: ‖u_n‖², ‖g_n/√v_n‖²;
        - ``inner_update``, ``inner_unsmoothed``: ⟨W_n, u_n⟩, ⟨W_n, g_n/√v_n⟩;
        - ``gradient_cosine``: cosine of W_n and g_n;
        - ``coarse_cosine``: cosine of u_n and m_n, which is the update with v replaced by one number;
        - ``turned``: sum of the angles between the directions Ŵ before and after each step, in radians;
        - ``turned_paper``: the paper's value of it, the sum of η‖u‖/‖W‖.

        ``cosine``, one record per ``weight`` and ``lag``:

        - ``cosine``: cosine of W_n and the gradient ``lag`` steps earlier;
        - ``random_cosine``: cosine of W_n and a random direction of the same ``dimension``.

        ``pair``, one record per ``optimizer`` (``free`` is AdamW):

        - ``loss``: test loss in nats;
        - ``direction_distance``: ‖Ŵ_optimizer − Ŵ_free‖, root mean square over weights;
        - ``function_distance``: root mean square difference of the logits on the test set, relative to those of AdamW.

        ``details`` belongs in the provenance: sha256 of the data, and number of weights of each model.
    """
    tables: list[pd.DataFrame] = []
    data: dict[str, str] = {}
    weights: dict[str, int] = {}
    variant: Any
    name: Any
    for (variant, name, _), group in points.groupby(["variant", "model", "batching"], sort=False):
        settings = _settings(parameters, variant, name)
        at_once = settings["at_once"]
        for first in range(0, len(group), at_once):
            rows = group.iloc[first : first + at_once]
            problem = _Problem(name, settings, int(rows["steps"].iloc[0]), rows, device)
            data |= problem.data
            weights[f"{variant} {name}"] = problem.task.weights
            work = _run_pairs if variant == "pair" else _run_laws
            tables += work(problem, rows, parameters, device, progress)
    order = ["run", "record", "step"]
    table = pd.concat(tables, ignore_index=True).sort_values(order, kind="stable", ignore_index=True)
    return with_columns(table, RECORDS, texts=("weight", "optimizer")), {"data": data, "weights": weights}


def cost(points: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work for the progress line, and its unit: the optimizer steps of all runs."""
    return int(points["steps"].sum()), "step"
