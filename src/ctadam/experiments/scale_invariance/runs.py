"""Scale-invariant weights (paper, section on normalization; theory: `ctadam.theory.scale_invariance`).

Float64, ε = 0, normalization layers without ε, so that the weights in question are scale-invariant to rounding. Two
variants share one table:

``law``
    AdamW on a model with such weights (and, in two of the models, others): how their norm grows, by measurement and by the
    laws, how fast their direction turns, and whether they are orthogonal to past gradients;
``pair``
    a model of nothing but such weights, trained by AdamW; beside it the same model from the same start and with the same
    batches, but with the norms of its weights held fixed, by each of `OPPONENTS`: how far they are from AdamW in direction, in
    function and in loss. Theory gives them the learning rate, and the decay of the second average, that stand for AdamW's.

The laws are advanced here, while each update is at hand, and not later from records: most steps leave none.
"""

import dataclasses
import math

import numpy as np
import pandas as pd
import torch
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
from ctadam.training import classification, language
from ctadam.training.ensemble import generators
from ctadam.training.stack import Layout

#: How many digits, the last ones, are the test.
_TEST = 360
#: Verification must not cut these runs short: their batches and cosines are drawn for all steps at once.
SHORTENED = False
BATCHINGS = ("minibatch", "full")
#: What the records of all kinds hold besides the run, their kind and the step.
RECORDS = (
    "weight", "norm_sq", "law_paper", "law_unsmoothed", "law_inertial", "coarse_share", "update_sq", "unsmoothed_sq",
    "inner_update", "inner_unsmoothed", "gradient_cosine", "coarse_cosine", "turned", "turned_paper", "lag", "dimension",
    "cosine", "random_cosine", "optimizer", "loss", "direction_distance", "function_distance",
)  # fmt: skip
#: What the weights of fixed norm are trained by, and how many averages of a parameter's shape it keeps: Adam without a second
#: stage; 2-Adam with γ₂ = 0, elementwise; its variant that averages the unsmoothed update; 2-Adam with the learning rate of
#: the inertial law; the same with one number for each weight in the second average, which is what a norm is.
OPPONENTS = {"adam": 2, "2adam": 4, "unsmoothed": 3, "inertial": 4, "tensor": 2}


def _settings(parameters, variant, model):
    """What a model is trained with."""
    if variant == "law":
        return parameters["models"][model]
    return parameters["pair"] | parameters["pair"]["models"][model]


def points(parameters):
    """The table of runs: ``run``, ``variant``, ``model``, ``batching``, ``beta1``, ``beta2``, ``lr``, ``weight_decay``,
    ``seed``, ``steps``. A run of variant ``pair`` is AdamW and its opponents together."""
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
    # Dealt like cards to a number of shards that divides twelve, the runs that are trained together stay together.
    table = pd.concat(parts).sort_index(kind="stable").assign(beta2=parameters["beta2"])
    table = table[["variant", "model", "batching", "beta1", "beta2", "lr", "weight_decay", "seed", "steps"]].astype(
        {"beta1": float, "lr": float, "weight_decay": float}
    )
    table.insert(0, "run", range(len(table)))
    return table


def _task(name, settings, device):
    """The task of a model, and the sha256 of its data."""
    if name == "transformer":
        size = settings["model"]
        corpus = load_corpus(settings["text"], tokenization="characters", test_fraction=0.1, context=size["context"])
        task = language(corpus, **size, batch=settings["batch"], test_batches=1, test_every=1, device=device)

        def build(generator):
            return Transformer(vocabulary=len(corpus.vocabulary), **size, qk_norm=True, generator=generator)

        return dataclasses.replace(task, build=build), {settings["text"]: corpus.sha256}

    def build(generator):
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
    """A model on its data, for many runs at once: the parameters of a run are a row."""

    def __init__(self, name, settings, steps, points, device):
        try:
            self.task, self.data = _task(name, settings, device)
            model = make_exact(self.task.build(torch.Generator().manual_seed(0)).double()).to(device)
        except ValueError as error:  # sizes that do not go together, which no schema can tell
            raise ArtifactError(f"scale_invariance: {name}: {error}") from error
        full = min(settings["examples"], self.task.examples)
        self.layout = Layout(model.named_parameters())
        #: Scale-invariant weights: the columns of each.
        self.weights = {}
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
        which = torch.from_numpy(which)
        self.start = start[which].to(device)
        draws, whole = [], []
        for _, order in sources:
            draws.append(torch.randint(self.task.examples, (steps, self.task.batch), generator=order))
            whole.append(torch.randperm(self.task.examples, generator=order)[:full])
        self.which = which.to(device)
        #: Example numbers of every step, a batch a seed; or the examples of the full batch, a batch a run.
        self.draws, self.whole = torch.stack(draws, 1).to(device), None
        if points["batching"].iloc[0] == "full":
            self.whole = tuple(part[self.which] for part in self.task.read(torch.stack(whole).to(device)))

        def loss(parameters, inputs, targets):
            logits = functional_call(model, parameters, (inputs,))
            return self.task.loss(logits, targets), logits

        self._gradient = vmap(grad_and_value(loss, has_aux=True))
        self._test = vmap(loss, in_dims=(0, None, None))

    def gradient(self, theta, n, rows=None):
        """Gradients at step n, shape (R, width). ``rows``: which of the problem's runs each row of theta is."""
        batch = self.whole
        if batch is None:
            batch = tuple(part[self.which] for part in self.task.read(self.draws[n]))
        if rows is not None:
            batch = tuple(part[rows] for part in batch)
        grads, _ = self._gradient(self.layout.views(theta), *batch)
        found = torch.zeros_like(theta)
        for name, view in self.layout.views(found).items():
            view.copy_(grads[name])
        return found

    @torch.no_grad()
    def test(self, theta):
        """Test loss and logits of every row."""
        return self._test(self.layout.views(theta), *(part[0] for part in self.task.test))


def _column(points, name, device):
    return torch.tensor(points[[name]].to_numpy(), dtype=torch.float64, device=device)


def _inner(a, b):
    return (a * b).sum(-1)


class _LawRecorder:
    """What the laws say and what happens, for each scale-invariant weight (first axis) and run (second)."""

    COLUMNS = (
        "norm_sq", "law_paper", "law_unsmoothed", "law_inertial", "coarse_share", "update_sq", "unsmoothed_sq",
        "inner_update", "inner_unsmoothed", "gradient_cosine", "coarse_cosine", "turned", "turned_paper",
    )  # fmt: skip

    def __init__(self, weights, theta, points, device):
        self.weights = weights
        self.lr, self.decay, self.beta1, self.beta2 = (
            _column(points, name, device)[:, 0] for name in ("lr", "weight_decay", "beta1", "beta2")
        )
        start = self._each(theta, theta)
        self.laws = {law: start.clone() for law in theory.LAWS}
        self.complete = start.clone()
        self.overlap, self.complete_overlap, self.second_moment = (torch.zeros_like(start) for _ in range(3))
        self.turned, self.turned_paper = torch.zeros_like(start), torch.zeros_like(start)
        self.rows = {}

    def _each(self, a, b):
        """Inner products of the weights' parts, shape (weights, runs)."""
        return torch.stack([_inner(a[:, place], b[:, place]) for place in self.weights.values()])

    def see(self, n, theta, gradient, first, second, update, unsmoothed, keep):
        """Take note of step n, and of its row if ``keep``."""
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
        rates = {"lr": self.lr, "weight_decay": self.decay}
        for law, square in (("paper", update_sq), ("unsmoothed", unsmoothed_sq)):
            self.laws[law] = theory.norm_step(self.laws[law], update_sq=square, **rates)
        before = self.second_moment
        self.second_moment = torch.stack([second[:, place].mean(1) for place in self.weights.values()])
        self.second_moment /= 1 - self.beta2 ** (n + 1)
        gamma = theory.momentum(self.beta1, n)
        same = {"update_sq": update_sq, "share": gamma * (before / self.second_moment) ** 0.5, **rates}
        self.laws["inertial"], self.overlap = theory.inertial_step(self.laws["inertial"], self.overlap, **same)
        # The same with ⟨W, g/√v⟩ as it is: the difference is what it has added to the norm, being not 0.
        self.complete, self.complete_overlap = theory.inertial_step(
            self.complete, self.complete_overlap, radial=(1 - gamma) * inner_unsmoothed, **same
        )
        self.turned_paper = self.turned_paper + theory.angular_step(update_sq=update_sq, norm_sq=norm_sq, lr=self.lr)

    def turn(self, before, after):
        """Add the angle between the weights before and after a step."""
        for i, place in enumerate(self.weights.values()):
            old, new = (torch.nn.functional.normalize(x[:, place], dim=1) for x in (before, after))
            self.turned[i] += 2 * torch.asin(torch.linalg.vector_norm(new - old, dim=1) / 2)


def _lags(steps, times, lags):
    """Which past gradients are held against the weights: {step: lags}; and which are kept, how long: {step: last use}."""
    at = np.unique(np.linspace(0, steps, times + 1).astype(int)[1:])
    wanted = {int(t): [lag for lag in lags if lag <= t] for t in at}
    return wanted, {t - lag: t for t, some in wanted.items() for lag in some}


@torch.no_grad()
def _run_laws(problem, points, parameters, device, progress):
    steps, every = int(points["steps"].iloc[0]), parameters["record_every"]
    beta1, beta2, lr, decay = (_column(points, name, device) for name in ("beta1", "beta2", "lr", "weight_decay"))
    theta = problem.start.clone()
    average, square = torch.zeros_like(theta), torch.zeros_like(theta)
    recorder = _LawRecorder(problem.weights, theta, points, device)
    wanted, kept = _lags(steps, **parameters["cosines"])
    past, cosines = {}, []
    seeds = points["seed"].to_numpy()
    directions = {seed: torch.Generator().manual_seed(int(seed)) for seed in np.unique(seeds)}
    for n in range(steps + 1):
        gradient = problem.gradient(theta, min(n, steps - 1))
        denominator, correction = stage_(gradient, average, square, n + 1.0, beta1=beta1, beta2=beta2, eps=0.0)
        update = stage_update(average, denominator, correction)
        recorder.see(
            n, theta, gradient, average, square, update, gradient / denominator, keep=n % every == 0 or n == steps
        )
        if n in kept:
            past[n] = gradient
        for lag in wanted.get(n, ()):
            random = {
                seed: torch.randn(theta.shape[1], dtype=torch.float64, generator=g) for seed, g in directions.items()
            }
            random = torch.stack([random[seed] for seed in seeds]).to(device)
            for weight, place in problem.weights.items():
                here = theta[:, place]
                cosine, by_chance = (
                    torch.nn.functional.cosine_similarity(here, other[:, place], dim=1)
                    for other in (past[n - lag], random)
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
            tables.append(pd.DataFrame({**point, "record": "norm", "step": at, "weight": weight, **columns}))
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


class _Opponent:
    """Runs with fixed norms, trained by one of `OPPONENTS`."""

    def __init__(self, name, problem, points, device):
        self.name, self.weights, self.theta = name, problem.weights, problem.start.clone()
        self.beta1, self.beta2 = (_column(points, column, device) for column in ("beta1", "beta2"))
        self.averages = [torch.zeros_like(self.theta) for _ in range(OPPONENTS[name])]
        self.one = {
            weight: torch.zeros((len(points), 1), dtype=torch.float64, device=device) for weight in self.weights
        }
        self.norms = {weight: self._norm(place) for weight, place in self.weights.items()}
        rates = {key: points[[key]].to_numpy() for key in ("lr", "weight_decay")}
        slower = 1.0
        if name in ("inertial", "tensor"):
            slower = theory.amplification(beta1=points[["beta1"]].to_numpy(), **rates) ** -0.5
        self.lr = torch.zeros_like(self.theta)
        for weight, place in self.weights.items():
            norm = self.norms[weight].cpu().numpy()
            beta2, lr = theory.second_stage(**rates, norm=norm, dimension=place.stop - place.start)
            self.second_beta2, self.lr[:, place] = (torch.from_numpy(x).to(device) for x in (beta2, lr * slower))

    def _norm(self, place):
        return torch.linalg.vector_norm(self.theta[:, place], dim=1, keepdim=True)

    def _update(self, gradient, step):
        first = {"beta1": self.beta1, "beta2": self.beta2, "eps": 0.0}
        if self.name == "unsmoothed":
            return unsmoothed_update_(gradient, *self.averages, step, second_beta2=self.second_beta2, **first)
        stages = [(self.beta1, self.beta2), (0.0, self.second_beta2)][: len(self.averages) // 2]
        update = kadam_update_(gradient, self.averages[::2], self.averages[1::2], step, stages=stages, eps=0.0)
        if self.name == "tensor":
            for weight, place in self.weights.items():
                size = update[:, place].square().mean(1, keepdim=True).sqrt()
                # A stage of numbers; without momentum its first average is its input.
                second, _ = stage_(size, size, self.one[weight], step, beta1=0.0, beta2=self.second_beta2, eps=0.0)
                update[:, place] /= second
        return update

    def step(self, gradient, n):
        self.theta -= self.lr * self._update(gradient, n + 1.0)
        for weight, place in self.weights.items():
            self.theta[:, place] *= self.norms[weight] / self._norm(place)


@torch.no_grad()
def _run_pairs(problem, points, parameters, device, progress):
    steps, every, count = int(points["steps"].iloc[0]), parameters["pair"]["record_every"], len(points)
    beta1, beta2, lr, decay = (_column(points, name, device) for name in ("beta1", "beta2", "lr", "weight_decay"))
    free = problem.start.clone()
    average, square = torch.zeros_like(free), torch.zeros_like(free)
    opponents = [_Opponent(name, problem, points, device) for name in OPPONENTS]
    rows = torch.arange(count, device=device).repeat(1 + len(opponents))
    records = []
    for n in range(steps + 1):
        if n % every == 0 or n == steps:
            records.append((n, _compare(problem, free, opponents)))
        if n == steps:
            break
        theta = torch.cat([free, *(opponent.theta for opponent in opponents)])
        gradients = problem.gradient(theta, n, rows).split(count)
        update = kadam_update_(gradients[0], [average], [square], n + 1.0, stages=[(beta1, beta2)], eps=0.0)
        free.mul_(1 - lr * decay).sub_(lr * update)
        for opponent, gradient in zip(opponents, gradients[1:], strict=True):
            opponent.step(gradient, n)
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


def _compare(problem, free, opponents):
    """How far each opponent is from AdamW: {name: {column: array over runs}}."""
    loss, logits = problem.test(free)

    def directions(theta):
        return [torch.nn.functional.normalize(theta[:, place], dim=1) for place in problem.weights.values()]

    ours, size = directions(free), logits.square().mean((1, 2)).sqrt()
    found = {"free": {"loss": loss.cpu().numpy()}}
    for opponent in opponents:
        other_loss, other = problem.test(opponent.theta)
        pairs = zip(ours, directions(opponent.theta), strict=True)
        apart = sum((a - b).square().sum(1) for a, b in pairs) / len(ours)
        found[opponent.name] = {
            "loss": other_loss.cpu().numpy(),
            "direction_distance": apart.sqrt().cpu().numpy(),
            "function_distance": ((other - logits).square().mean((1, 2)).sqrt() / size).cpu().numpy(),
        }
    return found


def run(points, parameters, *, device, progress):
    """Train the given points.

    Returns:
        ``(table, details)``: the columns of `points` that say which run it is, ``record`` and ``step`` n, and, for the
        weights after n steps (empty where a record has none):

        ``norm``, per scale-invariant ``weight``: ``norm_sq`` ‖W_n‖²; ``law_paper``, ``law_unsmoothed``, ``law_inertial``: what
        the laws make of all the updates before; ``coarse_share``: what ⟨W, g/√v⟩ ≠ 0 has added to ‖W_n‖²; ``update_sq``
        ‖u_n‖², ``unsmoothed_sq`` ‖g_n/√v_n‖², ``inner_update`` ⟨W_n, u_n⟩, ``inner_unsmoothed`` ⟨W_n, g_n/√v_n⟩,
        ``gradient_cosine`` of W_n and g_n, ``coarse_cosine`` of u_n and m_n, the update with v replaced by one number;
        ``turned``: sum of the angles between Ŵ before and after each step, ``turned_paper``: of η‖u‖/‖W‖;

        ``cosine``, per weight: ``cosine`` of W_n and the gradient ``lag`` steps before, ``random_cosine`` of W_n and a random
        direction of the same ``dimension``;

        ``pair``, per ``optimizer`` (``free``: AdamW): test ``loss``; ``direction_distance`` ‖Ŵ_optimizer − Ŵ_free‖ (root mean
        square over weights), ``function_distance``: of the logits on the test set, relative to the free ones.
    """
    tables, data, weights = [], {}, {}
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


def cost(points):
    """Units of work in these points, for the progress line: optimizer steps."""
    return int(points["steps"].sum()), "step"
