"""Adam on a convex quadratic: whether the stable region depends on learning rate, noise or weight decay.

The loss is ½ (θ−θ*)ᵀH(θ−θ*) in a few dimensions. H has log-spaced eigenvalues from 1 down to 1/condition, and its eigenvectors
are not the axes. Gradients are H(θ−θ*) + σξ with standard normal ξ. Every pair of an even grid over [0, 1)² is run with every
setting: learning rates alone, then noise levels σ and weight decays λ at one learning rate. The minimum θ* is 0, except in one
setting in which it is so far away that weight decay decides where the weights end. All runs share the initial weights and the
noise, with ε = 0 and float64.

Thousands of runs form one tensor, and each run is recorded as one row. Updates are therefore compared with the bounds of
`ctadam.theory.stability` at every step here, and not later in the measurements.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ctadam.experiments.quadratic.config import Config
from ctadam.optim import kadam_update_
from ctadam.theory.stability import Law, update_bound

#: Largest number of runs per chunk on a CPU, so that the data of a step fit the cache of a core. It does not affect results.
CPU_CHUNK = 8192
#: Chunks are padded to a multiple of this many runs. The last columns of a tensor that do not fill a vector register can
#: round differently, so without padding a run would depend on its position in the chunk.
_FULL = 64
#: Largest number of bounds computed at a time, which limits memory.
_TABLE = 2**22
_LAWS: tuple[Law, ...] = ("paper", "exact")
#: Parameters of a setting, with the values that they have unless the setting varies them.
_PLAIN = {"noise": 0.0, "weight_decay": 0.0, "minimum": 0.0}


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs.

    Args:
        config: section ``quadratic`` of the configuration.

    Returns:
        DataFrame with one row per run, ordered by pair, and the columns

        - ``run``;
        - ``sweep``: the setting that is varied, ``"lr"``, ``"noise"``, ``"weight_decay"`` or ``"distant"``;
        - ``pair``: number of the pair;
        - ``beta1``, ``beta2``: the paper's γ and β;
        - ``lr``, ``noise`` (σ), ``weight_decay``, ``minimum`` (every coordinate of θ*).
    """
    settings: list[dict[str, Any]] = [{"sweep": "lr", "lr": lr} | _PLAIN for lr in config.lrs]
    base = {"lr": config.lr} | _PLAIN
    settings += [base | {"sweep": "noise", "noise": float(value)} for value in config.noises]
    settings += [base | {"sweep": "weight_decay", "weight_decay": float(value)} for value in config.weight_decays]
    distant = {name: float(value) for name, value in config.distant.model_dump().items()}
    settings.append(base | {"sweep": "distant"} | distant)
    axis = np.arange(config.grid) / config.grid
    beta1, beta2 = (values.ravel() for values in np.meshgrid(axis, axis, indexing="ij"))
    pairs = pd.DataFrame({"pair": range(len(beta1)), "beta1": beta1, "beta2": beta2})
    table = pairs.merge(pd.DataFrame(settings), how="cross")[["sweep", *pairs, "lr", *_PLAIN]]
    table.insert(0, "run", range(len(table)))
    return table


def hessian_product(theta: Tensor, *, condition: float) -> Tensor:
    """Return Hθ.

    H is a diagonal matrix conjugated with a Householder reflection, so that it is dense.

    Args:
        theta: θ, of shape (dimension, …).
        condition: ratio of the largest eigenvalue, 1, to the smallest.

    Returns:
        Tensor of the shape of ``theta``.
    """
    dimension = len(theta)
    shape = (-1, *[1] * (theta.dim() - 1))
    eigenvalues = torch.logspace(0, -np.log10(condition), dimension, dtype=theta.dtype, device=theta.device).view(shape)

    def reflect(x: Tensor) -> Tensor:
        # Python's sum adds row by row, so the order does not depend on the number of runs. It is also faster here.
        return x - sum(x) * (2 / dimension)

    return reflect(eigenvalues * reflect(theta))


def _run_chunk(
    runs: pd.DataFrame, config: Config, start: Tensor, noise: Tensor, device: torch.device
) -> dict[str, np.ndarray]:
    """Execute a chunk of runs and return their records.

    Args:
        runs: rows of the table of runs.
        config: section ``quadratic`` of the configuration.
        start: initial weights, of shape (dimension,).
        noise: ξ of every step, of shape (steps, dimension).
        device: where to compute.

    Returns:
        Arrays of shape (runs,), by column of the records; see `run`.
    """
    column = {
        name: torch.tensor(runs[name].to_numpy(), dtype=torch.float64, device=device)
        for name in ("beta1", "beta2", "lr", *_PLAIN)
    }
    pairs, inverse = np.unique(runs[["beta1", "beta2"]].to_numpy(), axis=0, return_inverse=True)
    pair = torch.from_numpy(inverse.ravel()).to(device)
    theta = start[:, None].repeat(1, len(runs))
    average, square = torch.zeros_like(theta), torch.zeros_like(theta)
    param_max = theta.abs().amax(0)
    param_start = param_max.clone()
    largest, late = torch.full_like(param_max, -1.0), torch.zeros_like(param_max)
    ratios = {law: torch.zeros_like(param_max) for law in _LAWS}
    diverged_at = torch.full((len(runs),), -1, dtype=torch.int32, device=device)
    decay_factor = 1 - column["lr"] * column["weight_decay"]
    block = max(1, _TABLE // len(pairs))
    for n in range(config.steps):
        if n % block == 0:
            rows = np.arange(n, min(n + block, config.steps))[:, None]
            bounds = {
                law: torch.from_numpy(update_bound(beta1=pairs[:, 0], beta2=pairs[:, 1], step=rows, law=law)).to(device)
                for law in _LAWS
            }
        gradient = hessian_product(theta - column["minimum"], condition=config.condition)
        gradient.add_(noise[n][:, None] * column["noise"])
        update = kadam_update_(
            gradient, [average], [square], n + 1.0, stages=[(column["beta1"], column["beta2"])], eps=0.0
        )
        theta.mul_(decay_factor).sub_(update * column["lr"])
        size, params = update.abs_().amax(0), theta.abs().amax(0)
        diverged_at = torch.where((diverged_at < 0) & ~(size + params).isfinite(), n, diverged_at)
        # Comparisons with NaN are false, so a run that is no longer finite keeps its last record.
        largest = torch.where(size > largest, size, largest)
        param_max = torch.where(params > param_max, params, param_max)
        for law, ratio in ratios.items():
            now = size / bounds[law][n % block][pair]
            ratios[law] = torch.where(now > ratio, now, ratio)
        if n >= config.steps // 2:  # the exact law is the last one
            late = torch.where(now > late, now, late)
    records = {
        "step": torch.full_like(diverged_at, config.steps - 1),
        "update_max": largest.float(),
        # A run is nearly always within its bounds, so the excess is 0 and takes no space in the file.
        "excess_paper": (ratios["paper"] - 1).clamp(min=0),
        "excess_exact": (ratios["exact"] - 1).clamp(min=0),
        "ratio_late": late.float(),
        "param_max": torch.where(column["weight_decay"] > 0, param_max, torch.nan),
        "param_start": param_start,
        "diverged_at": diverged_at,
    }
    return {name: values.cpu().numpy() for name, values in records.items()}


def run(
    runs: pd.DataFrame, config: Config, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run Adam on the quadratic for the given runs.

    Args:
        runs: rows of the table that `grid` returns.
        config: section ``quadratic`` of the configuration.
        device: where to compute.
        progress: called with the number of runs finished since the last call.

    Returns:
        ``(table, details)``. ``details`` goes into the provenance and lists no data. ``table`` has one row per run: the row of
        ``runs`` and

        - ``step``: index n of the last step;
        - ``update_max``: maximum over n of ‖u_n‖_∞, in float32;
        - ``excess_paper``, ``excess_exact``: maximum over n of ‖u_n‖_∞ divided by its bound, minus 1, by law; 0 if no update
          exceeds its bound;
        - ``ratio_late``: maximum of ‖u_n‖_∞ over the exact bound in the second half of the steps, in float32. In the first step
          update and bound are both 1, and in the next few the averages still hold nearly equal gradients;
        - ``param_max``: maximum of ‖θ_n‖_∞ over all n, with the start; NaN without weight decay;
        - ``param_start``: ‖θ_0‖_∞;
        - ``diverged_at``: first step at which the update or the weights were not finite, −1 if none.
    """
    generator = torch.Generator().manual_seed(config.seed)
    start = torch.randn(config.dimension, dtype=torch.float64, generator=generator).to(device)
    noise = torch.randn((config.steps, config.dimension), dtype=torch.float64, generator=generator).to(device)
    chunk = CPU_CHUNK if device.type == "cpu" else len(runs)
    tables = []
    for first in range(0, len(runs), chunk):
        rows = runs.iloc[first : first + chunk]
        full = rows.iloc[np.minimum(np.arange(-(-len(rows) // _FULL) * _FULL), len(rows) - 1)]
        records = _run_chunk(full, config, start, noise, device)
        tables.append(rows.assign(**{name: values[: len(rows)] for name, values in records.items()}))
        progress(len(rows))
    return pd.concat(tables, ignore_index=True), {"data": {}}


def cost(runs: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work in these runs and its unit, for the progress line; here runs."""
    return len(runs), "run"
