"""When are Adam's updates bounded? Section 3 of arXiv 2411.05746, and the exact discrete law beside it.

Adam's update at step n = 0, 1, 2, ... is u_n = [√(1−β^{n+1}) / (1−γ^{n+1})] · m_n/√v_n, with ε = 0. The paper's γ is
PyTorch's ``beta1`` and the paper's β is ``beta2``; all functions take them as keywords because the order of the pair
is the opposite in the two worlds. Both must lie in [0, 1).

Two laws are given for every quantity, chosen by ``law``:

``"paper"``
    Cauchy-Schwarz on the continuous-time kernels (the paper's section 3): C(β,γ) = 2/γ − 1/β − 1.
``"exact"``
    The same inequality on the discrete sums (derived for this artifact): C_d(β,γ) = ln(β/γ²). It is attained, so it is
    the best possible; C is its first-order expansion at (1, 1), and C > 0 implies C_d > 0.

Everything is float64, elementwise with NumPy broadcasting, and without physical units (rates are per step).
"""

import enum
from typing import Literal

import numpy as np

Law = Literal["paper", "exact"]

#: The pair almost everybody uses, torch's default.
USUAL_PAIR = {"beta1": 0.9, "beta2": 0.999}
#: Relative distance of ``beta2`` from a boundary up to which a pair counts as on it. Betas are typed as decimals, and
#: 0.9² = 0.81 holds for the decimals but not for the nearest floats: rounding both of them moves the pair by up to 1.5
#: machine epsilons, and evaluating the distance adds about as much again.
BOUNDARY_TOLERANCE = 4 * np.finfo(np.float64).eps


class Verdict(enum.Enum):
    """What the two laws say about a pair of betas; see `verdict`. The value is the sentence to show."""

    STABLE = "stable: updates are bounded for every sequence of gradients"
    BOUNDED = "bounded by the exact law, but outside the paper's stable region"
    BOUNDARY = "on the boundary: updates can grow like the square root of the number of steps"
    UNSTABLE = "unstable: updates can grow exponentially"


def _betas(beta1, beta2):
    gamma, beta = np.asarray(beta1, dtype=np.float64), np.asarray(beta2, dtype=np.float64)
    for name, value in (("beta1", gamma), ("beta2", beta)):
        outside = ~((value >= 0) & (value < 1))  # so that NaN counts as outside
        if outside.any():
            raise ValueError(f"Invalid {name}: {value[outside].flat[0]} is not in [0, 1)")
    return gamma, beta


def _steps(step):
    step = np.asarray(step, dtype=np.float64)
    if not (step >= 0).all():
        raise ValueError(f"Invalid step: {step[~(step >= 0)].flat[0]} is not a step index (0, 1, 2, ...)")
    return step


def _check_law(law):
    if law not in ("paper", "exact"):
        raise ValueError(f"Invalid law: {law!r} is neither 'paper' nor 'exact'")


def _above_boundary(gamma, beta, law):
    """β/β₀ − 1, where β₀ is the boundary for this γ: accurate to rounding near 0, inf or NaN where γ² underflows."""
    if law == "paper":
        return (2 * beta * (1 - gamma) - gamma * (1 - beta)) / gamma
    # The first form is exact up to one rounding where β and γ² cancel near 1; below 1/2 it is 1 − γ that is rounded.
    near_one = ((beta - gamma) + gamma * (1 - gamma)) / gamma**2
    return np.where(gamma >= 0.5, near_one, beta / gamma**2 - 1)


def stability_coefficient(*, beta1, beta2, law: Law = "paper"):
    """The coefficient whose sign decides whether updates are bounded (positive) or can grow exponentially (negative).

    Args:
        beta1: decay of the first moment (paper's γ), scalar or array in [0, 1).
        beta2: decay of the second moment (paper's β), broadcast against ``beta1``.
        law: ``"paper"`` for C = 2/γ − 1/β − 1, ``"exact"`` for C_d = ln(β/γ²).

    Returns:
        float64 of the broadcast shape. Exactly 0 on the boundary, up to `BOUNDARY_TOLERANCE`; +inf for γ = 0 (RMSprop
        and sign descent: always bounded); −inf for β = 0 < γ (v forgets all but the last gradient: no bound).

    Raises:
        ValueError: a beta outside [0, 1) or an unknown law.
    """
    _check_law(law)
    gamma, beta = _betas(beta1, beta2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if law == "paper":
            # One fraction instead of 2/γ − 1/β − 1: near (1, 1) the three terms cancel, 1−γ and 1−β do not.
            c = (2 * beta * (1 - gamma) - gamma * (1 - beta)) / beta / gamma
            c = np.where(beta == 0, -np.inf, c)
        else:
            # β − γ² as (β−γ) + γ(1−γ), both exact where they nearly cancel; the plain logarithms elsewhere, and for a γ
            # so small that rounding γ(1−γ) would outweigh γ².
            excess = ((beta - gamma) + gamma * (1 - gamma)) / gamma**2
            close = (np.abs(excess) < 0.5) & (gamma > 1e-4)
            c = np.where(close, np.log1p(excess), np.log(beta) - 2 * np.log(gamma))
        above = _above_boundary(gamma, beta, law)
        if law == "exact":
            # For a small γ even the sign of the excess is lost so close to the boundary.
            c = np.where(np.abs(above) < 1e-9, np.log1p(above), c)
        c = np.where(np.abs(above) <= BOUNDARY_TOLERANCE, 0.0, c)
    return np.where(gamma == 0, np.inf, c)[()]


def growth_rate(*, beta1, beta2, law: Law = "paper"):
    """Largest exponential rate, per step, at which ‖u_n‖ can grow: max(0, −coefficient/2).

    The paper's law gives |C|/2 outside the stable region, the exact one ln(γ/√β). Shapes and errors as in
    `stability_coefficient`.
    """
    # The sum turns −0, which a coefficient of 0 gives, into 0.
    return (np.maximum(0.0, -0.5 * stability_coefficient(beta1=beta1, beta2=beta2, law=law)) + 0.0)[()]


def verdict(*, beta1, beta2):
    """Return the `Verdict` on a pair of betas (scalars in [0, 1)).

    The exact law decides between bounded, boundary and unstable, because it is attained; a bounded pair is ``STABLE``
    if it lies inside the paper's region as well. `BOUNDARY_TOLERANCE` applies to both boundaries.

    Raises:
        ValueError: a beta outside [0, 1).
    """
    exact = stability_coefficient(beta1=beta1, beta2=beta2, law="exact")
    if exact < 0:
        return Verdict.UNSTABLE
    if exact == 0:
        return Verdict.BOUNDARY
    return Verdict.STABLE if stability_coefficient(beta1=beta1, beta2=beta2, law="paper") > 0 else Verdict.BOUNDED


def prefactor(*, beta1, beta2, step):
    """Adam's bias correction √(1−β^{n+1}) / (1−γ^{n+1}) of the update at step n (the first step is n = 0).

    Args:
        beta1, beta2: as in `stability_coefficient`.
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit 1.
    """
    gamma, beta = _betas(beta1, beta2)
    n1 = _steps(step) + 1
    with np.errstate(divide="ignore"):
        return (np.sqrt(-np.expm1(n1 * np.log(beta))) / -np.expm1(n1 * np.log(gamma)))[()]


def _geometric_sum(c, n1, *, unit):
    """(1 − e^{−n1·c}) / unit(c), continued by its limit n1 at c = 0; unit is c itself or 1 − e^{−c}."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = np.expm1(-n1 * c) / unit(c)
    return np.where(c == 0, n1, value)


def update_bound(*, beta1, beta2, step, law: Law = "paper"):
    """Upper bound on ‖u_n‖_∞ at step n for *any* sequence of gradients (paper, section 3).

    ``law="paper"``: prefactor · (1−γ)/γ · √(β/(1−β)) · √((1−e^{−tC})/C), taken at t = n + 1 because n + 1 averages have
    been made after step n. It is +inf for γ = 0, where the paper's kernel rate (1−γ)/γ diverges, except at
    γ = β = 0, where the limit along β = γ is 1.

    ``law="exact"``: prefactor · (1−γ)/√(1−β) · √(Σ_{j≤n} (γ²/β)^j); attained by `worst_case_gradients`.

    Args:
        beta1, beta2: as in `stability_coefficient`.
        step: step index n ≥ 0, broadcast; ``inf`` gives the limit (inf where there is none).
        law: which of the two.

    Returns:
        float64 of the broadcast shape; inf where the value exceeds float64 or there is no bound.

    Raises:
        ValueError: a beta outside [0, 1), a negative step, an unknown law.
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
            # β = 0 < γ: the sum's ratio is infinite, but the first term is always 1.
            total = np.where((beta == 0) & (gamma > 0), np.where(n1 == 1, 1.0, np.inf), total)
            bound = correction * (1 - gamma) / np.sqrt(1 - beta) * np.sqrt(total)
        # Where the geometric sum overflows, inf/inf leaves a NaN; the bound there is beyond float64.
        return np.where(np.isnan(bound), np.inf, bound)[()]


def worst_case_gradients(*, beta1, beta2, step):
    """Gradients g_0 … g_n that make |u_n| equal to the exact bound at step n: g_j ∝ (β/γ)^j, largest one 1.

    Args:
        beta1, beta2: scalars in (0, 1).
        step: the step index n at which the bound is attained.

    Returns:
        float64 array of shape (n + 1,). Entries below float64's range are 0; they would not change u_n.
    """
    gamma, beta = _betas(beta1, beta2)
    if not (gamma > 0 and beta > 0):
        raise ValueError(f"worst-case gradients need beta1 > 0 and beta2 > 0, got beta1={gamma}, beta2={beta}")
    exponent = np.arange(int(_steps(step)) + 1) * (np.log(beta) - np.log(gamma))
    return np.exp(exponent - exponent.max())


def boundary_beta2(*, beta1, law: Law = "paper"):
    """The β at which the coefficient vanishes for this γ: γ/(2−γ) (paper, B₀) or γ² (exact). Stable is above it."""
    _check_law(law)
    gamma, _ = _betas(beta1, 0.0)
    return (gamma / (2 - gamma) if law == "paper" else gamma**2)[()]


def nearest_stable_beta2(*, beta1, beta2, law: Law = "paper"):
    """Return the nearest stable ``beta2`` for this ``beta1``: ``beta2`` itself if the pair is stable.

    Otherwise the boundary rounded up in the third significant digit of 1 − boundary, so that it is short to type, and
    in a later digit where float64 or `BOUNDARY_TOLERANCE` demands it.

    Args:
        beta1, beta2: scalars in [0, 1).
        law: ``"paper"`` for a pair inside the paper's region (`Verdict.STABLE`), ``"exact"`` for one that is bounded by
            the exact law.

    Returns:
        float below 1 that is stable as it stands and as ``repr`` prints it. NaN if no float64 below 1 is: this
        happens only for a ``beta1`` within a few machine epsilons of 1.
    """
    _check_law(law)
    wanted = (Verdict.STABLE,) if law == "paper" else (Verdict.STABLE, Verdict.BOUNDED)

    def stable(candidate):
        return candidate < 1 and verdict(beta1=beta1, beta2=candidate) in wanted

    if verdict(beta1=beta1, beta2=beta2) in wanted:
        return float(beta2)
    boundary = float(boundary_beta2(beta1=beta1, law=law))
    digits = 2 - int(np.floor(np.log10(1 - boundary)))
    for places in range(digits, max(digits, 17) + 1):
        unit = 10.0**-places
        candidate = round(float(np.ceil(boundary / unit)) * unit, places)
        for value in (candidate, round(candidate + unit, places)):
            if stable(value):
                return value
    # Decimals of 17 places skip some of the last floats below 1.
    value = boundary
    while value < 1:
        value = float(np.nextafter(value, 1))
        if stable(value):
            return value
    return float("nan")


def level_curve(*, coefficient, beta2):
    """γ of the paper's level curve B_c = {C = c} at this β: 2/(1 + c + 1/β). NaN where it leaves [0, 1)."""
    _, beta = _betas(0.0, beta2)
    with np.errstate(divide="ignore"):
        gamma = 2 / (1 + np.asarray(coefficient, dtype=np.float64) + 1 / beta)
    return np.where((gamma >= 0) & (gamma < 1), gamma, np.nan)[()]


def normal_curve_constant(*, beta1, beta2):
    """γ³ + 2β³, which is constant along a curve that is perpendicular to every level curve of C (dγ/dβ = −2β²/γ²)."""
    gamma, beta = _betas(beta1, beta2)
    return (gamma**3 + 2 * beta**3)[()]


def normal_curve(*, through, beta2):
    """γ at this β on the normal curve through a pair ``{"beta1": γ₀, "beta2": β₀}``; NaN where it leaves [0, 1]."""
    _, beta = _betas(0.0, beta2)
    cube = normal_curve_constant(**through) - 2 * beta**3
    return np.where((cube >= 0) & (cube <= 1), np.cbrt(cube), np.nan)[()]


# Gauss-Legendre on the whole (smooth) curve: 64 nodes leave only rounding.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def normal_curve_points(*, count, through=USUAL_PAIR):
    """Points equally spaced by arc length along the part of the normal curve that lies in the unit square.

    The paper takes 64 of them through (β,γ) = (0.999, 0.9). The points are the midpoints of ``count`` equal arcs, so
    that none lies on the edges β = 1 and γ = 1, where Adam is not defined.

    Args:
        count: number of points, at least 1.
        through: the pair ``{"beta1": γ₀, "beta2": β₀}`` that fixes the curve; neither 0.

    Returns:
        ``(beta1, beta2)``, two float64 arrays of shape (count,), ordered by falling C (stable end first).

    Raises:
        ValueError: count < 1, or a pair outside (0, 1).
    """
    if count < 1:
        raise ValueError(f"Invalid count: {count} is less than 1")
    constant = normal_curve_constant(**through)
    if not (through["beta1"] > 0 and through["beta2"] > 0):
        raise ValueError(f"the normal curve needs a pair inside the unit square, got {through}")

    # In polar coordinates (β, γ) = ρ(φ)·(cos φ, sin φ) the curve is ρ³·(sin³φ + 2cos³φ) = constant: smooth up to
    # both axes, where γ(β) and β(γ) are not.
    def radius(phi):
        return np.cbrt(constant / (np.sin(phi) ** 3 + 2 * np.cos(phi) ** 3))

    def speed(phi):
        sin, cos = np.sin(phi), np.cos(phi)
        slope = (sin * cos * (sin - 2 * cos)) / (sin**3 + 2 * cos**3)  # −ρ'/ρ
        return radius(phi) * np.hypot(1.0, slope)

    start = np.arctan2(np.cbrt(max(constant - 2, 0.0)), min(1.0, np.cbrt(constant / 2)))
    end = np.arctan2(min(1.0, np.cbrt(constant)), np.cbrt(max((constant - 1) / 2, 0.0)))

    def arc(phi):
        half = (np.asarray(phi)[..., None] - start) / 2
        return (half * _WEIGHTS * speed(start + half * (1 + _NODES))).sum(-1)

    target = (np.arange(count) + 0.5) / count * arc(end)
    phi = start + (end - start) * (np.arange(count) + 0.5) / count
    for _ in range(20):  # Newton on a smooth increasing function: quadratic, settles to rounding in a few steps
        phi = phi - (arc(phi) - target) / speed(phi)
    return radius(phi) * np.sin(phi), radius(phi) * np.cos(phi)


def epsilon_cap(*, beta1, beta2, eps, root=1.0):
    """Where ε ends the growth of a coordinate whose gradients have stopped (derived for this artifact).

    With no gradients m decays as γ^j and √v as β^{j/2}, so the update is γ^j·m₀ / (√v₀·β^{j/2} + ε), without bias
    correction: it grows at the exact rate until √v has come down to ε, then falls. Its maximum over j ≥ 0 has a closed
    form: with a = −ln γ and b = −½ ln β it lies where √v = ε·a/(b−a).

    Args:
        beta1, beta2: scalars or arrays in (0, 1), outside the exact stable region (γ² > β).
        eps: ε > 0.
        root: √v₀, in the gradients' unit.

    Returns:
        ``(unseen, cap)``: j of the maximum (0 if ε is so large that it only falls), and the update there in units of
        m₀/√v₀.

    Raises:
        ValueError: a pair that is stable by the exact law, ε ≤ 0, or a beta outside [0, 1).
    """
    gamma, beta = _betas(beta1, beta2)
    eps, root = np.asarray(eps, dtype=np.float64), np.asarray(root, dtype=np.float64)
    if not (stability_coefficient(beta1=gamma, beta2=beta, law="exact") < 0).all() or (beta == 0).any():
        raise ValueError(f"beta1={gamma}, beta2={beta}: without growth there is nothing to cap")
    if not (eps > 0).all():
        raise ValueError(f"Invalid epsilon: {eps} is not above 0")
    a, b = -np.log(gamma), -0.5 * np.log(beta)
    unseen = np.maximum(0.0, np.log((b - a) * root / (a * eps)) / b)
    cap = np.exp((b - a) * unseen) / (1 + eps / root * np.exp(b * unseen))
    return unseen[()], cap[()]
