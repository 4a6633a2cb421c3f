"""Scale-invariant weights under Adam(W): how their norm grows and how fast their direction turns (paper, on normalization).

L(cW) = L(W) for every c > 0 makes ⟨W, g_W⟩ = 0. The paper's γ is ``beta1``, its β is ``beta2``; η is ``lr``, λ is
``weight_decay``. With a = 1 − ηλ, AdamW is W_{n+1} = a·W_n − η·u_n, and exactly

    ‖W_{n+1}‖² = a² ‖W_n‖² − 2aη ⟨W_n, u_n⟩ + η² ‖u_n‖².

Three laws say what this comes to without knowing ⟨W_n, u_n⟩:

``paper``
    the term is dropped: ‖W‖² grows by η²‖u‖² a step (arXiv 2411.05746; its Assumption 1, ⟨W(t), g(τ)⟩ ≈ 0, and 2, v replaced
    by one number);
``unsmoothed``
    η²‖g/√v‖² a step instead (derived for this artifact): holds where gradients of different steps are orthogonal;
``inertial``
    derived for this artifact without Assumption 1: momentum makes ⟨W_n, u_n⟩ = ρ_n ⟨W_n, u_{n−1}⟩ with a known ρ_n ≈ γ, and
    ⟨W_n, u_{n−1}⟩ < 0 follows from the updates before. In the long run the paper's law times (1 + aγ)/(1 − aγ).

docs/scale_invariance.md has the derivation, and what is neglected. Without momentum the three are the same.

All functions are elementwise and take floats, NumPy arrays or torch tensors; series have time as the first axis.
"""

import math

import numpy as np

LAWS = ("paper", "unsmoothed", "inertial")


def norm_step(norm_sq, *, update_sq, inner=0.0, lr, weight_decay):
    """‖W_{n+1}‖² from ‖W_n‖², exactly: a²‖W_n‖² − 2aη⟨W_n, u_n⟩ + η²‖u_n‖². Without ``inner`` it is the paper's law.

    Args:
        norm_sq: ‖W_n‖². update_sq: ‖u_n‖². inner: ⟨W_n, u_n⟩.
        lr, weight_decay: η and λ.
    """
    keep = 1 - lr * weight_decay
    return keep**2 * norm_sq - 2 * keep * lr * inner + lr**2 * update_sq


def momentum(beta1, step):
    """γ_n = γ(1 − γ^n)/(1 − γ^{n+1}), which the bias correction makes of γ: m̂_n = γ_n m̂_{n−1} + (1 − γ_n) g_n.

    step: n = 0, 1, …; γ_0 = 0. Of the update u_{n−1} the share ρ_n = γ_n √(v̂_{n−1}/v̂_n) is in u_n, if v is one number.
    """
    return beta1 * (1 - beta1**step) / (1 - beta1 ** (step + 1))


def inertial_step(norm_sq, overlap, *, update_sq, share, radial=0.0, lr, weight_decay):
    """One step of the inertial law. Exact if v is one number, changing or not (Assumption 2), since then
    u_n = ρ_n u_{n−1} + (1 − γ_n) g_n/√v̂_n and ⟨W_n, g_n⟩ = 0.

    Args:
        norm_sq: ‖W_n‖².
        overlap: ⟨W_n, u_{n−1}⟩, 0 at the first step.
        update_sq: ‖u_n‖².
        share: ρ_n, see `momentum`.
        radial: (1 − γ_n) ⟨W_n, g_n/√v̂_n⟩, 0 under Assumption 2. With it, what is neglected is that the coordinates of v
            change at different rates.
        lr, weight_decay: η and λ.

    Returns:
        ``(norm_sq, overlap)`` of the next step: ‖W_{n+1}‖² and ⟨W_{n+1}, u_n⟩ = a⟨W_n, u_n⟩ − η‖u_n‖².
    """
    inner = share * overlap + radial
    after = norm_step(norm_sq, update_sq=update_sq, inner=inner, lr=lr, weight_decay=weight_decay)
    return after, (1 - lr * weight_decay) * inner - lr * update_sq


def norm_law(update_sq, *, start, lr, weight_decay, form="discrete"):
    """‖W_n‖² for n = 0 … N by the paper's law; with ‖g/√v‖² in place of ‖u‖² by the unsmoothed one.

    Args:
        update_sq: series of N squared norms, shape (N, ...).
        start: ‖W_0‖², shape (...).
        lr, weight_decay: η and λ.
        form: ``"discrete"``, the recursion; or ``"integral"``, the paper's own,
            ‖W(t)‖² = ‖W(0)‖² e^{−2λt} + η ∫₀ᵗ e^{−2λ(t−τ)} ‖u(τ)‖² dτ with t = nη and u constant during a step.
            They differ by terms of relative order ηλ.

    Returns:
        float64 array of shape (N + 1, ...).

    Raises:
        ValueError: an unknown form.
    """
    update_sq = np.asarray(update_sq, dtype=np.float64)
    if form == "discrete":

        def step(now, u):
            return norm_step(now, update_sq=u, lr=lr, weight_decay=weight_decay)

    elif form == "integral":
        exponent = 2 * lr * weight_decay
        gain = -math.expm1(-exponent) / exponent if exponent else 1.0

        def step(now, u):
            return math.exp(-exponent) * now + lr**2 * gain * u

    else:
        raise ValueError(f"Invalid form: {form!r} is neither 'discrete' nor 'integral'")
    series = [np.broadcast_to(np.asarray(start, dtype=np.float64), update_sq.shape[1:])]
    for u in update_sq:
        series.append(step(series[-1], u))
    return np.stack(series)


def inertial_norm_law(update_sq, *, start, share, lr, weight_decay):
    """‖W_n‖² for n = 0 … N by the inertial law, from the same ‖u_n‖² as the paper's; as `norm_law`.

    share: series of ρ_n, shape (N, ...) or one that broadcasts to it; see `momentum`.
    """
    update_sq = np.asarray(update_sq, dtype=np.float64)
    now, overlap = np.broadcast_to(np.asarray(start, dtype=np.float64), update_sq.shape[1:]), 0.0
    series = [now]
    for u, rho in zip(update_sq, np.broadcast_to(share, update_sq.shape), strict=True):
        now, overlap = inertial_step(now, overlap, update_sq=u, share=rho, lr=lr, weight_decay=weight_decay)
        series.append(now)
    return np.stack(series)


def direction_step(direction, update, *, norm, lr, weight_decay):
    """Ŵ_{n+1} from Ŵ_n = W_n/‖W_n‖ and u_n, exactly: what a step adds is −(η/a) u_n/‖W_n‖, then the length is made 1.

    To first order Ŵ moves by −η(u − ⟨Ŵ, u⟩Ŵ)/‖W‖, the paper's equation for the direction: the update, divided a second
    time by the root of a moving average of its own square. Without scale invariance the same holds.

    Args:
        direction, update: NumPy arrays of one shape; norm: ‖W_n‖; lr, weight_decay: η and λ, ηλ < 1.
    """
    moved = direction - lr / (1 - lr * weight_decay) / norm * update
    return moved / np.linalg.norm(moved)


def angular_step(*, update_sq, norm_sq, lr):
    """The paper's angle between Ŵ_n and Ŵ_{n+1}, in radians: η‖u_n‖/‖W_n‖."""
    return lr * (update_sq / norm_sq) ** 0.5


def amplification(*, beta1, lr=0.0, weight_decay=0.0):
    """(1 + aγ)/(1 − aγ): by this the inertial law's ‖W‖² exceeds the paper's in the long run, at equal ‖u‖."""
    kept = (1 - lr * weight_decay) * beta1
    return (1 + kept) / (1 - kept)


def _check_decay(lr, weight_decay):
    product = np.asarray(lr, dtype=np.float64) * np.asarray(weight_decay, dtype=np.float64)
    if not np.all((product > 0) & (product < 1)):
        raise ValueError(f"lr · weight_decay = {product} is not in (0, 1): without decay the norm grows for ever")


def steady_norm_sq(mean_sq, *, lr, weight_decay, factor=1.0):
    """Where decay and growth balance: η·f·‖·‖²/(λ(2 − ηλ)), the paper's η‖·‖²/(2λ) to first order in ηλ.

    Args:
        mean_sq: stationary mean of ‖u‖² (or of ‖g/√v‖²).
        factor: f, 1 or `amplification`.

    Raises:
        ValueError: no decay, or ηλ ≥ 1.
    """
    _check_decay(lr, weight_decay)
    return lr * factor * mean_sq / (weight_decay * (2 - lr * weight_decay))


def steady_angular_step(*, lr, weight_decay, beta1=0.0):
    """Angle φ between Ŵ_n and Ŵ_{n+1} in the steady state of the inertial law: cos φ = (a + γ)/(1 + aγ), in radians.

    Derived for this artifact: cos φ = a − η⟨W_n, u_n⟩/‖W_n‖² with the law's own values at rest. To first order in ηλ it is
    √(2ηλ(1−γ)/(1+γ)); without momentum cos φ = a, the paper's √(2ηλ). For gradients of independent directions Kosson et
    al. (arXiv 2305.17212) find the same first order; the inertial law needs no such thing.

    Raises:
        ValueError: no decay, or ηλ ≥ 1.
    """
    _check_decay(lr, weight_decay)
    keep = 1 - np.asarray(lr, dtype=np.float64) * weight_decay
    # By the sine, because the cosine of a small angle has lost its digits.
    return np.arcsin(((1 - keep**2) * (1 - beta1**2)) ** 0.5 / (1 + keep * beta1))


def remembered(*, lr, weight_decay, steps):
    """The share of ‖W_0‖² that is left in ‖W‖² after so many steps: (1 − ηλ)^{2·steps}."""
    return (1 - lr * weight_decay) ** (2 * steps)


def second_stage(*, lr, weight_decay, norm, dimension):
    """The second stage of 2-Adam, on a weight of fixed norm, that stands for the norm of a scale-invariant weight.

    With β₂ = (1 − ηλ)² ≈ e^{−2λη}, ‖W_{n+1}‖² = η² d·v₂/(1 − β₂), v₂ the average with decay β₂ of ‖u‖²/d, once the start is
    forgotten. So the direction moves by √(1 − β₂)·u/√(d·v₂), as it does on a weight of norm R with γ₂ = 0 and learning
    rate √(1 − β₂)·R/√d ≈ √(2λη)·R/√d.

    Args:
        lr, weight_decay: η and λ of the scale-invariant weight, ηλ in (0, 1).
        norm: R, of the weight whose norm is fixed. dimension: d, its number of entries.

    Returns:
        ``(beta2, lr)`` of the second stage.

    Raises:
        ValueError: no decay (AdaGrad's sum then takes the average's place), or ηλ ≥ 1.
    """
    _check_decay(lr, weight_decay)
    beta2 = (1 - lr * weight_decay) ** 2
    return beta2, (1 - beta2) ** 0.5 * norm / dimension**0.5
