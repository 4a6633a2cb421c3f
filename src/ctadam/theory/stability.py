"""Stability of Adam's update: the bound of arXiv 2411.05746, section 3, and its exact discrete counterpart.

Adam's update at step n = 0, 1, 2, … is u_n = [√(1−β^{n+1}) / (1−γ^{n+1})] · m_n/√v_n, with ε = 0. The paper's γ is torch's
``beta1`` and its β is ``beta2``. The paper writes the pair in the opposite order, so every function takes the two as
keywords. Both must lie in [0, 1).

Every quantity comes in two versions, selected by ``law``:

``"paper"``
    The Cauchy-Schwarz inequality on the continuous-time kernels (section 3): C(β,γ) = 2/γ − 1/β − 1.
``"exact"``
    The same inequality on the discrete sums (derived for this artifact): C_d(β,γ) = ln(β/γ²). It is attained, so no
    smaller bound holds. C is its first-order expansion at (1, 1), and C > 0 implies C_d > 0.

All functions compute in float64, elementwise with NumPy broadcasting, and return a NumPy scalar if all arguments are
scalars. Rates are per step; all other quantities are dimensionless.
"""

import enum
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Law = Literal["paper", "exact"]

#: The default betas of torch's Adam.
USUAL_PAIR = {"beta1": 0.9, "beta2": 0.999}
#: Largest relative distance of ``beta2`` from a boundary at which a pair counts as on it. Betas are typed as decimals:
#: 0.9² = 0.81 holds for the decimals, but not for the nearest floats. Rounding both moves the pair by up to 1.5 machine
#: epsilons, and evaluating the distance adds about as much.
BOUNDARY_TOLERANCE = 4 * np.finfo(np.float64).eps


class Verdict(enum.Enum):
    """Classification of a pair of betas by both laws; see `verdict`. The value is the sentence shown to users."""

    STABLE = "stable: updates are bounded for every sequence of gradients"
    BOUNDED = "bounded by the exact law, but outside the paper's stable region"
    BOUNDARY = "on the boundary: updates can grow like the square root of the number of steps"
    UNSTABLE = "unstable: updates can grow exponentially"


def _betas(beta1: ArrayLike, beta2: ArrayLike) -> tuple[FloatArray, FloatArray]:
    gamma, beta = np.asarray(beta1, dtype=np.float64), np.asarray(beta2, dtype=np.float64)
    for name, value in (("beta1", gamma), ("beta2", beta)):
        outside = ~((value >= 0) & (value < 1))  # NaN counts as outside
        if outside.any():
            raise ValueError(f"Invalid {name}: {value[outside].flat[0]} is not in [0, 1)")
    return gamma, beta


def _steps(step: ArrayLike) -> FloatArray:
    step = np.asarray(step, dtype=np.float64)
    if not (step >= 0).all():
        raise ValueError(f"Invalid step: {step[~(step >= 0)].flat[0]} is not a step index (0, 1, 2, ...)")
    return step


def _check_law(law: Law) -> None:
    if law not in ("paper", "exact"):
        raise ValueError(f"Invalid law: {law!r} is neither 'paper' nor 'exact'")


def _above_boundary(gamma: FloatArray, beta: FloatArray, law: Law) -> FloatArray:
    """Return β/β₀ − 1, where β₀ is the boundary for this γ.

    The result is accurate to rounding near 0, and inf or NaN where γ² underflows.
    """
    if law == "paper":
        return (2 * beta * (1 - gamma) - gamma * (1 - beta)) / gamma
    # Near 1, where β and γ² cancel, the first form is exact up to one rounding. Below 1/2 it rounds 1 − γ.
    near_one = ((beta - gamma) + gamma * (1 - gamma)) / gamma**2
    return np.where(gamma >= 0.5, near_one, beta / gamma**2 - 1)


def stability_coefficient(*, beta1: ArrayLike, beta2: ArrayLike, law: Law = "paper") -> FloatArray:
    """Return the stability coefficient: positive if updates are bounded, negative if they can grow exponentially.

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the second moment (paper's β), broadcast against ``beta1``.
        law: ``"paper"`` for C = 2/γ − 1/β − 1, ``"exact"`` for C_d = ln(β/γ²).

    Returns:
        float64 of the broadcast shape. It is exactly 0 on the boundary, up to `BOUNDARY_TOLERANCE`; +inf for γ = 0 (RMSprop
        and sign descent, always bounded); −inf for β = 0 < γ (v forgets all but the last gradient, so there is no bound).

    Raises:
        ValueError: if a beta is outside [0, 1) or the law is unknown.
    """
    _check_law(law)
    gamma, beta = _betas(beta1, beta2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if law == "paper":
            # One fraction instead of 2/γ − 1/β − 1, whose three terms cancel near (1, 1).
            c = (2 * beta * (1 - gamma) - gamma * (1 - beta)) / beta / gamma
            c = np.where(beta == 0, -np.inf, c)
        else:
            # Near the boundary write β − γ² as (β−γ) + γ(1−γ): both terms are exact there. Use plain logarithms elsewhere
            # and for small γ, where the rounding of γ(1−γ) would outweigh γ².
            excess = ((beta - gamma) + gamma * (1 - gamma)) / gamma**2
            close = (np.abs(excess) < 0.5) & (gamma > 1e-4)
            c = np.where(close, np.log1p(excess), np.log(beta) - 2 * np.log(gamma))
        above = _above_boundary(gamma, beta, law)
        if law == "exact":
            # For small γ, even the sign of the excess is lost this close to the boundary.
            c = np.where(np.abs(above) < 1e-9, np.log1p(above), c)
        c = np.where(np.abs(above) <= BOUNDARY_TOLERANCE, 0.0, c)
    return np.where(gamma == 0, np.inf, c)[()]


def growth_rate(*, beta1: ArrayLike, beta2: ArrayLike, law: Law = "paper") -> FloatArray:
    """Return the largest exponential growth rate of ‖u_n‖_∞ per step: max(0, −coefficient/2).

    Outside the stable region the rate is |C|/2 by the paper's law and ln(γ/√β) by the exact one.

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the second moment (paper's β), broadcast against ``beta1``.
        law: ``"paper"`` or ``"exact"``, as in `stability_coefficient`.

    Returns:
        float64 of the broadcast shape.

    Raises:
        ValueError: if a beta is outside [0, 1) or the law is unknown.
    """
    # Adding 0.0 turns the −0 of a zero coefficient into 0.
    return (np.maximum(0.0, -0.5 * stability_coefficient(beta1=beta1, beta2=beta2, law=law)) + 0.0)[()]


def verdict(*, beta1: float, beta2: float) -> Verdict:
    """Return the `Verdict` on a pair of betas.

    The exact law is attained, so it decides between bounded, boundary and unstable. A bounded pair is ``STABLE`` if it also
    lies inside the paper's region. `BOUNDARY_TOLERANCE` applies to both boundaries.

    Args:
        beta1: decay of the first moment (paper's γ), in [0, 1).
        beta2: decay of the second moment (paper's β), in [0, 1).

    Raises:
        ValueError: if a beta is outside [0, 1).
    """
    exact = stability_coefficient(beta1=beta1, beta2=beta2, law="exact")
    if exact < 0:
        return Verdict.UNSTABLE
    if exact == 0:
        return Verdict.BOUNDARY
    return Verdict.STABLE if stability_coefficient(beta1=beta1, beta2=beta2, law="paper") > 0 else Verdict.BOUNDED


def prefactor(*, beta1: ArrayLike, beta2: ArrayLike, step: ArrayLike) -> FloatArray:
    """Return Adam's bias correction of the update at step n, √(1−β^{n+1}) / (1−γ^{n+1}).

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the second moment (paper's β), broadcast against ``beta1``.
        step: step index n ≥ 0 (the first step is n = 0), broadcast; ``inf`` gives the limit 1.
    """
    gamma, beta = _betas(beta1, beta2)
    n1 = _steps(step) + 1
    with np.errstate(divide="ignore"):
        return (np.sqrt(-np.expm1(n1 * np.log(beta))) / -np.expm1(n1 * np.log(gamma)))[()]


def _geometric_sum(c: FloatArray, n1: FloatArray, *, unit: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Return (e^{−n1·c} − 1) / unit(c), or its limit n1 at c = 0; unit(c) is −c or e^{−c} − 1."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = np.expm1(-n1 * c) / unit(c)
    return np.where(c == 0, n1, value)


def update_bound(*, beta1: ArrayLike, beta2: ArrayLike, step: ArrayLike, law: Law = "paper") -> FloatArray:
    """Return an upper bound on ‖u_n‖_∞ at step n that holds for *any* sequence of gradients (arXiv 2411.05746, section 3).

    ``law="paper"``: prefactor · (1−γ)/γ · √(β/(1−β)) · √((1−e^{−tC})/C) at t = n + 1, because step n has made n + 1 averages.
    For γ = 0 it is +inf, because the paper's kernel rate (1−γ)/γ diverges. At γ = β = 0 it is 1, the limit along β = γ.

    ``law="exact"``: prefactor · (1−γ)/√(1−β) · √(Σ_{j≤n} (γ²/β)^j), attained by `worst_case_gradients`.

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the second moment (paper's β), broadcast against ``beta1``.
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit (inf where there is none).
        law: ``"paper"`` or ``"exact"``.

    Returns:
        float64 of the broadcast shape; inf where there is no bound or its value exceeds float64.

    Raises:
        ValueError: if a beta is outside [0, 1), a step is negative or the law is unknown.
    """
    gamma, beta = _betas(beta1, beta2)
    n1 = _steps(step) + 1
    c = stability_coefficient(beta1=gamma, beta2=beta, law=law)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        correction = prefactor(beta1=gamma, beta2=beta, step=step)
        if law == "paper":
            kernel = (1 - gamma) / gamma * np.sqrt(beta / (1 - beta))
            bound = correction * kernel * np.sqrt(_geometric_sum(c, n1, unit=np.negative))
            bound = np.where((gamma == 0) | (beta == 0), np.inf, bound)
            bound = np.where((gamma == 0) & (beta == 0), 1.0, bound)
        else:
            total = _geometric_sum(c, n1, unit=lambda c: np.expm1(-c))
            # For β = 0 < γ the ratio of the sum is infinite, but its first term is 1.
            total = np.where((beta == 0) & (gamma > 0), np.where(n1 == 1, 1.0, np.inf), total)
            bound = correction * (1 - gamma) / np.sqrt(1 - beta) * np.sqrt(total)
        # NaN comes from inf/inf where the geometric sum overflows: the bound exceeds float64.
        return np.where(np.isnan(bound), np.inf, bound)[()]


def worst_case_gradients(*, beta1: float, beta2: float, step: int) -> FloatArray:
    """Return gradients g_0 … g_n for which |u_n| equals the exact bound: g_j ∝ (β/γ)^j with maximum 1.

    Args:
        beta1: decay of the first moment (paper's γ), in (0, 1).
        beta2: decay of the second moment (paper's β), in (0, 1).
        step: step index n at which the bound is attained.

    Returns:
        float64 array of shape (n + 1,). Entries that underflow are 0; they would not change u_n.

    Raises:
        ValueError: if a beta is outside (0, 1).
    """
    gamma, beta = _betas(beta1, beta2)
    if not (gamma > 0 and beta > 0):
        raise ValueError(f"worst-case gradients need beta1 > 0 and beta2 > 0, got beta1={gamma}, beta2={beta}")
    exponent = np.arange(int(_steps(step)) + 1) * (np.log(beta) - np.log(gamma))
    return np.exp(exponent - exponent.max())


def boundary_beta2(*, beta1: ArrayLike, law: Law = "paper") -> FloatArray:
    """Return the β at which the coefficient vanishes for this γ: γ/(2−γ) (the paper's B₀) or γ² (exact).

    Pairs with a larger β are stable.
    """
    _check_law(law)
    gamma, _ = _betas(beta1, 0.0)
    return (gamma / (2 - gamma) if law == "paper" else gamma**2)[()]


def nearest_stable_beta2(*, beta1: float, beta2: float, law: Law = "paper") -> float:
    """Return the nearest stable ``beta2`` for this ``beta1``, or ``beta2`` itself if the pair is stable.

    The boundary is rounded up in the third significant digit of 1 − boundary, so that the result is short to type. A later
    digit is used where float64 or `BOUNDARY_TOLERANCE` requires it.

    Args:
        beta1: decay of the first moment (paper's γ), in [0, 1).
        beta2: decay of the second moment (paper's β), in [0, 1).
        law: ``"paper"`` for a pair inside the paper's region (`Verdict.STABLE`), ``"exact"`` for a pair that is bounded by
            the exact law.

    Returns:
        float below 1 whose ``repr`` is stable too. NaN if no float64 below 1 is stable, which happens only for a ``beta1``
        within a few machine epsilons of 1.
    """
    _check_law(law)
    wanted = (Verdict.STABLE,) if law == "paper" else (Verdict.STABLE, Verdict.BOUNDED)

    def stable(candidate: float) -> bool:
        return verdict(beta1=beta1, beta2=candidate) in wanted

    if stable(beta2):
        return float(beta2)
    return short_decimal_above(float(boundary_beta2(beta1=beta1, law=law)), stable)


def short_decimal_above(boundary: float, accept: Callable[[float], bool]) -> float:
    """Return a short decimal in (boundary, 1) that ``accept`` takes: rounded up in the third digit of 1 − boundary, or later.

    NaN if it takes no float64 below 1.
    """
    digits = 2 - int(np.floor(np.log10(1 - boundary)))
    for places in range(digits, max(digits, 17) + 1):
        unit = 10.0**-places
        candidate = round(float(np.ceil(boundary / unit)) * unit, places)
        for value in (candidate, round(candidate + unit, places)):
            if value < 1 and accept(value):
                return value
    # Decimals with 17 places miss some of the last floats below 1.
    value = float(np.nextafter(boundary, 1))
    while value < 1:
        if accept(value):
            return value
        value = float(np.nextafter(value, 1))
    return float("nan")


def level_curve(*, coefficient: ArrayLike, beta2: ArrayLike) -> FloatArray:
    """Return γ on the paper's level curve B_c = {C = c} at this β: 2/(1 + c + 1/β), or NaN where that is outside [0, 1)."""
    _, beta = _betas(0.0, beta2)
    with np.errstate(divide="ignore"):
        gamma = 2 / (1 + np.asarray(coefficient, dtype=np.float64) + 1 / beta)
    return np.where((gamma >= 0) & (gamma < 1), gamma, np.nan)[()]


def normal_curve_constant(*, beta1: ArrayLike, beta2: ArrayLike) -> FloatArray:
    """Return γ³ + 2β³, which is constant along a normal curve (derived for this artifact).

    A normal curve is perpendicular to every level curve of C: dγ/dβ = −2β²/γ².
    """
    gamma, beta = _betas(beta1, beta2)
    return (gamma**3 + 2 * beta**3)[()]


def normal_curve(*, through: Mapping[str, float], beta2: ArrayLike) -> FloatArray:
    """Return γ at this β on the normal curve through the pair ``{"beta1": γ₀, "beta2": β₀}``, or NaN outside [0, 1]."""
    _, beta = _betas(0.0, beta2)
    cube = normal_curve_constant(**through) - 2 * beta**3
    return np.where((cube >= 0) & (cube <= 1), np.cbrt(cube), np.nan)[()]


# Gauss-Legendre quadrature of the whole curve. The curve is smooth, so 64 nodes leave only rounding errors.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def normal_curve_points(*, count: int, through: Mapping[str, float] = USUAL_PAIR) -> tuple[FloatArray, FloatArray]:
    """Return points equally spaced by arc length on the part of the normal curve inside the unit square.

    The paper uses 64 points through (β,γ) = (0.999, 0.9). The points are the midpoints of ``count`` equal arcs, so that none
    lies on the edges β = 1 and γ = 1, where Adam is not defined.

    Args:
        count: number of points, at least 1.
        through: the pair ``{"beta1": γ₀, "beta2": β₀}`` that fixes the curve, each in (0, 1).

    Returns:
        ``(beta1, beta2)``, two float64 arrays of shape (count,), ordered by decreasing C.

    Raises:
        ValueError: if count < 1 or the pair is outside (0, 1).
    """
    if count < 1:
        raise ValueError(f"Invalid count: {count} is less than 1")
    constant = float(normal_curve_constant(**through))
    if not (through["beta1"] > 0 and through["beta2"] > 0):
        raise ValueError(f"the normal curve needs a pair inside the unit square, got {through}")

    # Polar coordinates (β, γ) = ρ(φ)·(cos φ, sin φ) give ρ³·(sin³φ + 2cos³φ) = constant, which is smooth up to both axes.
    # γ(β) and β(γ) are not.
    def radius(phi: FloatArray) -> FloatArray:
        return np.cbrt(constant / (np.sin(phi) ** 3 + 2 * np.cos(phi) ** 3))

    def speed(phi: FloatArray) -> FloatArray:
        sin, cos = np.sin(phi), np.cos(phi)
        slope = (sin * cos * (sin - 2 * cos)) / (sin**3 + 2 * cos**3)  # −ρ'/ρ
        return radius(phi) * np.hypot(1.0, slope)

    start = np.arctan2(np.cbrt(max(constant - 2, 0.0)), min(1.0, np.cbrt(constant / 2)))
    end = np.arctan2(min(1.0, np.cbrt(constant)), np.cbrt(max((constant - 1) / 2, 0.0)))

    def arc(phi: FloatArray) -> FloatArray:
        half = (np.asarray(phi)[..., None] - start) / 2
        return (half * _WEIGHTS * speed(start + half * (1 + _NODES))).sum(-1)

    target = (np.arange(count) + 0.5) / count * arc(end)
    phi = start + (end - start) * (np.arange(count) + 0.5) / count
    for _ in range(20):  # Newton's method converges to rounding in a few steps
        phi = phi - (arc(phi) - target) / speed(phi)
    return radius(phi) * np.sin(phi), radius(phi) * np.cos(phi)


def epsilon_cap(
    *, beta1: ArrayLike, beta2: ArrayLike, eps: ArrayLike, root: ArrayLike = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Return when and at what size ε ends the growth of a coordinate that receives no gradients (derived for this artifact).

    Without gradients m decays as γ^j and √v as β^{j/2}. The update, without bias correction, is γ^j·m₀ / (√v₀·β^{j/2} + ε). It
    grows at the exact rate until √v has decayed to about ε, and then falls. With a = −ln γ and b = −½ ln β, the maximum over
    j ≥ 0 is where √v = ε·a/(b−a).

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in (0, 1).
        beta2: decay of the second moment (paper's β), in (0, 1), with γ² > β (unstable by the exact law).
        eps: ε > 0, in the gradients' unit.
        root: √v₀, in the gradients' unit.

    Returns:
        ``(unseen, cap)``: the j of the maximum (0 if ε is so large that the update only falls), and the update at the
        maximum in units of m₀/√v₀.

    Raises:
        ValueError: if a pair is stable by the exact law, eps ≤ 0, or a beta is outside [0, 1).
    """
    gamma, beta = _betas(beta1, beta2)
    eps, root = np.asarray(eps, dtype=np.float64), np.asarray(root, dtype=np.float64)
    if not (stability_coefficient(beta1=gamma, beta2=beta, law="exact") < 0).all() or (beta == 0).any():
        raise ValueError(f"beta1={gamma}, beta2={beta}: a stable pair has no growth to cap")
    if not (eps > 0).all():
        raise ValueError(f"Invalid epsilon: {eps} is not above 0")
    a, b = -np.log(gamma), -0.5 * np.log(beta)
    unseen = np.maximum(0.0, np.log((b - a) * root / (a * eps)) / b)
    cap = np.exp((b - a) * unseen) / (1 + eps / root * np.exp(b * unseen))
    return unseen[()], cap[()]
