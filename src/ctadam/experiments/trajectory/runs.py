"""How closely the differential equations track the optimizer (paper, section 2; equations in `ctadam.theory.flow`).

Adam(W) and every equation start from the same initial weights, with full batches, float64 and ε = 0. The distance between
the two, over all weights, is recorded after every step. The table of runs has three variants:

``discrete``
    The optimizer itself: distance travelled, loss, and share of gradients that change sign between consecutive steps.
``flow``
    One equation (order, kernel), integrated in steps (p = 0), and its error.
``relabelled``
    One equation, integrated in t = n·η^p, and its difference from the same equation in steps.

Runs of the same equation share their time grid, so they are integrated together as rows of one matrix.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torchdiffeq import odeint

from ctadam.data.digits import load_digits
from ctadam.data.text import batches, load_corpus
from ctadam.errors import ArtifactError
from ctadam.models.mlp import MLP
from ctadam.models.transformer import Transformer
from ctadam.optim import kadam_update_
from ctadam.theory import flow

#: All equations, as (order, kernel).
EQUATIONS = [(order, kernel) for order in flow.ORDERS for kernel in flow.KERNELS]
MODELS = ("mlp", "transformer")


def points(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs.

    Args:
        parameters: section ``trajectory`` of the configuration.

    Returns:
        DataFrame with one row per run and the columns

        - ``run``, ``model``, ``lr``, ``weight_decay``, ``seed``, ``steps``;
        - ``variant``: ``"discrete"``, ``"flow"`` or ``"relabelled"``, see the module;
        - ``beta1``, ``beta2``: the paper's γ and β, the same for all runs;
        - ``order``, ``kernel``, ``p``: the equation; 0, ``"none"`` and 0 for the optimizer;
        - ``check``: whether the equation is also integrated with doubled solver steps, to estimate the solver's error;
        - ``pictured``: whether single weights are recorded.
    """
    runs = pd.DataFrame({"model": MODELS})
    for name, values in (("seed", "seeds"), ("weight_decay", "weight_decays"), ("lr", "lrs")):
        runs = runs.merge(pd.DataFrame({name: parameters[values]}), how="cross")
    runs = runs.assign(steps=parameters["steps"], p=0.0)
    equations = pd.DataFrame(EQUATIONS, columns=["order", "kernel"])
    first = (runs["seed"] == parameters["seeds"][0]) & (runs["weight_decay"] == parameters["weight_decays"][0])
    one = parameters["relabel"]
    relabelled = pd.DataFrame({"p": [float(p) for p in one["p"]]}).assign(
        model=one["model"], seed=parameters["seeds"][0], weight_decay=parameters["weight_decays"][-1], lr=one["lr"],
        steps=one["steps"],
    )  # fmt: skip
    # The equation varies fastest. If the number of shards is a multiple of four, each shard gets the runs of one equation
    # and integrates them together.
    table = pd.concat(
        [
            runs.assign(variant="flow", check=first).merge(equations, how="cross"),
            relabelled.assign(variant="relabelled", check=False).merge(equations, how="cross"),
            runs.assign(variant="discrete", order=0, kernel="none", check=False),
        ],
        ignore_index=True,
    )
    table["pictured"] = (
        (table["variant"] != "relabelled")
        & (table["seed"] == parameters["seeds"][0])
        & (table["lr"] == parameters["picture"]["lr"])
    )
    table = table.assign(beta1=parameters["beta1"], beta2=parameters["beta2"])
    table.insert(0, "run", range(len(table)))
    return table


class _Problem:
    """A model and its data: initial weights as a vector, and loss and gradient of a batch of such vectors.

    Args:
        name: ``"mlp"`` or ``"transformer"``.
        parameters: section ``trajectory`` of the configuration.
        device: where to compute.

    Attributes:
        data: sha256 of the data, by source.
        dimension: number of weights d.
        gradient_and_loss: function from weights of shape (runs, d) to gradients (runs, d) and losses (runs,) in nats.

    Raises:
        ArtifactError: if the sizes of the model are incompatible.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any], device: torch.device) -> None:
        settings = parameters[name]
        self._make: Callable[[torch.Generator], nn.Module]
        if name == "mlp":
            digits = load_digits(settings["examples"])
            inputs, targets, self.data = digits.images, digits.labels, {"digits": digits.sha256}
            self._make = lambda generator: MLP(
                features=64, width=settings["width"], depth=settings["depth"], classes=10, generator=generator
            )
        else:
            size = settings["model"]
            # No test loss is needed. The split makes the training text the same as in the other experiments.
            corpus = load_corpus(
                settings["text"], tokenization="characters", test_fraction=0.1, context=size["context"]
            )
            windows = batches(
                corpus.train,
                batch=settings["sequences"],
                context=size["context"],
                generator=torch.Generator().manual_seed(0),
            )
            inputs, targets = next(windows)
            self.data = {settings["text"]: corpus.sha256}
            self._make = lambda generator: Transformer(vocabulary=len(corpus.vocabulary), **size, generator=generator)
        inputs, targets = inputs.to(device), targets.to(device)
        self.device = device
        try:
            model = self._make(torch.Generator().manual_seed(0)).double().to(device)
        except ValueError as error:  # incompatible sizes, which the schema cannot detect
            raise ArtifactError(f"trajectory.{name}: {error}") from error
        self._shapes = {key: value.shape for key, value in model.named_parameters()}
        sizes = [shape.numel() for shape in self._shapes.values()]
        self.dimension = sum(sizes)

        def loss(theta: Tensor) -> Tensor:
            parts = zip(self._shapes.items(), theta.split(sizes), strict=True)
            logits = functional_call(model, {key: part.view(shape) for (key, shape), part in parts}, (inputs,))
            return F.cross_entropy(logits.flatten(0, -2), targets.flatten())

        # A chunk size limits memory where the device cannot hold all runs at once.
        self.gradient_and_loss = vmap(grad_and_value(loss), chunk_size=parameters["at_once"])

    def start(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the initial weights, float64 of shape (d,), and a random permutation of the coordinates, int64 (d,).

        The figure shows the first coordinates of the permutation.
        """
        weights, choice = np.random.SeedSequence(int(seed)).generate_state(2)
        model = self._make(torch.Generator().manual_seed(int(weights)))
        theta = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()
        order = torch.randperm(self.dimension, generator=torch.Generator().manual_seed(int(choice)))
        return theta.to(self.device), order.to(self.device)

    def gradient(self, theta: Tensor) -> Tensor:
        """Return the gradients of the loss at weights of shape (runs, d), of the same shape."""
        return self.gradient_and_loss(theta)[0]


class _Equation:
    """The runs of one equation, integrated together, with a second integration of some of them for comparison.

    The second integration uses doubled solver steps (for runs to check) or time in steps instead of t (for relabelled runs).

    Early steps need more substeps. Where the gradients of the first step are nearly zero, v starts near zero and the update
    changes direction within a fraction of a step. This stiffness fades as v grows.

    Args:
        problem: model and data.
        rows: int64 of shape (runs,), row of each run in the optimizer's batch.
        theta: initial weights of shape (runs, d).
        runs: rows of the table of runs that share variant, order, kernel and p.
        parameters: section ``trajectory`` of the configuration.

    Attributes:
        error: relative error of each run after each step, of shape (runs, steps + 1), NaN at step 0.
        difference: relative difference from the second integration, of the same shape, NaN where there is none.
        first, least: number of substeps in the first step and minimum number in later steps.
    """

    def __init__(
        self, problem: _Problem, rows: Tensor, theta: Tensor, runs: pd.DataFrame, parameters: Mapping[str, Any]
    ) -> None:
        order, kernel, p = runs[["order", "kernel", "p"]].iloc[0]
        self.rows = rows
        self.first, self.least = parameters["first_substeps"], parameters[runs["model"].iloc[0]]["substeps"][order - 1]
        self.error = torch.full((len(runs), runs["steps"].iloc[0] + 1), math.nan, dtype=torch.float64)
        self.difference = torch.full_like(self.error, math.nan)
        lr, decay = (torch.tensor(runs[[name]].to_numpy(), device=theta.device) for name in ("lr", "weight_decay"))
        pair: dict[str, Any] = {
            "beta1": parameters["beta1"],
            "beta2": parameters["beta2"],
            "order": int(order),
            "kernel": kernel,
        }
        self.flow = flow.adamw(problem.gradient, lr=_single(lr, p), weight_decay=decay, p=float(p), **pair)
        self.state = self.flow.start(theta)
        self.relabelled = p != 0
        picked = np.flatnonzero(runs["check"] | self.relabelled)
        self.picked = torch.tensor(picked, device=theta.device)
        self.other: flow.Flow | None = None
        if len(picked):
            self.other = flow.adamw(problem.gradient, lr=lr[picked], weight_decay=decay[picked], **pair)
            self.other_state = self.other.start(theta[picked])

    def advance(self, n: int) -> None:
        """Integrate from step n to step n + 1."""
        substeps = max(self.least, 2 * math.ceil(2 * self.first / (n + 4)))  # even, because a check halves it
        self.state = _integrate(self.flow, self.state, n, substeps)
        if self.other is not None:
            self.other_state = _integrate(
                self.other, self.other_state, n, substeps if self.relabelled else substeps // 2
            )

    def record(self, n: int, theta: Tensor, distance: Tensor) -> None:
        """Record the errors after n steps, relative to the distance that the optimizer has travelled.

        Args:
            n: number of steps; nothing is recorded for 0.
            theta: the optimizer's weights, of shape (runs, d).
            distance: ‖θ_n − θ_0‖ of the optimizer, of shape (runs,).
        """
        if n == 0:
            return
        self.error[:, n] = ((self.state[0] - theta).norm(dim=-1) / distance).cpu()
        if self.other is not None:
            difference = (self.state[0][self.picked] - self.other_state[0]).norm(dim=-1) / distance[self.picked]
            self.difference[self.picked.cpu(), n] = difference.cpu()


def _single(lr: Tensor, p: float) -> Tensor | float:
    """Return the learning rates, or the single one as a float if p ≠ 0, where all runs share one time axis."""
    return float(lr[0, 0]) if p != 0 else lr


def _integrate(equation: flow.Flow, state: flow.State, n: int, substeps: int) -> flow.State:
    """Return the state at step n + 1 from that at step n, by the classical fourth-order Runge-Kutta method."""
    times = equation.times(1, first=n, substeps=substeps).to(state[0].device)
    options = {"grid_constructor": lambda function, start, t: times}
    return tuple(part[-1] for part in odeint(equation, state, times[[0, -1]], method="rk4", options=options))


@torch.no_grad()
def _run_model(
    problem: _Problem, points: pd.DataFrame, parameters: Mapping[str, Any], progress: Callable[[int], object]
) -> list[pd.DataFrame]:
    """Return the records of all runs of one model, one table per run.

    The optimizer runs for every combination of lr, weight decay and seed, because equations are compared with it even if
    its own run belongs to another shard.
    """
    configs = points[["lr", "weight_decay", "seed"]].drop_duplicates(ignore_index=True)
    starts = {seed: problem.start(seed) for seed in configs["seed"].unique()}
    theta = torch.stack([starts[seed][0] for seed in configs["seed"]])
    shown = torch.stack([starts[seed][1] for seed in configs["seed"]])[:, : parameters["picture"]["weights"]]
    lr, decay = (torch.tensor(configs[[name]].to_numpy(), device=theta.device) for name in ("lr", "weight_decay"))
    place = configs.reset_index(names="row").set_index(["lr", "weight_decay", "seed"])["row"]
    points = points.assign(
        row=[place[key] for key in zip(points["lr"], points["weight_decay"], points["seed"], strict=True)]
    )

    equations = []
    for _, runs in points[points["variant"] != "discrete"].groupby(["variant", "order", "kernel", "p"], sort=False):
        if runs["p"].iloc[0] != 0 and runs["lr"].nunique() > 1:
            raise ArtifactError("runs with p other than 0 need one learning rate")
        rows = torch.tensor(runs["row"].to_numpy(), device=theta.device)
        equations.append((runs, _Equation(problem, rows, theta[rows], runs, parameters)))

    steps = int(points["steps"].max())
    scalars = torch.full((len(configs), steps + 1, 3), math.nan, dtype=torch.float64)  # distance, loss, sign changes
    weights = torch.full((len(points), steps + 1, shown.shape[1]), math.nan, dtype=torch.float64)
    position = {run: i for i, run in enumerate(points["run"])}
    start, before = theta.clone(), None
    average, square = torch.zeros_like(theta), torch.zeros_like(theta)
    for n in range(steps + 1):
        distance = (theta - start).norm(dim=-1)
        gradient, loss = problem.gradient_and_loss(theta)
        scalars[:, n, 0], scalars[:, n, 1] = distance.cpu(), loss.cpu()
        if before is not None:
            scalars[:, n, 2] = (gradient * before < 0).double().mean(-1).cpu()
        before = gradient
        picture = theta.gather(1, shown).cpu()
        for run, row in points.loc[points["pictured"] & (points["variant"] == "discrete"), ["run", "row"]].to_numpy():
            weights[position[run], n] = picture[row]
        for runs, equation in equations:
            if n > runs["steps"].iloc[0]:
                continue
            equation.record(n, theta[equation.rows], distance[equation.rows])
            if runs["pictured"].any():
                picture = equation.state[0].gather(1, shown[equation.rows]).cpu()
                for i, run in enumerate(runs["run"]):
                    if runs["pictured"].iloc[i]:
                        weights[position[run], n] = picture[i]
            if n < runs["steps"].iloc[0]:
                equation.advance(n)
                progress(len(runs))
        if n < steps:
            update = kadam_update_(
                gradient, [average], [square], n + 1.0, stages=[(parameters["beta1"], parameters["beta2"])], eps=0.0
            )
            theta = theta - lr * (decay * theta + update)
            progress(int((points["variant"] == "discrete").sum()))

    errors = {}
    for runs, equation in equations:
        for i, run in enumerate(runs["run"]):
            errors[run] = equation.error[i].numpy(), equation.difference[i].numpy()
    tables = []
    for point in points.to_dict("records"):
        step = np.arange(point["steps"] + 1, dtype=np.int32)
        run, row, variant = point["run"], point.pop("row"), point["variant"]
        del point["steps"], point["check"], point["pictured"]
        table = pd.DataFrame({**point, "step": step})
        error, difference = errors.get(run, (np.full(len(step), math.nan),) * 2)
        table["error"] = error
        table["solver_error"] = math.nan if variant == "relabelled" else difference
        table["p_difference"] = difference if variant == "relabelled" else math.nan
        discrete = variant == "discrete"
        for i, name in enumerate(("distance", "loss", "sign_changes")):
            table[name] = scalars[row, : len(step), i].numpy() if discrete else math.nan
        for i in range(shown.shape[1]):
            table[f"weight_{i}"] = weights[position[run], : len(step), i].numpy()
        tables.append(table)
    return tables


def run(
    points: pd.DataFrame, parameters: Mapping[str, Any], *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the optimizer and integrate the equations of the given runs.

    Args:
        points: rows of the table that `points` returns.
        parameters: section ``trajectory`` of the configuration.
        device: where to compute.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``details`` goes into the provenance: the sha256 of the data and each model's number of weights.
        ``table`` has one row per run and step n = 0 … steps, sorted by run and step. It has the columns that identify a run,
        ``step``, and the following, which are NaN where they do not apply. θ_n are the optimizer's weights; norms are over
        all weights.

        - ``error``: ‖θ_equation − θ_n‖ / ‖θ_n − θ_0‖, from n = 1 on;
        - ``solver_error``: norm of the difference from the solution with doubled solver steps, over ‖θ_n − θ_0‖. Where the
          fourth-order solver converges, its error is 15 times smaller;
        - ``p_difference``: norm of the difference between the solutions in t = n·η^p and in steps, over ‖θ_n − θ_0‖;
        - ``distance``: ‖θ_n − θ_0‖;
        - ``loss``: loss at θ_n, in nats;
        - ``sign_changes``: share of coordinates whose gradients at n and n − 1 have opposite signs;
        - ``weight_0``, ``weight_1``, …: single weights, chosen at random by the seed.
    """
    tables: list[pd.DataFrame] = []
    data: dict[str, str] = {}
    weights: dict[str, int] = {}
    for name, group in points.groupby("model", sort=False):
        problem = _Problem(str(name), parameters, device)
        data |= problem.data
        weights[str(name)] = problem.dimension
        tables += _run_model(problem, group, parameters, progress)
    table = pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True)
    return table, {"data": data, "weights": weights}


def cost(points: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work in these runs and its unit, for the progress line; here steps, summed over runs."""
    discrete = points["variant"] == "discrete"
    # The optimizer's runs of a model are one batch, which takes as many steps as the longest run.
    longest = points.groupby("model")["steps"].transform("max")
    return int(points["steps"].where(~discrete, longest).sum()), "step"
