"""Norm and direction of scale-invariant weights under Adam(W): two norm laws (arXiv 2411.05746, on normalization).

A weight is scale-invariant if L(cW) = L(W) for every c > 0, which makes ⟨W, g_W⟩ = 0. The paper's γ is ``beta1`` and its β
is ``beta2``; η is ``lr`` and λ is ``weight_decay``. With a = 1 − ηλ, AdamW is W_{n+1} = a·W_n − η·u_n, and exactly

    ‖W_{n+1}‖² = a² ‖W_n‖² − 2aη ⟨W_n, u_n⟩ + η² ‖u_n‖².

Two laws approximate this without knowing ⟨W_n, u_n⟩:

``paper``
    Drop the term, so that ‖W‖² grows by η²‖u‖² per step (arXiv 2411.05746). Uses Assumption 1, ⟨W(t), g(τ)⟩ ≈ 0, and
    Assumption 2, v replaced by one number.
``inertial``
    Derived for this artifact without Assumption 1. Momentum makes ⟨W_n, u_n⟩ = ρ_n ⟨W_n, u_{n−1}⟩ with a known ρ_n ≈ γ, and
    the previous updates make ⟨W_n, u_{n−1}⟩ negative. In the long run ‖W‖² is (1 + aγ)/(1 − aγ) times the paper's.

Without momentum the laws agree. docs/scale_invariance.md has the derivation and its approximations.

All functions are elementwise and accept floats, NumPy arrays or torch tensors unless they say otherwise. In a series, time
is the first axis.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: A float, a NumPy array or a torch tensor; the result has the type of the arguments.
Numeric = Any

LAWS = ("paper", "inertial")


def norm_step(
    norm_sq: Numeric, *, update_sq: Numeric, inner: Numeric = 0.0, lr: Numeric, weight_decay: Numeric
) -> Numeric:
    """Return ‖W_{n+1}‖² = a²‖W_n‖² − 2aη⟨W_n, u_n⟩ + η²‖u_n‖², exactly; with ``inner`` = 0 it is the paper's law.

    Args:
        norm_sq: ‖W_n‖².
        update_sq: ‖u_n‖².
        inner: ⟨W_n, u_n⟩.
        lr: learning rate η.
        weight_decay: decoupled weight decay λ.
    """
    decay_factor = 1 - lr * weight_decay
    return decay_factor**2 * norm_sq - 2 * decay_factor * lr * inner + lr**2 * update_sq


def momentum(beta1: Numeric, step: Numeric) -> Numeric:
    """Return γ_n = γ(1 − γ^n)/(1 − γ^{n+1}), the decay of the bias-corrected first moment at step n.

    That is, m̂_n = γ_n m̂_{n−1} + (1 − γ_n) g_n. If v is one number, u_n contains the share ρ_n = γ_n √(v̂_{n−1}/v̂_n) of u_{n−1}.

    Args:
        beta1: decay of the first moment (paper's γ).
        step: step index n = 0, 1, …; γ_0 = 0.
    """
    return beta1 * (1 - beta1**step) / (1 - beta1 ** (step + 1))


def inertial_step(
    norm_sq: Numeric,
    overlap: Numeric,
    *,
    update_sq: Numeric,
    share: Numeric,
    radial: Numeric = 0.0,
    lr: Numeric,
    weight_decay: Numeric,
) -> tuple[Numeric, Numeric]:
    """Return ‖W_{n+1}‖² and ⟨W_{n+1}, u_n⟩ by one step of the inertial law.

    The step is exact if v is one number, constant or not (Assumption 2), because then
    u_n = ρ_n u_{n−1} + (1 − γ_n) g_n/√v̂_n and ⟨W_n, g_n⟩ = 0.

    Args:
        norm_sq: ‖W_n‖².
        overlap: ⟨W_n, u_{n−1}⟩; 0 at the first step.
        update_sq: ‖u_n‖².
        share: ρ_n, see `momentum`.
        radial: (1 − γ_n) ⟨W_n, g_n/√v̂_n⟩, which is 0 under Assumption 2. If it is given, the only approximation left is that
            all coordinates of v change at the same rate.
        lr: learning rate η.
        weight_decay: decoupled weight decay λ.

    Returns:
        ``(norm_sq, overlap)`` of the next step: ‖W_{n+1}‖² and ⟨W_{n+1}, u_n⟩ = a⟨W_n, u_n⟩ − η‖u_n‖².
    """
    inner = share * overlap + radial
    next_norm_sq = norm_step(norm_sq, update_sq=update_sq, inner=inner, lr=lr, weight_decay=weight_decay)
    return next_norm_sq, (1 - lr * weight_decay) * inner - lr * update_sq


def norm_law(
    update_sq: ArrayLike, *, start: ArrayLike, lr: float, weight_decay: float, form: str = "discrete"
) -> NDArray[np.float64]:
    """Return ‖W_n‖² for n = 0 … N by the paper's law.

    Args:
        update_sq: ‖u_n‖² of N steps, shape (N, ...).
        start: ‖W_0‖², shape (...).
        lr: learning rate η.
        weight_decay: decoupled weight decay λ.
        form: ``"discrete"`` for the recursion. ``"integral"`` for the paper's form with t = nη and u constant during a step,
            ‖W(t)‖² = ‖W(0)‖² e^{−2λt} + η ∫₀ᵗ e^{−2λ(t−τ)} ‖u(τ)‖² dτ. The forms differ by terms of relative order ηλ.

    Returns:
        float64 array of shape (N + 1, ...).

    Raises:
        ValueError: if the form is unknown.
    """
    update_sq = np.asarray(update_sq, dtype=np.float64)
    if form == "discrete":

        def step(norm_sq: Numeric, u: Numeric) -> Numeric:
            return norm_step(norm_sq, update_sq=u, lr=lr, weight_decay=weight_decay)

    elif form == "integral":
        exponent = 2 * lr * weight_decay
        gain = -math.expm1(-exponent) / exponent if exponent else 1.0

        def step(norm_sq: Numeric, u: Numeric) -> Numeric:
            return math.exp(-exponent) * norm_sq + lr**2 * gain * u

    else:
        raise ValueError(f"Invalid form: {form!r} is neither 'discrete' nor 'integral'")
    series = [np.broadcast_to(np.asarray(start, dtype=np.float64), update_sq.shape[1:])]
    for u in update_sq:
        series.append(step(series[-1], u))
    return np.stack(series)


def inertial_norm_law(
    update_sq: ArrayLike, *, start: ArrayLike, share: ArrayLike, lr: float, weight_decay: float
) -> NDArray[np.float64]:
    """Return ‖W_n‖² for n = 0 … N by the inertial law, computed from the same ‖u_n‖² as the paper's law.

    Args:
        update_sq: ‖u_n‖² of N steps, shape (N, ...).
        start: ‖W_0‖², shape (...).
        share: ρ_n of N steps (see `momentum`), shape (N, ...) or broadcastable to it.
        lr: learning rate η.
        weight_decay: decoupled weight decay λ.

    Returns:
        float64 array of shape (N + 1, ...).
    """
    update_sq = np.asarray(update_sq, dtype=np.float64)
    norm_sq: Numeric = np.broadcast_to(np.asarray(start, dtype=np.float64), update_sq.shape[1:])
    overlap: Numeric = 0.0
    series = [norm_sq]
    for u, rho in zip(update_sq, np.broadcast_to(share, update_sq.shape), strict=True):
        norm_sq, overlap = inertial_step(norm_sq, overlap, update_sq=u, share=rho, lr=lr, weight_decay=weight_decay)
        series.append(norm_sq)
    return np.stack(series)


def angular_step(*, update_sq: Numeric, norm_sq: Numeric, lr: Numeric) -> Numeric:
    """Return the paper's angle between Ŵ_n and Ŵ_{n+1}, η‖u_n‖/‖W_n‖, in radians.

    The paper lets the direction move by −u/‖W‖: the update is divided a second time by the root of a moving average of its own
    square.

    Args:
        update_sq: ‖u_n‖².
        norm_sq: ‖W_n‖².
        lr: learning rate η.
    """
    return lr * (update_sq / norm_sq) ** 0.5


def amplification(*, beta1: Numeric, lr: Numeric = 0.0, weight_decay: Numeric = 0.0) -> Numeric:
    """Return (1 + aγ)/(1 − aγ), the long-run ratio of ‖W‖² under the inertial law to ‖W‖² under the paper's, at equal ‖u‖."""
    product = (1 - lr * weight_decay) * beta1
    return (1 + product) / (1 - product)


def _check_decay(lr: ArrayLike, weight_decay: ArrayLike) -> None:
    product = np.asarray(lr, dtype=np.float64) * np.asarray(weight_decay, dtype=np.float64)
    if not np.all((product > 0) & (product < 1)):
        raise ValueError(f"lr · weight_decay = {product} is not in (0, 1): without decay the norm has no limit")


def steady_norm_sq(mean_sq: Numeric, *, lr: Numeric, weight_decay: Numeric, factor: Numeric = 1.0) -> Numeric:
    """Return the ‖W‖² at which decay and growth balance, η·f·‖u‖²/(λ(2 − ηλ)).

    To first order in ηλ and with f = 1 this is the paper's η‖u‖²/(2λ).

    Args:
        mean_sq: stationary mean of ‖u‖².
        lr: learning rate η.
        weight_decay: decoupled weight decay λ.
        factor: f; 1 for the paper's law, `amplification` for the inertial law.

    Raises:
        ValueError: if ηλ is not in (0, 1).
    """
    _check_decay(lr, weight_decay)
    return lr * factor * mean_sq / (weight_decay * (2 - lr * weight_decay))


def steady_angular_step(*, lr: Numeric, weight_decay: Numeric, beta1: Numeric = 0.0) -> NDArray[np.float64]:
    """Return the angle between Ŵ_n and Ŵ_{n+1} in the steady state of the inertial law, in radians.

    The angle φ satisfies cos φ = (a + γ)/(1 + aγ). Derived for this artifact from cos φ = a − η⟨W_n, u_n⟩/‖W_n‖² with the law's
    stationary values. To first order in ηλ it is √(2ηλ(1−γ)/(1+γ)). Without momentum cos φ = a, the paper's √(2ηλ). Kosson et
    al. (arXiv 2305.17212) find the same first order for gradients of independent directions, which the inertial law does not
    assume.

    Args:
        lr: learning rate η.
        weight_decay: decoupled weight decay λ.
        beta1: decay of the first moment (paper's γ).

    Raises:
        ValueError: if ηλ is not in (0, 1).
    """
    _check_decay(lr, weight_decay)
    decay_factor: Numeric = 1 - np.asarray(lr, dtype=np.float64) * weight_decay
    # arcsin, because the cosine of a small angle loses digits.
    return np.arcsin(((1 - decay_factor**2) * (1 - beta1**2)) ** 0.5 / (1 + decay_factor * beta1))


def remembered(*, lr: Numeric, weight_decay: Numeric, steps: Numeric) -> Numeric:
    """Return (1 − ηλ)^{2·steps}, the share of ‖W_0‖² that remains in ‖W‖² after ``steps`` steps."""
    return (1 - lr * weight_decay) ** (2 * steps)


def second_stage(
    *, lr: Numeric, weight_decay: Numeric, norm: Numeric, dimension: Numeric, factor: Numeric = 1.0
) -> tuple[Numeric, Numeric, Numeric]:
    """Return the second stage of 2-Adam on a weight of fixed norm that matches the norm of a scale-invariant weight.

    Let β₂ = a² ≈ e^{−2λη} and v₂ = ‖W‖²(1 − β₂)/(η² d f). By the paper's law (f = 1), v₂ ← β₂ v₂ + (1 − β₂)‖u‖²/d exactly: it
    is the average of the squared update over the whole weight, with decay β₂. It starts at ‖W_0‖²(1 − β₂)/(η² d), not at 0, and
    has no bias correction. The direction moves by ηu/‖W‖ = √(1 − β₂)·u/√(d·v₂), as on a weight of fixed norm R under 2-Adam with
    γ₂ = 0 and learning rate √(1 − β₂)·R/√d ≈ √(2λη)·R/√d. In the long run, the inertial law multiplies ‖W‖² by f, see
    `amplification`. This divides the start by f and the learning rate by √f, so that the first step is the same.

    Args:
        lr: learning rate η of the scale-invariant weight.
        weight_decay: decoupled weight decay λ of the scale-invariant weight.
        norm: R = ‖W_0‖, the initial norm of both weights.
        dimension: d, their number of entries.
        factor: f; 1 for the paper's law, `amplification` for the inertial law.

    Returns:
        ``(beta2, lr, start)``: decay, learning rate and initial value of the second average.

    Raises:
        ValueError: if ηλ is not in (0, 1). Without decay the average becomes AdaGrad's sum.
    """
    _check_decay(lr, weight_decay)
    beta2 = (1 - lr * weight_decay) ** 2
    rate = ((1 - beta2) / factor / dimension) ** 0.5 * norm
    return beta2, rate, norm**2 * (1 - beta2) / (lr**2 * dimension * factor)
