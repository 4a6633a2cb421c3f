"""Is the exact bound attained, and never exceeded? Adam's recursion on chosen gradients (theory: `ctadam.theory.stability`).

Each draw is a random pair of betas and a step n; one run of it sees the gradients that should attain the bound at n,
another sees random ones. No model is involved: the claim is about any sequence of gradients. Further draws lie between the
two laws, where the paper's says unstable and the exact one bounded, and see the worst gradients only.

Other draws (kind ``stages``) send gradients through k-Adam with one unstable stage, once in each position. The bound of a stage
holds for any input, so the last stage alone should decide. Gradients that stop are what lets an unstable stage grow: its input
then decays faster than the root of its second average.
"""

import numpy as np
import pandas as pd
import torch

from ctadam.experiments import with_columns
from ctadam.optim import kadam_update_
from ctadam.theory.stability import boundary_beta2, update_bound

#: Powers of ten that a run's gradients and second moments may span; beyond it float64 itself would end the argument.
_DECADES = 130


def points(parameters):
    """Two runs per draw, one for each draw between the laws, and those through k stages (`_stage_points`).

    Columns: ``run``, ``draw``, ``kind`` (``worst``, ``random``, ``wedge`` or ``stages``), ``beta1``, ``beta2``, ``step``.

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
    table = pd.concat([table, _stage_points(parameters, first=count + more)], ignore_index=True)
    table.insert(0, "run", range(len(table)))
    return table


def _stage_points(parameters, first):
    """k-Adam with one unstable stage: a run for each of its k positions, and each of two kinds of gradients.

    The unstable pair has a rate ln(γ/√β) between 0.005 and 0.03; the others are near the usual one, and forget a gradient
    faster than it. Columns besides: ``k``; ``place`` of the unstable stage, counted from 1; ``gammas``, ``betas``: the pairs of
    all stages; ``silent``: the step from which gradients are 0, −1 if never. ``beta1``, ``beta2`` are the last stage's.
    """
    rng = np.random.default_rng([parameters["seed"], 1])
    rows = []
    for draw in range(first, first + parameters["stages"]):
        k = int(rng.integers(2, 5))
        gamma = 1 - 10 ** rng.uniform(-2.5, -1)
        unstable = gamma, gamma**2 * np.exp(-2 * rng.uniform(0.005, 0.03))
        stable = list(zip(rng.uniform(0.5, 0.9, k - 1), 1 - 10 ** rng.uniform(-4, -2, k - 1), strict=True))
        longest = int(min(parameters["steps"], -_DECADES / (np.log10(unstable[1]) / 2)))
        step = int(rng.integers(longest // 2, longest))
        for place in range(1, k + 1):
            gammas, betas = zip(*stable[: place - 1], unstable, *stable[place - 1 :], strict=True)
            row = {"draw": draw, "kind": "stages", "beta1": gammas[-1], "beta2": betas[-1], "step": step, "k": k}
            row |= {"place": place, "gammas": list(map(float, gammas)), "betas": list(map(float, betas))}
            rows += [row | {"silent": longest // 10}, row | {"silent": -1}]
    return pd.DataFrame(rows)


def _through_stages(points, parameters, device, progress):
    """The points of kind ``stages``."""
    tables = []
    for k, group in points.groupby("k"):
        k = int(k)
        pairs = [torch.tensor(np.stack(list(group[name])), device=device).T for name in ("gammas", "betas")]
        last = torch.tensor(group["step"].to_numpy(), device=device)
        silent = torch.tensor(group["silent"].to_numpy(np.int64), device=device)
        before = (last + silent.clamp(min=0)) // 2
        steps = int(group["step"].max()) + 1
        # Pair after pair, so that a run's do not depend on how long the runs beside it are.
        noise = [
            np.random.default_rng([parameters["seed"], int(run)]).normal(size=(steps, 2)).T for run in group["run"]
        ]
        noise = torch.from_numpy(np.stack(noise, -1))
        where = {"beta1": group["beta1"].to_numpy(), "beta2": group["beta2"].to_numpy()}
        bounds = update_bound(**where, step=np.arange(steps)[:, None], law="exact")
        averages, squares = torch.zeros((2, k, len(group)), dtype=torch.float64, device=device)
        update, earlier, ratio = torch.zeros((3, len(group)), dtype=torch.float64, device=device)
        for n in range(steps):
            normal, scale = noise[:, n].to(device)
            gradient = normal * (3 * scale).exp()
            gradient = torch.where((silent >= 0) & (n >= silent), torch.zeros_like(gradient), gradient)
            found = kadam_update_(
                gradient, averages, squares, n + 1.0, stages=list(zip(*pairs, strict=True)), eps=0.0
            ).abs()
            now = torch.where(n <= last, found / torch.from_numpy(bounds[n]).to(device), torch.zeros_like(found))
            ratio = torch.maximum(ratio, now)
            update, earlier = torch.where(n == last, found, update), torch.where(n == before, found, earlier)
            progress(1)
        tables.append(
            group.assign(
                update=update.cpu().numpy(), before=before.cpu().numpy(), update_before=earlier.cpu().numpy(),
                ratio=ratio.cpu().numpy(),
            )
        )  # fmt: skip
    return pd.concat(tables)


def run(points, parameters, *, device, progress):
    """Adam's recursion (ε = 0, float64) on all points at once.

    Returns:
        ``(table, details)``: the points with ``update``, |u_n| at their own step n; those of kind ``stages`` also with
        ``update_before``, the same at the step ``before``, halfway between n and the last gradient, and ``ratio``, the largest
        of |u_j| over the last stage's exact bound at j, for all j ≤ n.
    """
    several = points["kind"] == "stages"
    tables = []
    if not several.all():
        tables.append(_one_stage(points[~several], parameters, device, progress))
    if several.any():
        tables.append(_through_stages(points[several], parameters, device, progress))
    table = pd.concat(tables).sort_index(kind="stable")
    return with_columns(table, ("update", "before", "update_before", "ratio")), {"data": {}}


def _one_stage(points, parameters, device, progress):
    """The points of all other kinds."""
    beta1, beta2 = (torch.tensor(points[name].to_numpy(), device=device) for name in ("beta1", "beta2"))
    last = torch.tensor(points["step"].to_numpy(), device=device)
    worst = torch.tensor((points["kind"] != "random").to_numpy(), device=device)
    # (β/γ)^j, scaled so that the largest of j ≤ n is 1.
    slope = beta2.log() - beta1.log()
    offset = torch.where(slope > 0, last * slope, torch.zeros_like(slope))
    # Drawn for all runs, whichever of them are points here: a run does not depend on the runs beside it.
    count = 2 * parameters["draws"] + parameters["wedge"]
    places = torch.tensor(points["run"].to_numpy())
    generator = torch.Generator().manual_seed(parameters["seed"])
    average, square, found = (torch.zeros_like(beta1) for _ in range(3))
    for n in range(int(points["step"].max()) + 1):
        noise, scale = torch.randn((2, count), dtype=torch.float64, generator=generator)[:, places].to(device)
        # A normal variable times a log-normal one: gradients of very different sizes in one run.
        gradient = torch.where(worst, (n * slope - offset).exp(), noise * (3 * scale).exp())
        # Once a run is past its own step it no longer matters; a zero keeps it from overflowing.
        gradient = torch.where(n <= last, gradient, torch.zeros_like(gradient))
        update = kadam_update_(gradient, [average], [square], n + 1.0, stages=[(beta1, beta2)], eps=0.0)
        found = torch.where(last == n, update.abs(), found)
        progress(1)
    return points.assign(update=found.cpu().numpy())


def cost(points):
    """Units of work in these points, for the progress line: steps of the recursion."""
    several = points["kind"] == "stages"
    groups = [points[~several], *(group for _, group in points[several].groupby("k"))]
    return sum(int(group["step"].max()) + 1 for group in groups if len(group)), "step"
