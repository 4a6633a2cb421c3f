"""Does the differential equation follow the optimizer? (paper, section 2; equations: `ctadam.theory.flow`)

Full batch, float64, ε = 0. From the same initial weights, Adam(W) takes its steps and each equation is integrated; the
distance between the two, over all weights, is recorded after every step. Three variants share one table:

``discrete``
    the optimizer itself: distance travelled, loss, and how many gradients change sign from one step to the next;
``flow``
    one equation (order, kernel) in steps (p = 0), and what it is off by;
``relabelled``
    one equation integrated in t = n·η^p, and what it differs by from the same equation in steps.

Runs of the same equation are integrated together, one row of a matrix each: they have the time, in steps, in common.
"""

import math

import numpy as np
import pandas as pd
import torch
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

#: Every equation, as (order, kernel).
EQUATIONS = [(order, kernel) for order in flow.ORDERS for kernel in flow.KERNELS]
MODELS = ("mlp", "transformer")


def points(parameters):
    """The table of runs: a row a run, with the columns

    - ``run``, ``variant`` (see the module), ``model``, ``lr``, ``weight_decay``, ``seed``, ``steps``;
    - ``beta1``, ``beta2``: the paper's γ and β, the same for all;
    - ``order``, ``kernel``, ``p``: the equation (0, ``none`` and 0 for the optimizer);
    - ``check``: whether the equation is also integrated with steps twice as long, to see the solver's own error;
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
    # The equation varies fastest: shards dealt in multiples of four get one each, and integrate its runs together.
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
    """One model on its data: initial weights as a vector, and gradient and loss of many such vectors at once."""

    def __init__(self, name, parameters, device):
        settings = parameters[name]
        if name == "mlp":
            digits = load_digits(settings["examples"])
            inputs, targets, self.data = digits.images, digits.labels, {"digits": digits.sha256}
            self._make = lambda generator: MLP(
                features=64, width=settings["width"], depth=settings["depth"], classes=10, generator=generator
            )
        else:
            size = settings["model"]
            # Nothing is tested here; the split is that of the other experiments, so that they see the same text.
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
        except ValueError as error:  # sizes that do not go together, which no schema can tell
            raise ArtifactError(f"trajectory.{name}: {error}") from error
        self._shapes = {key: value.shape for key, value in model.named_parameters()}
        sizes = [shape.numel() for shape in self._shapes.values()]
        self.dimension = sum(sizes)

        def loss(theta):
            parts = zip(self._shapes.items(), theta.split(sizes), strict=True)
            logits = functional_call(model, {key: part.view(shape) for (key, shape), part in parts}, (inputs,))
            return F.cross_entropy(logits.flatten(0, -2), targets.flatten())

        # One after the other where a device cannot hold all of them.
        self.gradient_and_loss = vmap(grad_and_value(loss), chunk_size=parameters["at_once"])

    def start(self, seed):
        """Initial weights of a seed, and the coordinates that a picture shows."""
        weights, choice = np.random.SeedSequence(int(seed)).generate_state(2)
        model = self._make(torch.Generator().manual_seed(int(weights)))
        theta = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()
        order = torch.randperm(self.dimension, generator=torch.Generator().manual_seed(int(choice)))
        return theta.to(self.device), order.to(self.device)

    def gradient(self, theta):
        return self.gradient_and_loss(theta)[0]


class _Equation:
    """The runs of one equation, integrated together, and perhaps those of them with the same in another way beside it.

    ``rows``: places of these runs in the batch of the optimizer's; ``first``, ``least``: substeps in the first step and
    in late ones. Where gradients of the first step are nearly zero, v starts nearly zero and the update turns within a
    fraction of a step; the solver needs ever fewer substeps as v fills.
    """

    def __init__(self, problem, rows, theta, runs, parameters):
        order, kernel, p = runs[["order", "kernel", "p"]].iloc[0]
        self.rows = rows
        self.first, self.least = parameters["first_substeps"], parameters[runs["model"].iloc[0]]["substeps"][order - 1]
        self.error = torch.full((len(runs), runs["steps"].iloc[0] + 1), math.nan, dtype=torch.float64)
        self.beside = torch.full_like(self.error, math.nan)
        lr, decay = (torch.tensor(runs[[name]].to_numpy(), device=theta.device) for name in ("lr", "weight_decay"))
        pair = {"beta1": parameters["beta1"], "beta2": parameters["beta2"], "order": int(order), "kernel": kernel}
        self.flow = flow.adamw(problem.gradient, lr=_single(lr, p), weight_decay=decay, p=float(p), **pair)
        self.state = self.flow.start(theta)
        # The comparison: with twice the step for those to check, in steps instead of t for those relabelled.
        self.relabelled = p != 0
        picked = np.flatnonzero(runs["check"] | self.relabelled)
        self.picked = torch.tensor(picked, device=theta.device)
        self.other = None
        if len(picked):
            self.other = flow.adamw(problem.gradient, lr=lr[picked], weight_decay=decay[picked], **pair)
            self.other_state = self.other.start(theta[picked])

    def advance(self, n):
        substeps = max(self.least, 2 * math.ceil(2 * self.first / (n + 4)))  # even, so that it can be halved
        self.state = _integrate(self.flow, self.state, n, substeps)
        if self.other is not None:
            self.other_state = _integrate(
                self.other, self.other_state, n, substeps if self.relabelled else substeps // 2
            )

    def record(self, n, theta, distance):
        """Errors after n steps, relative to the distance that the optimizer has travelled."""
        if n == 0:
            return
        self.error[:, n] = ((self.state[0] - theta).norm(dim=-1) / distance).cpu()
        if self.other is not None:
            difference = (self.state[0][self.picked] - self.other_state[0]).norm(dim=-1) / distance[self.picked]
            self.beside[self.picked.cpu(), n] = difference.cpu()


def _single(lr, p):
    """The one learning rate that a time other than steps needs."""
    return float(lr[0, 0]) if p != 0 else lr


def _integrate(equation, state, n, substeps):
    """From step n to n + 1 by the classical fourth-order method."""
    times = equation.times(1, first=n, substeps=substeps).to(state[0].device)
    options = {"grid_constructor": lambda function, start, t: times}
    return tuple(part[-1] for part in odeint(equation, state, times[[0, -1]], method="rk4", options=options))


@torch.no_grad()
def _run_model(problem, points, parameters, progress):
    """All points of one model; the optimizer's steps are taken for all of them, whether or not they are points."""
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
            errors[run] = equation.error[i].numpy(), equation.beside[i].numpy()
    tables = []
    for point in points.to_dict("records"):
        n = np.arange(point["steps"] + 1, dtype=np.int32)
        run, row, variant = point["run"], point.pop("row"), point["variant"]
        del point["steps"], point["check"], point["pictured"]
        table = pd.DataFrame({**point, "step": n})
        error, beside = errors.get(run, (np.full(len(n), math.nan),) * 2)
        table["error"] = error
        table["solver_error"] = math.nan if variant == "relabelled" else beside
        table["p_difference"] = beside if variant == "relabelled" else math.nan
        discrete = variant == "discrete"
        for i, name in enumerate(("distance", "loss", "sign_changes")):
            table[name] = scalars[row, : len(n), i].numpy() if discrete else math.nan
        for i in range(shown.shape[1]):
            table[f"weight_{i}"] = weights[position[run], : len(n), i].numpy()
        tables.append(table)
    return tables


def run(points, parameters, *, device, progress):
    """Take the optimizer's steps and integrate the equations of the given points.

    Args:
        points: rows of `points`.
        parameters: section ``trajectory`` of the configuration.
        device: `torch.device`.
        progress: called with the steps done, summed over runs.

    Returns:
        ``(table, details)``: a row a step of a run, n = 0 … steps, sorted by run and step: the columns of `points` that
        say which run it is, ``step``, and (empty where a variant has none)

        - ``error``: ‖θ_equation − θ_n‖ / ‖θ_n − θ_0‖, θ_n the optimizer's, all weights, from n = 1 on;
        - ``solver_error``: the same norm of the difference to the solution with steps twice as long; the error of a
          fourth-order solver where it converges is 15 times smaller;
        - ``p_difference``: … of the difference between the solution in t = n·η^p and that in steps;
        - ``distance`` ‖θ_n − θ_0‖, ``loss`` (nats) at θ_n, ``sign_changes``: share of all coordinates whose gradient at
          n has another sign than that at n − 1;
        - ``weight_0`` …: single weights, chosen at random by the seed.
    """
    tables, data, weights = [], {}, {}
    for name, group in points.groupby("model", sort=False):
        problem = _Problem(name, parameters, device)
        data |= problem.data
        weights[name] = problem.dimension
        tables += _run_model(problem, group, parameters, progress)
    table = pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True)
    return table, {"data": data, "weights": weights}


def cost(points):
    """Units of work in these points, for the progress line: steps, summed over runs."""
    discrete = points["variant"] == "discrete"
    # All runs of a model take the optimizer's steps together, for as long as the longest.
    longest = points.groupby("model")["steps"].transform("max")
    return int(points["steps"].where(~discrete, longest).sum()), "step"
