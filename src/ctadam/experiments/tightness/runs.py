"""Run Adam's recursion on chosen gradients, to test whether the exact bound is attained and never exceeded.

No model is trained, because the bound holds for any sequence of gradients (theory: `ctadam.theory.stability`). Each draw is a
random pair of betas and a step n. The column ``kind`` says which gradients a run sees:

``worst``
    the gradients that should attain the bound at step n;
``random``
    random gradients, for the same draws as ``worst``;
``wedge``
    worst-case gradients for further draws between the two laws, where the pair is unstable by the paper's law and bounded by
    the exact one;
``rmsprop``
    worst-case gradients for γ = 0, which vanish before step n. The step is so late that the bound equals its limit 1/√(1−β);
``sign``
    random gradients for γ = β = 0, which is sign descent;
``kadam``
    gradients for k-Adam with one unstable stage, with one run per position of that stage. The bound of a stage holds for any
    input, so the last stage alone should decide. Gradients that stop let an unstable stage grow, because its input then decays
    faster than the square root of its second moment.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctadam.experiments import with_columns
from ctadam.experiments.tightness.config import Config
from ctadam.optim import kadam_update_
from ctadam.theory.stability import boundary_beta2, update_bound

#: Powers of ten that the gradients and second moments of a run may span. A wider range would exceed float64.
_DECADES = 130
#: βⁿ⁺¹ at the step of an ``rmsprop`` run is at most this, so that its bound is within half of it from its limit.
_REMEMBERED = 1e-10


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    Half of the pairs are uniform over the unit square. For the other half, 1 − β and 1 − γ are log-uniform between 1e-4 and 1.
    In the wedge γ² < β < γ/(2−γ), γ is drawn in the same way and β is uniform between its ends. The step is log-uniform up to
    the configured number, or up to a smaller one where β^n or (β/γ)^n would leave float64. For RMSprop, 1 − β is log-uniform
    from the smallest value whose bound reaches its limit within the configured number of steps.

    Args:
        config: section ``tightness`` of the configuration.

    Returns:
        DataFrame with two runs per draw (``worst`` and ``random``), one per draw of the wedge and of the edges, and those of
        `_kadam_grid`. Its columns are ``run``; ``draw``; ``kind``, see the module; ``beta1`` (paper's γ); ``beta2`` (paper's
        β); ``step``, the step index n; and those that `_kadam_grid` adds.
    """
    rng = np.random.default_rng(config.seed)
    count, more, edges = config.draws, config.wedge_draws, config.edge_draws
    near_one = 1 - 10 ** rng.uniform(-4, 0, (2, count))
    gamma, beta = np.where(rng.random(count) < 0.5, rng.uniform(1e-3, 1, (2, count)), near_one).clip(1e-3, 1 - 1e-4)

    def steps(gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
        decades = np.maximum(-np.log10(beta) / 2, np.abs(np.log10(beta / gamma)))
        longest = np.minimum(config.steps, _DECADES / np.maximum(decades, 1e-300))
        return np.floor(longest ** rng.random(len(gamma))).astype(np.int64) - 1

    draws = pd.DataFrame({"draw": range(count), "beta1": gamma, "beta2": beta, "step": steps(gamma, beta)})
    draws = draws.merge(pd.DataFrame({"kind": ["worst", "random"]}), how="cross")
    gamma = np.where(rng.random(more) < 0.5, rng.uniform(1e-3, 1, more), 1 - 10 ** rng.uniform(-4, 0, more))
    gamma = gamma.clip(1e-3, 1 - 1e-4)
    low, high = (boundary_beta2(beta1=gamma, law=law) for law in ("exact", "paper"))
    beta = low + (high - low) * rng.uniform(0.01, 0.99, more)
    wedge = pd.DataFrame({"kind": "wedge", "beta1": gamma, "beta2": beta, "step": steps(gamma, beta)})
    half = edges // 2
    beta = 1 - 10 ** (rng.uniform(0, 1, half) * np.log10(-np.expm1(np.log(_REMEMBERED) / config.steps)))
    beta = beta.clip(1e-3)
    last = np.ceil(np.log(_REMEMBERED) / np.log(beta)).astype(np.int64).clip(max=config.steps) - 1
    rmsprop = pd.DataFrame({"kind": "rmsprop", "beta1": 0.0, "beta2": beta, "step": last})
    last = np.floor(config.steps ** rng.random(edges - half)).astype(np.int64) - 1
    sign = pd.DataFrame({"kind": "sign", "beta1": 0.0, "beta2": 0.0, "step": last})
    others = pd.concat([wedge, rmsprop, sign], ignore_index=True)
    others = others.assign(draw=range(count, count + len(others)))
    table = pd.concat([draws, others], ignore_index=True).sort_values("step", kind="stable", ignore_index=True)
    table = pd.concat([table, _kadam_grid(config, first=count + len(others))], ignore_index=True)
    table.insert(0, "run", range(len(table)))
    return table


def _kadam_grid(config: Config, first: int) -> pd.DataFrame:
    """Return the runs of kind ``kadam``: k-Adam with one unstable stage.

    Each draw has two runs for each of the k positions of the unstable stage: one whose gradients stop and one whose gradients
    do not. The unstable pair has a growth rate ln(γ/√β) between 0.005 and 0.03 per step. The other pairs are close to the
    default one and forget a gradient faster than the unstable pair does.

    Args:
        config: section ``tightness`` of the configuration.
        first: number of the first draw.

    Returns:
        DataFrame with one row per run. ``beta1`` and ``beta2`` are those of the last stage. Additional columns:

        - ``k``: number of stages;
        - ``place``: position of the unstable stage, counted from 1;
        - ``gammas``, ``betas``: lists of γ and β of all stages;
        - ``silent``: first step whose gradient is 0, −1 if none.
    """
    rng = np.random.default_rng([config.seed, 1])
    rows = []
    for draw in range(first, first + config.kadam_draws):
        k = int(rng.integers(2, 5))
        gamma = 1 - 10 ** rng.uniform(-2.5, -1)
        unstable = gamma, gamma**2 * np.exp(-2 * rng.uniform(0.005, 0.03))
        stable = list(zip(rng.uniform(0.5, 0.9, k - 1), 1 - 10 ** rng.uniform(-4, -2, k - 1), strict=True))
        longest = int(min(config.steps, -_DECADES / (np.log10(unstable[1]) / 2)))
        step = int(rng.integers(longest // 2, longest))
        for place in range(1, k + 1):
            gammas, betas = zip(*stable[: place - 1], unstable, *stable[place - 1 :], strict=True)
            row = {"draw": draw, "kind": "kadam", "beta1": gammas[-1], "beta2": betas[-1], "step": step, "k": k}
            row |= {"place": place, "gammas": list(map(float, gammas)), "betas": list(map(float, betas))}
            rows += [row | {"silent": longest // 10}, row | {"silent": -1}]
    return pd.DataFrame(rows)


def _through_stages(
    runs: pd.DataFrame, config: Config, device: torch.device, progress: Callable[[int], object]
) -> pd.DataFrame:
    """Return the results of the runs of kind ``kadam``, see `run`."""
    tables = []
    k: Any
    for k, group in runs.groupby("k"):
        k = int(k)
        pairs = [torch.tensor(np.stack(list(group[name])), device=device).T for name in ("gammas", "betas")]
        last = torch.tensor(group["step"].to_numpy(), device=device)
        silent = torch.tensor(group["silent"].to_numpy(np.int64), device=device)
        before = (last + silent.clamp(min=0)) // 2
        steps = int(group["step"].max()) + 1
        # Drawn in pairs step by step, so that a run does not depend on the length of the other runs.
        draws = [np.random.default_rng([config.seed, int(run)]).normal(size=(steps, 2)).T for run in group["run"]]
        noise = torch.from_numpy(np.stack(draws, -1))
        last_pair: dict[str, Any] = {"beta1": group["beta1"].to_numpy(), "beta2": group["beta2"].to_numpy()}
        bounds = update_bound(**last_pair, step=np.arange(steps)[:, None], law="exact")
        averages, squares = torch.zeros((2, k, len(group)), dtype=torch.float64, device=device)
        update, earlier, ratio = torch.zeros((3, len(group)), dtype=torch.float64, device=device)
        for n in range(steps):
            normal, scale = noise[:, n].to(device)
            gradient = normal * (3 * scale).exp()
            gradient = torch.where((silent >= 0) & (silent <= n), torch.zeros_like(gradient), gradient)
            size = kadam_update_(
                gradient, averages, squares, n + 1.0, stages=list(zip(*pairs, strict=True)), eps=0.0
            ).abs()
            now = torch.where(last >= n, size / torch.from_numpy(bounds[n]).to(device), torch.zeros_like(size))
            ratio = torch.maximum(ratio, now)
            update, earlier = torch.where(last == n, size, update), torch.where(before == n, size, earlier)
            progress(1)
        tables.append(
            group.assign(
                update=update.cpu().numpy(),
                before=before.cpu().numpy(),
                update_before=earlier.cpu().numpy(),
                ratio=ratio.cpu().numpy(),
            )
        )
    return pd.concat(tables)


def run(
    runs: pd.DataFrame, config: Config, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run Adam's recursion (ε = 0, float64) for all rows at once.

    Args:
        runs: rows of the table that `grid` returns.
        config: section ``tightness`` of the configuration.
        device: where to compute.
        progress: called with the number of steps of the recursion since the last call.

    Returns:
        ``(table, details)``. ``table`` has the columns of ``runs`` and

        - ``update``: |u_n| at the run's own step n.

        The other columns are NaN except for the kind ``kadam``:

        - ``before``: step halfway between n and the last gradient (halfway between 0 and n if the gradients do not stop);
        - ``update_before``: |u| at the step ``before``;
        - ``ratio``: largest |u_j| over the exact bound of the last stage at j, for all j ≤ n.

        ``details`` belongs in the provenance; no data are read.
    """
    several = runs["kind"] == "kadam"
    tables = []
    if not several.all():
        tables.append(_one_stage(runs[~several], config, device, progress))
    if several.any():
        tables.append(_through_stages(runs[several], config, device, progress))
    table = pd.concat(tables).sort_index(kind="stable")
    return with_columns(table, ("update", "before", "update_before", "ratio")), {"data": {}}


def _one_stage(
    runs: pd.DataFrame, config: Config, device: torch.device, progress: Callable[[int], object]
) -> pd.DataFrame:
    """Return the results of the runs of all other kinds, see `run`."""
    beta1, beta2 = (torch.tensor(runs[name].to_numpy(), device=device) for name in ("beta1", "beta2"))
    last = torch.tensor(runs["step"].to_numpy(), device=device)
    worst, rmsprop = (
        torch.tensor(runs["kind"].isin(kinds).to_numpy(), device=device) for kinds in (["worst", "wedge"], ["rmsprop"])
    )
    # Worst-case gradients are (β/γ)^j. Scaling their maximum over j ≤ n to 1 prevents overflow.
    slope = torch.where(worst, beta2.log() - beta1.log(), torch.zeros_like(beta1))
    offset = torch.where(slope > 0, last * slope, torch.zeros_like(slope))
    # Drawn for all runs, also those that another job does, so that a run does not depend on the division into jobs.
    count = 2 * config.draws + config.wedge_draws + config.edge_draws
    places = torch.tensor(runs["run"].to_numpy())
    generator = torch.Generator().manual_seed(config.seed)
    average, square, size = (torch.zeros_like(beta1) for _ in range(3))
    for n in range(int(runs["step"].max()) + 1):
        noise, scale = torch.randn((2, count), dtype=torch.float64, generator=generator)[:, places].to(device)
        # The log-normal factor gives a run gradients of very different sizes.
        gradient = torch.where(worst, (n * slope - offset).exp(), noise * (3 * scale).exp())
        # A run past its own step is no longer needed. Zero gradients keep it from overflowing.
        gradient = torch.where(last >= n, gradient, torch.zeros_like(gradient))
        gradient = torch.where(rmsprop, (last == n).double(), gradient)
        update = kadam_update_(gradient, [average], [square], n + 1.0, stages=[(beta1, beta2)], eps=0.0)
        size = torch.where(last == n, update.abs(), size)
        progress(1)
    return runs.assign(update=size.cpu().numpy())


def cost(runs: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work for the progress line, and its unit: steps of the recursion."""
    several = runs["kind"] == "kadam"
    groups = [runs[~several], *(group for _, group in runs[several].groupby("k"))]
    return sum(int(group["step"].max()) + 1 for group in groups if len(group)), "step"
