"""Bounds on the updates of NAdam, RAdam, Adamax and AMSGrad (derived for this artifact).

Every bound follows from the Cauchy-Schwarz inequality, as Adam's does in `ctadam.theory.stability`: it holds for every
sequence of gradients and for ε ≥ 0. γ is torch's ``beta1`` and β is ``beta2``; step n = 0, 1, 2, … has made N = n + 1
averages. ``docs/monitor.md`` has the derivations.

All functions compute in float64, elementwise with NumPy broadcasting, and return a NumPy scalar if all arguments are scalars.
"""

import numpy as np
from numpy.typing import ArrayLike

from ctadam.theory.stability import FloatArray, _betas, _steps, update_bound


def amsgrad_bound(*, beta1: ArrayLike, beta2: ArrayLike, step: ArrayLike) -> FloatArray:
    """Return a bound on AMSGrad's update, which divides by the largest v so far: finite for every pair.

    For β ≥ γ it is Adam's exact bound, which AMSGrad attains because v grows along Adam's worst case. For β < γ it is
    √[(1−β^N)/(1−γ^N) · (1 − γ^n (γ−β)/(1−β))], which tends to 1, or Adam's exact bound where that is smaller.

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the second moment (paper's β), broadcast against ``beta1``.
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit.

    Raises:
        ValueError: if a beta is outside [0, 1) or a step is negative.
    """
    gamma, beta = _betas(beta1, beta2)
    n = _steps(step)
    adam = update_bound(beta1=gamma, beta2=beta, step=n, law="exact")
    correction = (1 - beta ** (n + 1)) / (1 - gamma ** (n + 1))
    momentum = np.sqrt(correction * (1 - gamma**n * (gamma - beta) / (1 - beta)))
    return np.where(beta < gamma, np.minimum(adam, momentum), adam)[()]


def radam_rectification(*, beta2: ArrayLike, step: ArrayLike) -> FloatArray:
    """Return RAdam's factor on Adam's update at step n; NaN where RAdam uses the momentum without dividing by √v̂.

    With ρ∞ = 2/(1−β) − 1 and ρ = ρ∞ − 2Nβ^N/(1−β^N), RAdam divides where ρ > 5. The factor is at most 1.

    Args:
        beta2: decay of the second moment (paper's β), scalar or array in [0, 1).
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit.
    """
    _, beta = _betas(0.0, beta2)
    n1 = _steps(step) + 1
    limit = 2 / (1 - beta) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        decayed = np.where(np.isinf(n1), 0.0, n1 * beta**n1)
        rho = limit - 2 * decayed / (1 - beta**n1)
        factor = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
    return np.where(rho > 5, factor, np.nan)[()]


def radam_bound(*, beta1: ArrayLike, beta2: ArrayLike, step: ArrayLike) -> FloatArray:
    """Return the bound on RAdam's update: `radam_rectification` times Adam's exact bound, which is attained.

    It is inf in the first steps (ρ ≤ 5; for β ≤ 2/3 in all steps), where the update is the momentum m̂ itself and scales with
    the gradients.

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the second moment (paper's β), broadcast against ``beta1``.
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit.

    Raises:
        ValueError: if a beta is outside [0, 1) or a step is negative.
    """
    factor = radam_rectification(beta2=beta2, step=step)
    bound = update_bound(beta1=beta1, beta2=beta2, step=step, law="exact")
    return np.where(np.isnan(factor), np.inf, factor * bound)[()]


def nadam_weights(
    *, beta1: ArrayLike, momentum_decay: ArrayLike = 4e-3, step: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Return the weights of the gradient and of m in NAdam's update, u = (a·g + b·m) / √v̂.

    torch's schedule is μ_t = γ (1 − 0.96^{tψ}/2) with ψ = ``momentum_decay``. With P_t = μ_1 ⋯ μ_t and t = n + 1,
    a = (1−μ_t)/(1−P_t) and b = μ_{t+1}/(1−P_{t+1}).

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        momentum_decay: ψ ≥ 0.
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit.
    """
    gamma, _ = _betas(beta1, 0.0)
    t = _steps(step) + 1
    ratio = 0.96 ** np.asarray(momentum_decay, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mu, mu_next = (gamma * (1 - 0.5 * ratio**s) for s in (t, t + 1))
        # ln P_t = t ln γ + Σ_s ln(1 − ratio^s/2), with the logarithm expanded so that the sum over s is geometric.
        log_product = t * np.log(gamma)
        for k in range(1, 64):
            q = ratio**k
            log_product = log_product - np.where(q < 1, q * (1 - q**t) / (1 - q), t) / (k * 2.0**k)
        product = np.where(np.isinf(t), 0.0, np.exp(log_product))
    return ((1 - mu) / (1 - product))[()], (mu_next / (1 - product * mu_next))[()]


def nadam_bound(*, beta1: ArrayLike, beta2: ArrayLike, momentum_decay: ArrayLike = 4e-3, step: ArrayLike) -> FloatArray:
    """Return the bound on NAdam's update, which is attained: finite in the limit where Adam's is, for γ² < β.

    With the weights a and b of `nadam_weights` and w_j = b(1−γ)γ^{n−j}, plus a for j = n, the bound is
    √[(1−β^N)/(1−β) · Σ_j w_j² / β^{n−j}]. Where there is growth its rate is Adam's, ln(γ/√β).

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the second moment (paper's β), broadcast against ``beta1``.
        momentum_decay: ψ of torch's momentum schedule.
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit.

    Raises:
        ValueError: if a beta is outside [0, 1) or a step is negative.
    """
    gamma, beta = _betas(beta1, beta2)
    n = _steps(step)
    newest, older = nadam_weights(beta1=gamma, momentum_decay=momentum_decay, step=n)
    older = older * (1 - gamma)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = gamma**2 / beta
        decaying = np.where(ratio == 1, n, ratio * (1 - ratio**n) / (1 - ratio))
        # Nothing is older at the first step, and nothing older is remembered without momentum.
        sum_of_older = np.where((n == 0) | (gamma == 0), 0.0, older**2 * decaying)
        bound = np.sqrt((1 - beta ** (n + 1)) / (1 - beta) * ((newest + older) ** 2 + sum_of_older))
    return np.where(np.isnan(bound), np.inf, bound)[()]


def adamax_bound(*, beta1: ArrayLike, beta2: ArrayLike, step: ArrayLike) -> FloatArray:
    """Return the bound on Adamax's update, (1−γ)/(1−γ^N) · Σ_{i≤n} (γ/β)^i, which is attained by gradients g_j ∝ β^j.

    It is finite in the limit for γ < β, grows like N on the boundary γ = β, and outside at ln(γ/β) per step.

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the infinity norm (paper's β), broadcast against ``beta1``.
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit.

    Raises:
        ValueError: if a beta is outside [0, 1) or a step is negative.
    """
    gamma, beta = _betas(beta1, beta2)
    n1 = _steps(step) + 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = gamma / beta
        total = np.where(ratio == 1, n1, (1 - ratio**n1) / (1 - ratio))
        total = np.where((gamma == 0) | (n1 == 1), 1.0, total)
        bound = (1 - gamma) / (1 - gamma**n1) * total
    return np.where(np.isnan(bound), np.inf, bound)[()]
