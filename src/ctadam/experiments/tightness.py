"""Is the exact bound attained, and never exceeded? Adam's recursion on chosen gradients (theory: `ctadam.theory.stability`).

Each draw is a random pair of betas and a step n; one run of it sees the gradients that should attain the bound at n,
another sees random ones. No model is involved: the claim is about any sequence of gradients. Further draws lie between the
two laws, where the paper's says unstable and the exact one bounded, and see the worst gradients only.
"""

import numpy as np
import pandas as pd
import torch

from ctadam.optim import kadam_update_
from ctadam.theory.stability import boundary_beta2

#: Powers of ten that a run's gradients and second moments may span; beyond it float64 itself would end the argument.
_DECADES = 130


def points(parameters):
    """Two runs per draw, and one for each draw between the laws.

    Columns: ``run``, ``draw``, ``kind`` (``worst``, ``random`` or ``wedge``), ``beta1``, ``beta2``, ``step``.

    Half of the pairs are uniform over the square, half have 1 − β and 1 − γ log-uniform between 1e-4 and 1; in the wedge
    γ² < β < γ/(2−γ) this goes for γ, and β is uniform between its ends. The step is log-uniform up to the configured
    number, less where β^n or (β/γ)^n would leave float64.
    """
    rng = np.random.default_rng(parameters["seed"])
    count = parameters["draws"]
    near_one = 1 - 10 ** rng.uniform(-4, 0, (2, count))
    gamma, beta = np.where(rng.random(count) < 0.5, rng.uniform(1e-3, 1, (2, count)), near_one).clip(1e-3, 1 - 1e-4)

    def steps(gamma, beta):
        decades = np.maximum(-np.log10(beta) / 2, np.abs(np.log10(beta / gamma)))
        longest = np.minimum(parameters["steps"], _DECADES / np.maximum(decades, 1e-300))
        return np.floor(longest ** rng.random(len(gamma))).astype(np.int64) - 1

    draws = pd.DataFrame({"draw": range(count), "beta1": gamma, "beta2": beta, "step": steps(gamma, beta)})
    table = draws.merge(pd.DataFrame({"kind": ["worst", "random"]}), how="cross")
    more = parameters["wedge"]
    gamma = np.where(rng.random(more) < 0.5, rng.uniform(1e-3, 1, more), 1 - 10 ** rng.uniform(-4, 0, more))
    gamma = gamma.clip(1e-3, 1 - 1e-4)
    low, high = (boundary_beta2(beta1=gamma, law=law) for law in ("exact", "paper"))
    beta = low + (high - low) * rng.uniform(0.01, 0.99, more)
    wedge = {
        "draw": range(count, count + more),
        "kind": "wedge",
        "beta1": gamma,
        "beta2": beta,
        "step": steps(gamma, beta),
    }
    table = pd.concat([table, pd.DataFrame(wedge)]).sort_values("step", kind="stable", ignore_index=True)
    table.insert(0, "run", range(len(table)))
    return table


def run(points, parameters, *, device, progress):
    """Adam's recursion (ε = 0, float64) on all points at once.

    Returns:
        ``(table, details)``: the points with ``update``, |u_n| at their own step n.
    """
    beta1, beta2 = (torch.tensor(points[name].to_numpy(), device=device) for name in ("beta1", "beta2"))
    last = torch.tensor(points["step"].to_numpy(), device=device)
    worst = torch.tensor((points["kind"] != "random").to_numpy(), device=device)
    # (β/γ)^j, scaled so that the largest of j ≤ n is 1.
    slope = beta2.log() - beta1.log()
    offset = torch.where(slope > 0, last * slope, torch.zeros_like(slope))
    generator = torch.Generator().manual_seed(parameters["seed"])
    average, square, found = (torch.zeros_like(beta1) for _ in range(3))
    for n in range(int(points["step"].max()) + 1):
        noise, scale = torch.randn((2, len(points)), dtype=torch.float64, generator=generator).to(device)
        # A normal variable times a log-normal one: gradients of very different sizes in one run.
        gradient = torch.where(worst, (n * slope - offset).exp(), noise * (3 * scale).exp())
        # Once a run is past its own step it no longer matters; a zero keeps it from overflowing.
        gradient = torch.where(n <= last, gradient, torch.zeros_like(gradient))
        update = kadam_update_(gradient, [average], [square], n + 1.0, stages=[(beta1, beta2)], eps=0.0)
        found = torch.where(last == n, update.abs(), found)
        progress(1)
    return points.assign(update=found.cpu().numpy()), {"data": {}}


def cost(points):
    """Units of work in these points, for the progress line: steps of the recursion."""
    return int(points["step"].max()) + 1, "step"
