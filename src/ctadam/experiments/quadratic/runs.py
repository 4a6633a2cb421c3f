"""Adam on a convex quadratic: whether the stable region depends on learning rate, noise or weight decay.

The loss is ½ θᵀHθ in a few dimensions. H has log-spaced eigenvalues from 1 down to 1/condition, and its eigenvectors are not
the axes. Gradients are Hθ + σξ with standard normal ξ. Every pair of an even grid over [0, 1)² is run with every setting:
learning rates alone, then noise levels σ and weight decays λ at one learning rate. All runs share the initial weights and
the noise, with ε = 0 and float64.

Thousands of runs form one tensor, and each run is recorded as one row. Updates are therefore compared with the bounds of
`ctadam.theory.stability` at every step here, and not later in the measurements.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ctadam.optim import kadam_update_
from ctadam.theory.stability import Law, update_bound

#: Largest number of runs per chunk on a CPU, so that the data of a step fit the cache of a core. It does not affect results.
CPU_CHUNK = 8192
#: Chunks are padded to a multiple of this many runs. The last columns of a tensor that do not fill a vector register can
#: round differently, so without padding a run would depend on its position in the chunk.
_FULL = 64
#: Largest number of bounds computed at a time, which limits memory.
_TABLE = 2**22


def points(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs.

    Args:
        parameters: section ``quadratic`` of the configuration.

    Returns:
        DataFrame with one row per run, ordered by pair, and the columns

        - ``run``;
        - ``sweep``: the setting that is varied, ``"lr"``, ``"noise"`` or ``"weight_decay"``;
        - ``beta1``, ``beta2``: the paper's γ and β;
        - ``lr``, ``noise`` (σ), ``weight_decay``.
    """
    settings = [{"sweep": "lr", "lr": lr, "noise": 0.0, "weight_decay": 0.0} for lr in parameters["lrs"]]
    for sweep in ("noise", "weight_decay"):
        base = {"sweep": sweep, "lr": parameters["lr"], "noise": 0.0, "weight_decay": 0.0}
        settings += [base | {sweep: float(value)} for value in parameters[f"{sweep}s"]]
    axis = np.arange(parameters["grid"]) / parameters["grid"]
    beta1, beta2 = (values.ravel() for values in np.meshgrid(axis, axis, indexing="ij"))
    table = pd.DataFrame({"beta1": beta1, "beta2": beta2}).merge(pd.DataFrame(settings), how="cross")
    table = table[["sweep", "beta1", "beta2", "lr", "noise", "weight_decay"]]
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
    points: pd.DataFrame, parameters: Mapping[str, Any], start: Tensor, noise: Tensor, device: torch.device
) -> dict[str, np.ndarray]:
    """Execute a chunk of runs and return their records.

    Args:
        points: rows of the table of runs.
        parameters: section ``quadratic`` of the configuration.
        start: initial weights, of shape (dimension,).
        noise: ξ of every step, of shape (steps, dimension).
        device: where to compute.

    Returns:
        Arrays of shape (runs,), by column of the records; see `run`.
    """
    steps = parameters["steps"]
    column = {
        name: torch.tensor(points[name].to_numpy(), dtype=torch.float64, device=device)
        for name in ("beta1", "beta2", "lr", "noise", "weight_decay")
    }
    pairs, inverse = np.unique(points[["beta1", "beta2"]].to_numpy(), axis=0, return_inverse=True)
    pair = torch.from_numpy(inverse.ravel()).to(device)
    theta = start[:, None].repeat(1, len(points))
    average, square = torch.zeros_like(theta), torch.zeros_like(theta)
    largest = torch.full_like(column["lr"], -1.0)
    laws: tuple[Law, ...] = ("paper", "exact")
    ratios = {law: torch.zeros_like(largest) for law in laws}
    late, when = torch.zeros_like(largest), torch.zeros(len(points), dtype=torch.int32, device=device)
    diverged_at = torch.full_like(when, -1)
    decay_factor = 1 - column["lr"] * column["weight_decay"]
    block = max(1, _TABLE // len(pairs))
    for n in range(steps):
        if n % block == 0:
            rows = np.arange(n, min(n + block, steps))[:, None]
            bounds = {
                law: torch.from_numpy(update_bound(beta1=pairs[:, 0], beta2=pairs[:, 1], step=rows, law=law)).to(device)
                for law in ratios
            }
        gradient = hessian_product(theta, condition=parameters["condition"]).add_(noise[n][:, None] * column["noise"])
        update = kadam_update_(
            gradient, [average], [square], n + 1.0, stages=[(column["beta1"], column["beta2"])], eps=0.0
        )
        theta.mul_(decay_factor).sub_(update * column["lr"])
        size = update.abs_().amax(0)
        diverged_at = torch.where((diverged_at < 0) & ~(size + theta.abs().amax(0)).isfinite(), n, diverged_at)
        # Comparisons with NaN are false, so a run that is no longer finite keeps its last record.
        larger = size > largest
        largest, when = torch.where(larger, size, largest), torch.where(larger, n, when)
        for law, ratio in ratios.items():
            now = size / bounds[law][n % block][pair]
            ratios[law] = torch.where(now > ratio, now, ratio)
        if n >= steps // 2:
            late = torch.where(now > late, now, late)
    loss: Any = 0.5 * sum(theta * hessian_product(theta, condition=parameters["condition"]))
    records: dict[str, Tensor] = {
        "step": torch.full_like(when, steps - 1), "update_max": largest, "update_step": when,
        "ratio_paper": ratios["paper"], "ratio_exact": ratios["exact"], "ratio_late": late,
        "param_max": theta.abs().amax(0), "loss": loss, "diverged_at": diverged_at,
    }  # fmt: skip
    return {name: values.cpu().numpy() for name, values in records.items()}


def run(
    points: pd.DataFrame, parameters: Mapping[str, Any], *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run Adam on the quadratic for the given runs.

    Args:
        points: rows of the table that `points` returns.
        parameters: section ``quadratic`` of the configuration.
        device: where to compute.
        progress: called with the number of runs finished since the last call.

    Returns:
        ``(table, details)``. ``details`` goes into the provenance and lists no data. ``table`` has one row per run: the row of
        ``points`` and

        - ``step``: index n of the last step;
        - ``update_max``, ``update_step``: maximum over n of ‖u_n‖_∞, and its n;
        - ``ratio_paper``, ``ratio_exact``: maximum over n of ‖u_n‖_∞ divided by its bound, by law; 0 if there is no bound;
        - ``ratio_late``: ``ratio_exact`` over the second half of the steps. In the first step update and bound are both 1,
          and in the next few the averages still hold nearly equal gradients;
        - ``param_max``, ``loss``: ‖θ‖_∞ and ½ θᵀHθ after the last step;
        - ``diverged_at``: first step at which the update or the weights were not finite, −1 if none.
    """
    generator = torch.Generator().manual_seed(parameters["seed"])
    start = torch.randn(parameters["dimension"], dtype=torch.float64, generator=generator).to(device)
    noise = torch.randn((parameters["steps"], parameters["dimension"]), dtype=torch.float64, generator=generator).to(
        device
    )
    chunk = CPU_CHUNK if device.type == "cpu" else len(points)
    tables = []
    for first in range(0, len(points), chunk):
        rows = points.iloc[first : first + chunk]
        full = rows.iloc[np.minimum(np.arange(-(-len(rows) // _FULL) * _FULL), len(rows) - 1)]
        records = _run_chunk(full, parameters, start, noise, device)
        tables.append(rows.assign(**{name: values[: len(rows)] for name, values in records.items()}))
        progress(len(rows))
    return pd.concat(tables, ignore_index=True), {"data": {}}


def cost(points: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work in these runs and its unit, for the progress line; here runs."""
    return len(points), "run"
