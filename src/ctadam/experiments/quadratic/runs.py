"""Does the stable region depend on learning rate, noise or weight decay? Adam on a convex quadratic, all over the square.

The loss is ½ θᵀHθ in a few dimensions, H with log-spaced eigenvalues from 1 down to 1/condition and eigenvectors that are
not the axes; gradients are Hθ + σξ with standard normal ξ. Every pair of an even grid over [0, 1)² is run with every
setting: learning rates alone, then noise levels σ and weight decays λ at one learning rate. Start and noise are the same
for all runs, ε = 0, float64.

Thousands of runs are one tensor, and a run leaves one row. The bounds of `ctadam.theory.stability` are therefore held
against the updates here, while both are at hand at every step, and not later from records.
"""

import numpy as np
import pandas as pd
import torch

from ctadam.optim import kadam_update_
from ctadam.theory.stability import update_bound

#: Runs at a time on a CPU: what they touch in a step then fits the cache of a core. The result does not depend on it.
CPU_CHUNK = 8192
#: Chunks are filled up to a multiple of this many runs. The last few columns of a tensor, which fill no vector register, may
#: be rounded otherwise than the rest, and a run would depend on its place among the others.
_FULL = 64
#: Bounds are computed for so many numbers at a time.
_TABLE = 2**22


def points(parameters):
    """The table of runs, pair after pair: ``run``, ``sweep`` (``lr``, ``noise`` or ``weight_decay``: which of them is
    varied), ``beta1``, ``beta2``, ``lr``, ``noise``, ``weight_decay``."""
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


def hessian_product(theta, *, condition):
    """Hθ for θ of shape (dimension, ...): H is diagonal between two reflections, so all its entries differ from 0."""
    dimension = len(theta)
    shape = (-1, *[1] * (theta.dim() - 1))
    eigenvalues = torch.logspace(0, -np.log10(condition), dimension, dtype=theta.dtype, device=theta.device).view(shape)

    def reflect(x):
        # Row by row, an order of its own that no number of runs changes (and faster than torch's sum here).
        return x - sum(x) * (2 / dimension)

    return reflect(eigenvalues * reflect(theta))


def _run_chunk(points, parameters, start, noise, device):
    """The outcomes of some runs: a dict of arrays, an entry a run."""
    steps = parameters["steps"]
    column = {
        name: torch.tensor(points[name].to_numpy(), dtype=torch.float64, device=device)
        for name in ("beta1", "beta2", "lr", "noise", "weight_decay")
    }
    pairs, pair = np.unique(points[["beta1", "beta2"]].to_numpy(), axis=0, return_inverse=True)
    pair = torch.from_numpy(pair.ravel()).to(device)
    theta = start[:, None].repeat(1, len(points))
    average, square = torch.zeros_like(theta), torch.zeros_like(theta)
    largest = torch.full_like(column["lr"], -1.0)
    ratios = {law: torch.zeros_like(largest) for law in ("paper", "exact")}
    late, when = torch.zeros_like(largest), torch.zeros(len(points), dtype=torch.int32, device=device)
    diverged_at = torch.full_like(when, -1)
    keep = 1 - column["lr"] * column["weight_decay"]
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
        theta.mul_(keep).sub_(update * column["lr"])
        size = update.abs_().amax(0)
        diverged_at = torch.where((diverged_at < 0) & ~(size + theta.abs().amax(0)).isfinite(), n, diverged_at)
        # Comparisons with NaN are false: a run that is no longer finite keeps its last record.
        larger = size > largest
        largest, when = torch.where(larger, size, largest), torch.where(larger, n, when)
        for law, ratio in ratios.items():
            now = size / bounds[law][n % block][pair]
            ratios[law] = torch.where(now > ratio, now, ratio)
        if n >= steps // 2:
            late = torch.where(now > late, now, late)
    loss = 0.5 * sum(theta * hessian_product(theta, condition=parameters["condition"]))
    found = {
        "step": torch.full_like(when, steps - 1), "update_max": largest, "update_step": when,
        "ratio_paper": ratios["paper"], "ratio_exact": ratios["exact"], "ratio_late": late,
        "param_max": theta.abs().amax(0), "loss": loss, "diverged_at": diverged_at,
    }  # fmt: skip
    return {name: values.cpu().numpy() for name, values in found.items()}


def run(points, parameters, *, device, progress):
    """Adam on the quadratic for all points, some thousands at a time.

    Returns:
        ``(table, details)``: the points with

        - ``step``: the last step n;
        - ``update_max``: max over n of ‖u_n‖_∞, and ``update_step``, the n at which it came;
        - ``ratio_paper``, ``ratio_exact``: max over n of ‖u_n‖_∞ over its bound by either law (0 where there is none);
          ``ratio_late``: ``ratio_exact`` over the second half of the steps: at the first step update and bound are
          both 1, and the averages of the next few hold nearly equal gradients;
        - ``param_max``, ``loss``: ‖θ‖_∞ and ½ θᵀHθ after the last step;
        - ``diverged_at``: first step at which something was not finite, or −1.
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
        found = _run_chunk(full, parameters, start, noise, device)
        tables.append(rows.assign(**{name: values[: len(rows)] for name, values in found.items()}))
        progress(len(rows))
    return pd.concat(tables, ignore_index=True), {"data": {}}


def cost(points):
    """Units of work in these points, for the progress line: runs."""
    return len(points), "run"
