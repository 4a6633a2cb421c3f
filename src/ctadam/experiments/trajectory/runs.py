"""How closely the differential equations track the optimizer (paper, section 2; equations in `ctadam.theory.flow`).

Adam(W) and every equation start from the same initial weights, with full batches, float64 and ε = 0. They are compared after
every step, over all weights and weight by weight. The table of runs has three variants:

``discrete``
    The optimizer itself: distance travelled, loss, and preconditioned sharpness along its path.
``flow``
    One equation (order, kernel), integrated in steps (p = 0), its error and its R².
``relabelled``
    One equation, integrated in t = n·η^p, and its difference from the same equation in steps.

Runs of the same equation share their time grid, so they are integrated together as rows of one matrix.
"""

import math
from collections.abc import Callable
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
from ctadam.experiments.trajectory.config import Config
from ctadam.experiments.trajectory.sharpness import preconditioned_sharpness
from ctadam.models.mlp import MLP
from ctadam.models.transformer import Transformer
from ctadam.optim import kadam_update_
from ctadam.theory import flow

#: All equations, as (order, kernel), and the paper's one.
EQUATIONS = [(order, kernel) for order in flow.ORDERS for kernel in flow.KERNELS]
PAPERS = (2, "paper")
MODELS = ("mlp", "transformer")
#: Quantiles over weights at which R² is recorded, by column.
QUANTILES = {"r2_q05": 0.05, "r2_q25": 0.25, "r2_q50": 0.5, "r2_q75": 0.75, "r2_q95": 0.95}
#: Columns that identify the optimizer's run with which an equation is compared.
SETTING = ["lr", "weight_decay", "seed"]


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs.

    Args:
        config: the experiment's parameters.

    Returns:
        DataFrame with one row per run and the columns

        - ``run``, ``model``, ``lr``, ``weight_decay``, ``seed``, ``steps``;
        - ``variant``: ``"discrete"``, ``"flow"`` or ``"relabelled"``, see the module;
        - ``beta1``, ``beta2``: the paper's γ and β, the same for all runs;
        - ``order``, ``kernel``, ``p``: the equation; 0, ``"none"`` and 0 for the optimizer;
        - ``plain``: whether the weight decay is the first one. Then all equations are integrated and sharpness is measured;
        - ``check``: whether the equation is also integrated with doubled solver steps, to estimate the solver's error;
        - ``pictured``: whether single weights are recorded.
    """
    settings = pd.DataFrame({"model": MODELS})
    # The learning rate varies fastest. If the number of shards divides that of learning rates, a shard has all equations of
    # its learning rates, and the optimizer's runs are not repeated in other shards.
    for name, values in (("seed", config.seeds), ("weight_decay", config.weight_decays), ("lr", config.lrs)):
        settings = settings.merge(pd.DataFrame({name: values}), how="cross")
    settings = settings.assign(steps=config.steps, p=0.0, plain=settings["weight_decay"] == config.weight_decays[0])
    first = settings["seed"] == config.seeds[0]
    solved = settings.assign(variant="flow", check=first & settings["plain"])
    equations = [
        solved[solved["plain"] | ((order, kernel) == PAPERS)].assign(order=order, kernel=kernel)
        for order, kernel in EQUATIONS
    ]
    relabelled = pd.DataFrame({"p": [float(p) for p in config.relabel.p]}).assign(
        model=config.relabel.model,
        seed=config.seeds[0],
        weight_decay=config.weight_decays[-1],
        lr=config.relabel.lr,
        steps=config.relabel.steps,
        variant="relabelled",
        plain=False,
        check=False,
    )
    table = pd.concat(
        [
            *equations,
            settings.assign(variant="discrete", check=False, order=0, kernel="none"),
            relabelled.merge(pd.DataFrame(EQUATIONS, columns=["order", "kernel"]), how="cross"),
        ],
        ignore_index=True,
    )
    papers = (table["order"] == PAPERS[0]) & (table["kernel"] == PAPERS[1])
    table["pictured"] = (
        ((table["variant"] == "discrete") | ((table["variant"] == "flow") & papers))
        & (table["model"] == config.picture.model)
        & (table["seed"] == config.seeds[0])
        & (table["lr"] == config.picture.lr)
    )
    table = table.assign(beta1=config.beta1, beta2=config.beta2)
    table.insert(0, "run", range(len(table)))
    return table


class _Problem:
    """A model and its data: initial weights as a vector, and loss and gradient of a batch of such vectors.

    Args:
        name: ``"mlp"`` or ``"transformer"``.
        config: the experiment's parameters.
        device: where to compute.

    Attributes:
        data: sha256 of the data, by source.
        dimension: number of weights d.
        gradient_and_loss: function from weights of shape (runs, d) to gradients (runs, d) and losses (runs,) in nats.

    Raises:
        ArtifactError: if the sizes of the model are incompatible.
    """

    def __init__(self, name: str, config: Config, device: torch.device) -> None:
        self._make: Callable[[torch.Generator], nn.Module]
        if name == "mlp":
            mlp = config.mlp
            digits = load_digits(mlp.examples)
            inputs, targets, self.data = digits.images, digits.labels, {"digits": digits.sha256}
            self._make = lambda generator: MLP(
                features=64, width=mlp.width, depth=mlp.depth, classes=10, generator=generator
            )
        else:
            text, size = config.transformer.text, config.transformer.model
            # No test loss is needed. The split makes the training text the same as in the other experiments.
            corpus = load_corpus(
                text.source, tokenization="characters", test_fraction=text.test_fraction, context=size.context
            )
            windows = batches(
                corpus.train,
                batch=config.transformer.sequences,
                context=size.context,
                generator=torch.Generator().manual_seed(0),
            )
            inputs, targets = next(windows)
            self.data = {text.source: corpus.sha256}
            self._make = lambda generator: Transformer(
                vocabulary=len(corpus.vocabulary), **size.model_dump(), generator=generator
            )
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
        self.gradient_and_loss = vmap(grad_and_value(loss), chunk_size=config.chunk)

    def start(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the initial weights, float64 of shape (d,), and a random permutation of the coordinates, int64 (d,).

        R² is computed for the first coordinates of the permutation, and the figure shows the first few of them.
        """
        weights, choice = np.random.SeedSequence(int(seed)).generate_state(2)
        model = self._make(torch.Generator().manual_seed(int(weights)))
        theta = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()
        order = torch.randperm(self.dimension, generator=torch.Generator().manual_seed(int(choice)))
        return theta.to(self.device), order.to(self.device)

    def gradient(self, theta: Tensor) -> Tensor:
        """Return the gradients of the loss at weights of shape (runs, d), of the same shape."""
        return self.gradient_and_loss(theta)[0]


class _Optimizer:
    """Adam(W) on one model, for every setting (lr, weight decay, seed) as a row of a batch.

    Args:
        problem: model and data.
        settings: DataFrame with the columns `SETTING`, one row per setting.
        config: the experiment's parameters.

    Attributes:
        theta: weights θ_n of shape (rows, d).
        loss, distance: loss at θ_n and ‖θ_n − θ_0‖, of shape (rows,).
        chosen: coordinates whose R² is computed, int64 of shape (rows, weights).
        sums, squares: sums over steps 0 … n of the displacement of the chosen weights and of its square.
    """

    def __init__(self, problem: _Problem, settings: pd.DataFrame, config: Config) -> None:
        starts = {seed: problem.start(seed) for seed in settings["seed"].unique()}
        self.problem, self.config = problem, config
        self.theta = torch.stack([starts[seed][0] for seed in settings["seed"]])
        self.chosen = torch.stack([starts[seed][1] for seed in settings["seed"]])[:, : config.weights]
        self.lr, self.decay = (
            torch.tensor(settings[[name]].to_numpy(), device=problem.device) for name in ("lr", "weight_decay")
        )
        self._start, self._n = self.theta.clone(), 0
        self._average, self._square = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.sums = torch.zeros(self.chosen.shape, dtype=torch.float64, device=problem.device)
        self.squares = torch.zeros_like(self.sums)
        # The same for all runs, so that a run does not depend on those beside it.
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(problem.dimension, dtype=torch.float64, generator=generator)
        self._vectors = vector.to(problem.device).repeat(len(settings), 1)
        self._evaluate()

    def _evaluate(self) -> None:
        """Evaluate the gradient at θ_n and average it."""
        gradient, self.loss = self.problem.gradient_and_loss(self.theta)
        self._update = kadam_update_(
            gradient,
            [self._average],
            [self._square],
            self._n + 1.0,
            stages=[(self.config.beta1, self.config.beta2)],
            eps=0.0,
        )
        displacement = self.theta - self._start
        self.distance = displacement.norm(dim=-1)
        chosen = displacement.gather(1, self.chosen)
        self.sums += chosen
        self.squares += chosen**2

    def step(self) -> None:
        """Go from θ_n to θ_{n+1}."""
        self.theta = self.theta - self.lr * (self.decay * self.theta + self._update)
        self._n += 1
        self._evaluate()

    def trained(self, rows: Tensor) -> Tensor:
        """Return which chosen weights of these rows have ever had a gradient, bool of shape (rows, weights)."""
        return self._square[rows].gather(1, self.chosen[rows]) > 0

    def sharpness(self, rows: Tensor) -> Tensor:
        """Return the preconditioned sharpness at θ_n of these rows, starting from the vectors of the previous call."""
        values = torch.empty(len(rows), dtype=torch.float64)
        square = self._square / (1 - self.config.beta2 ** (self._n + 1))
        for places in torch.arange(len(rows)).split(self.config.chunk):
            part = rows[places.to(rows.device)]
            largest, self._vectors[part] = preconditioned_sharpness(
                self.problem.gradient,
                self.theta[part],
                square[part],
                self._vectors[part],
                iterations=min(self.config.sharpness.iterations, self.problem.dimension),
            )
            values[places] = largest.cpu()
        return values


class _Equation:
    """The runs of one equation, integrated together, with a second integration of some of them for comparison.

    The second integration uses doubled solver steps (for runs to check) or time in steps instead of t (for relabelled runs).

    Early steps need more substeps. Where the gradients of the first step are nearly zero, v starts near zero and the update
    changes direction within a fraction of a step. This stiffness fades as v grows.

    Args:
        optimizer: the optimizer's runs, at step 0.
        rows: int64 of shape (runs,), row of each run in the optimizer's batch.
        runs: rows of the table of runs that share variant, order, kernel and p.
        config: the experiment's parameters.

    Attributes:
        error: relative error of each run after each step, of shape (runs, steps + 1), NaN at step 0.
        difference: relative difference from the second integration, of the same shape, NaN where there is none.
        squares: sum over steps of the squared difference from the optimizer, of shape (runs, weights).
        first, least: number of substeps in the first step and minimum number in later steps.
    """

    def __init__(self, optimizer: _Optimizer, rows: Tensor, runs: pd.DataFrame, config: Config) -> None:
        order, kernel, p = runs[["order", "kernel", "p"]].iloc[0]
        theta, lr, decay = (values[rows] for values in (optimizer.theta, optimizer.lr, optimizer.decay))
        self.optimizer, self.rows, self.steps = optimizer, rows, int(runs["steps"].iloc[0])
        model = config.mlp if runs["model"].iloc[0] == "mlp" else config.transformer
        self.first, self.least = config.first_substeps, model.substeps[order - 1]
        self.error = torch.full((len(runs), self.steps + 1), math.nan, dtype=torch.float64)
        self.difference = torch.full_like(self.error, math.nan)
        self.squares = torch.zeros_like(optimizer.sums[rows])
        options: dict[str, Any] = {
            "beta1": config.beta1,
            "beta2": config.beta2,
            "order": int(order),
            "kernel": kernel,
        }
        gradient = optimizer.problem.gradient
        self.flow = flow.adamw(gradient, lr=_single(lr, p), weight_decay=decay, p=float(p), **options)
        self.state = self.flow.start(theta)
        self.relabelled = p != 0
        picked = np.flatnonzero(runs["check"] | self.relabelled)
        self.picked = torch.tensor(picked, device=theta.device)
        self.other: flow.Flow | None = None
        if len(picked):
            self.other = flow.adamw(gradient, lr=lr[picked], weight_decay=decay[picked], **options)
            self.other_state = self.other.start(theta[picked])

    def advance(self, n: int) -> None:
        """Integrate from step n to step n + 1."""
        substeps = max(self.least, 2 * math.ceil(2 * self.first / (n + 4)))  # even, because a check halves it
        self.state = _integrate(self.flow, self.state, n, substeps)
        if self.other is not None:
            self.other_state = _integrate(
                self.other, self.other_state, n, substeps if self.relabelled else substeps // 2
            )

    def record(self, n: int) -> None:
        """Record the errors after n ≥ 1 steps, relative to the distance that the optimizer has travelled."""
        off, distance = self.state[0] - self.optimizer.theta[self.rows], self.optimizer.distance[self.rows]
        self.error[:, n] = (off.norm(dim=-1) / distance).cpu()
        self.squares += off.gather(1, self.optimizer.chosen[self.rows]) ** 2
        if self.other is not None:
            difference = (self.state[0][self.picked] - self.other_state[0]).norm(dim=-1) / distance[self.picked]
            self.difference[self.picked.cpu(), n] = difference.cpu()

    def r_squared(self) -> list[dict[str, float]]:
        """Return the quantiles of R² over the chosen weights of each run, and their number, by column.

        Call it after the last step. R² of a weight is 1 − Σ(equation − optimizer)²/Σ(optimizer − its mean)², with sums over
        steps 0 … n. Weights that never had a gradient are left out: they stay where they are, or only decay.
        """
        sums, squares = (self.optimizer.sums[self.rows], self.optimizer.squares[self.rows])
        r2 = (1 - self.squares / (squares - sums**2 / (self.steps + 1))).cpu().numpy()
        trained = self.optimizer.trained(self.rows).cpu().numpy()
        # NaN of a run that is not finite makes its quantiles NaN.
        chosen = [values[mask] for values, mask in zip(r2, trained, strict=True)]
        return [
            {
                name: float(np.quantile(values, q)) if np.isfinite(values).all() and len(values) else math.nan
                for name, q in QUANTILES.items()
            }
            | {"r2_weights": float(len(values))}
            for values in chosen
        ]


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
    problem: _Problem, runs: pd.DataFrame, config: Config, progress: Callable[[int], object]
) -> list[pd.DataFrame]:
    """Return the records of all runs of one model, one table per run.

    The optimizer runs for every setting, because equations are compared with it even if its own run belongs to another shard.
    """
    settings = runs[SETTING].drop_duplicates(ignore_index=True)
    runs = runs.merge(settings.reset_index(names="row"), on=SETTING, how="left", validate="many_to_one")
    optimizer = _Optimizer(problem, settings, config)

    def rows_of(points: pd.DataFrame) -> Tensor:
        return torch.tensor(points["row"].to_numpy(), device=problem.device)

    equations = []
    for _, group in runs[runs["variant"] != "discrete"].groupby(["variant", "order", "kernel", "p"], sort=False):
        if group["p"].iloc[0] != 0 and group["lr"].nunique() > 1:
            raise ArtifactError("runs with p other than 0 need one learning rate")
        equations.append((group, _Equation(optimizer, rows_of(group), group, config)))

    discrete = runs[runs["variant"] == "discrete"]
    measured = rows_of(discrete[discrete["plain"]])
    steps = int(runs["steps"].max())
    scalars = torch.full((len(settings), steps + 1, 3), math.nan, dtype=torch.float64)  # distance, loss, sharpness
    shown = optimizer.chosen[:, : config.picture.weights]
    weights = {run: np.full((steps + 1, shown.shape[1]), np.nan) for run in runs.loc[runs["pictured"], "run"]}
    r_squared: dict[int, dict[str, float]] = {}
    for n in range(steps + 1):
        scalars[:, n, 0], scalars[:, n, 1] = optimizer.distance.cpu(), optimizer.loss.cpu()
        if len(measured) and n % config.sharpness.every == 0:
            scalars[measured.cpu(), n, 2] = optimizer.sharpness(measured)
        for run, row in discrete.loc[discrete["pictured"], ["run", "row"]].to_numpy():
            weights[run][n] = optimizer.theta[row][shown[row]].cpu()
        for group, equation in equations:
            if n > equation.steps:
                continue
            if n:
                equation.record(n)
            for i, run in enumerate(group["run"]):
                if run in weights:
                    weights[run][n] = equation.state[0][i][shown[equation.rows[i]]].cpu()
            if n < equation.steps:
                equation.advance(n)
                progress(len(group))
            elif not equation.relabelled:
                r_squared |= dict(zip(group["run"], equation.r_squared(), strict=True))
        if n < steps:
            optimizer.step()
            progress(len(discrete))

    errors = {
        run: (equation.error[i].numpy(), equation.difference[i].numpy())
        for group, equation in equations
        for i, run in enumerate(group["run"])
    }
    tables = []
    for fields in runs.drop(columns=["plain", "check", "pictured"]).to_dict("records"):
        run, row, last, variant = (fields[name] for name in ("run", "row", "steps", "variant"))
        table = pd.DataFrame({"step": np.arange(last + 1, dtype=np.int32)})
        # NaN where a column does not apply. float32 suffices for what is only compared and drawn.
        table["error"], difference = errors.get(run, (math.nan, math.nan))
        table["solver_error"] = math.nan if variant == "relabelled" else difference
        table["p_difference"] = difference if variant == "relabelled" else math.nan
        for i, name in enumerate(("distance", "loss", "sharpness")):
            table[name] = scalars[row, : last + 1, i].numpy() if variant == "discrete" else math.nan
        for i in range(shown.shape[1]):
            table[f"weight_{i}"] = weights[run][: last + 1, i] if run in weights else math.nan
        table = table.astype(dict.fromkeys(table.columns.drop("step"), np.float32))
        for name in (*QUANTILES, "r2_weights"):
            table[name] = math.nan
            table.loc[last, name] = r_squared.get(run, {}).get(name, math.nan)
        for place, key in enumerate(key for key in fields if key not in ("row", "steps")):
            table.insert(place, key, fields[key])
        tables.append(table)
    return tables


def run(
    runs: pd.DataFrame, config: Config, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the optimizer and integrate the equations of the given runs.

    Args:
        runs: rows of the table that `grid` returns.
        config: the experiment's parameters.
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
        - ``sharpness``: largest eigenvalue of diag(1/√v̂)·Hessian at θ_n, every few steps, with the first weight decay;
        - ``weight_0``, ``weight_1``, …: single weights, chosen at random by the seed;
        - ``r2_q05``, … ``r2_q95``: quantiles over weights of the R² of the whole run, in the row of the last step;
        - ``r2_weights``: number of weights in these quantiles.
    """
    tables: list[pd.DataFrame] = []
    data: dict[str, str] = {}
    weights: dict[str, int] = {}
    for name, group in runs.groupby("model", sort=False):
        problem = _Problem(str(name), config, device)
        data |= problem.data
        weights[str(name)] = problem.dimension
        tables += _run_model(problem, group, config, progress)
    table = pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True)
    return table, {"data": data, "weights": weights}


def cost(runs: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work in these runs and its unit, for the progress line; here steps, summed over runs."""
    discrete = runs["variant"] == "discrete"
    # The optimizer's runs of a model are one batch, which takes as many steps as the longest run.
    longest = runs.groupby("model")["steps"].transform("max")
    return int(runs["steps"].where(~discrete, longest).sum()), "step"
