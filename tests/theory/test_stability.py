"""Test the stability formulas against exact arithmetic, brute force and Adam's recursion."""

import warnings
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from ctadam.theory import stability as s

# The open unit square, and the corner (1, 1) with the usual pairs, resolved to 1e-6.
inside = st.one_of(
    st.floats(1e-6, 1 - 1e-6),
    st.floats(-6, -0.5).map(lambda exponent: 1 - 10**exponent),
)
pairs = st.fixed_dictionaries({"beta1": inside, "beta2": inside})
laws = st.sampled_from(["paper", "exact"])


def exact_bound(beta1, beta2, step):
    """Return the exact bound from its definition, summed term by term with 60 digits."""
    with mpmath.workdps(60):
        g, b = mpmath.mpf(beta1), mpmath.mpf(beta2)
        total = mpmath.fsum((g * g / b) ** j for j in range(step + 1))
        return float(
            mpmath.sqrt(1 - b ** (step + 1)) / (1 - g ** (step + 1)) * (1 - g) / mpmath.sqrt(1 - b) * mpmath.sqrt(total)
        )


def paper_bound(beta1, beta2, step):
    """The paper's bound with 60 digits."""
    with mpmath.workdps(60):
        g, b = mpmath.mpf(beta1), mpmath.mpf(beta2)
        c, t = 2 / g - 1 / b - 1, step + 1
        root = mpmath.sqrt((1 - mpmath.exp(-t * c)) / c) if c else mpmath.sqrt(t)
        return float(mpmath.sqrt(1 - b**t) / (1 - g**t) * (1 - g) / g * mpmath.sqrt(b / (1 - b)) * root)


def adam_update(gradients, beta1, beta2):
    """Return u_n after all gradients by Adam's recursion, in the order of the paper's equations."""
    m = v = 0.0
    for gradient in gradients:
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
    n1 = len(gradients)
    return np.sqrt(1 - beta2**n1) / (1 - beta1**n1) * m / np.sqrt(v) if v > 0 else 0.0


@given(inside, st.floats(-1e-3, 1e-3), laws)
def test_coefficients_do_not_cancel_at_their_boundary(gamma, offset, law):
    """The error is proportional to 1 − γ, which near (1, 1) is far below the 1 that is subtracted."""
    beta = min(float(s.boundary_beta2(beta1=gamma, law=law)) * (1 + offset * (1 - gamma)), 1 - 1e-12)
    with mpmath.workdps(60):
        g, b = mpmath.mpf(gamma), mpmath.mpf(beta)
        exact = float(2 / g - 1 / b - 1 if law == "paper" else mpmath.log(b) - 2 * mpmath.log(g))
    found = s.stability_coefficient(beta1=gamma, beta2=beta, law=law)
    if found == 0:  # on the boundary, up to the rounding of the betas themselves
        assert abs(np.expm1(exact) if law == "exact" else exact * beta) <= 2 * s.BOUNDARY_TOLERANCE
    else:
        assert abs(found - exact) <= 4 * np.finfo(float).eps * ((1 - gamma) / gamma + abs(exact))


def test_known_values():
    usual = s.USUAL_PAIR
    assert s.stability_coefficient(**usual) == pytest.approx(2 / 0.9 - 1 / 0.999 - 1, rel=1e-14)
    assert s.normal_curve_constant(**usual) == pytest.approx(2.723006, abs=1e-6)
    # Where the normal curve through the usual pair leaves the stable region and the square.
    assert s.normal_curve(through=usual, beta2=0.9619) == pytest.approx(0.9806, abs=1e-4)
    assert s.normal_curve(through=usual, beta2=0.9516) == pytest.approx(1.0, abs=2e-4)
    assert s.growth_rate(beta1=0.985, beta2=0.9596) == pytest.approx(0.0058, abs=5e-5)
    assert s.growth_rate(beta1=0.995, beta2=0.9543, law="exact") == pytest.approx(0.0184, abs=5e-5)
    assert s.update_bound(beta1=0.5, beta2=0.3, step=np.inf, law="exact") == pytest.approx(1.4639, abs=1e-4)
    assert s.stability_coefficient(beta1=0.5, beta2=0.3) == pytest.approx(-1 / 3, rel=1e-14)


@given(pair=pairs)
def test_paper_region_lies_inside_exact_region(pair):
    c, exact = s.stability_coefficient(**pair), s.stability_coefficient(**pair, law="exact")
    if c > 1e-12:
        assert exact > 0
    assert s.growth_rate(**pair) >= s.growth_rate(**pair, law="exact") - 1e-15


@given(epsilon=st.floats(1e-7, 1e-3), angle=st.floats(0.01, np.pi / 2 - 0.01))
def test_paper_coefficient_is_first_order_of_exact_one(epsilon, angle):
    pair = {"beta1": 1 - epsilon * np.cos(angle), "beta2": 1 - epsilon * np.sin(angle)}
    difference = s.stability_coefficient(**pair) - s.stability_coefficient(**pair, law="exact")
    assert abs(difference) <= 4 * epsilon**2 + 1e-14


@settings(max_examples=150, deadline=None)
@given(pair=pairs, step=st.integers(0, 300))
def test_bounds_against_exact_arithmetic(pair, step):
    for law, reference in (("exact", exact_bound), ("paper", paper_bound)):
        try:
            expected = reference(**pair, step=step)
        except OverflowError:
            expected = np.inf
        found = s.update_bound(**pair, step=step, law=law)
        if expected > 1e150:  # the square of the bound has left float64
            assert found > 1e140
        else:
            # The exponent's own rounding is amplified by the growth that it describes.
            growth = 1 + (step + 1) * abs(float(s.stability_coefficient(**pair, law=law)))
            assert found == pytest.approx(expected, rel=1e-12 * growth)


@pytest.mark.parametrize("step", [0, 1, 10, 10_000])
@pytest.mark.parametrize("gamma", [0.3, 0.9, 0.999])
def test_limits_on_the_boundaries(gamma, step):
    """γ² = β and C = 0, and a hair to either side: no cancellation, no jump."""
    for law in ("exact", "paper"):
        boundary = s.boundary_beta2(beta1=gamma, law=law)
        around = [s.update_bound(beta1=gamma, beta2=boundary * (1 + h), step=step, law=law) for h in (-1e-13, 0, 1e-13)]
        kernel = (1 - gamma) / np.sqrt(1 - boundary)
        if law == "paper":
            kernel = (1 - gamma) / gamma * np.sqrt(boundary / (1 - boundary))
        expected = s.prefactor(beta1=gamma, beta2=boundary, step=step) * kernel * np.sqrt(step + 1)
        np.testing.assert_allclose(around, expected, rtol=1e-8)


@settings(max_examples=60, deadline=None)
@given(beta1=st.floats(0.05, 0.999), beta2=st.floats(0.05, 0.999), step=st.integers(0, 200))
def test_worst_case_gradients_attain_the_exact_bound(beta1, beta2, step):
    if step * max(abs(np.log10(beta2 / beta1)), -np.log10(beta2) / 2) > 130:
        step = 10
    gradients = s.worst_case_gradients(beta1=beta1, beta2=beta2, step=step)
    update = adam_update(gradients, beta1, beta2)
    assert update == pytest.approx(s.update_bound(beta1=beta1, beta2=beta2, step=step, law="exact"), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(pair=pairs, gradients=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_no_gradients_exceed_the_bounds(pair, gradients):
    gradients = [g for g in gradients if g == 0 or abs(g) > 1e-6]
    if gradients:
        update = abs(adam_update(gradients, **pair))
        step = len(gradients) - 1
        # 1 − β^n by plain subtraction, as in the recursion above, loses up to 1e-16/(1e-6) of its value.
        assert update <= s.update_bound(**pair, step=step, law="exact") * (1 + 1e-8)
        if s.stability_coefficient(**pair) > 0:
            assert s.update_bound(**pair, step=step, law="exact") <= s.update_bound(**pair, step=step) * (1 + 1e-9)


def test_special_cases():
    n = np.array([0, 3, np.inf])
    rms = s.update_bound(beta1=0.0, beta2=0.999, step=n, law="exact")
    np.testing.assert_allclose(rms[[0, 2]], [1, 1 / np.sqrt(1 - 0.999)], rtol=1e-12)
    np.testing.assert_allclose(s.update_bound(beta1=0.0, beta2=0.0, step=n, law="exact"), 1.0)  # sign descent
    np.testing.assert_allclose(s.update_bound(beta1=0.0, beta2=0.0, step=n), 1.0)
    assert np.isinf(s.update_bound(beta1=0.0, beta2=0.9, step=0))
    assert s.stability_coefficient(beta1=0.7, beta2=0.7) == pytest.approx(1 / 0.7 - 1, rel=1e-14)
    assert s.update_bound(beta1=0.7, beta2=0.7, step=np.inf) == pytest.approx(1.0, rel=1e-12)
    assert s.update_bound(beta1=0.7, beta2=0.7, step=np.inf, law="exact") == pytest.approx(1.0, rel=1e-12)
    # v forgets all but the last gradient: no bound from the second step on.
    assert s.stability_coefficient(beta1=0.5, beta2=0.0) == -np.inf
    np.testing.assert_array_equal(s.update_bound(beta1=0.5, beta2=0.0, step=[0, 1], law="exact"), [1, np.inf])
    # The largest float64 below 1 and very long runs: finite where bounded, inf where not, never NaN, never a warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        almost = np.nextafter(1, 0)
        assert np.isfinite(s.update_bound(beta1=0.9, beta2=almost, step=1e9, law="exact"))
        assert s.update_bound(beta1=0.999, beta2=0.9, step=1e9, law="exact") == np.inf
        # The other corner, where βγ is below float64's range.
        tiny = {"beta1": 1e-200, "beta2": 1e-200}
        assert s.stability_coefficient(**tiny) == pytest.approx(1e200)
        assert s.update_bound(**tiny, step=3) == pytest.approx(1) == s.update_bound(**tiny, step=3, law="exact")
        assert s.stability_coefficient(beta1=0.5, beta2=1e-310) == -np.inf


#: Decimals below 1 with up to six digits, exactly.
decimals = st.integers(1, 6).flatmap(lambda n: st.integers(1, 10**n - 1).map(lambda k: Fraction(k, 10**n)))


@given(decimals)
@example(Fraction(9, 10))
@example(Fraction(8, 10))
@example(Fraction(1, 2))
@example(Fraction(1, 1000))
@example(Fraction(999999, 1000000))
def test_decimal_pairs_on_the_exact_boundary_are_classified_as_boundary(gamma):
    pair = {"beta1": float(gamma), "beta2": float(gamma**2)}
    assert s.verdict(**pair) is s.Verdict.BOUNDARY
    assert s.stability_coefficient(**pair, law="exact") == 0
    assert str(s.growth_rate(**pair, law="exact")) == "0.0"  # not -0.0, which would be printed
    assert np.isinf(s.update_bound(**pair, step=np.inf, law="exact"))
    assert s.update_bound(**pair, step=10**6, law="exact") == pytest.approx(
        s.prefactor(**pair, step=10**6) * (1 - pair["beta1"]) / np.sqrt(1 - pair["beta2"]) * np.sqrt(10**6 + 1)
    )


@given(decimals)
@example(Fraction(4, 10))
@example(Fraction(75, 100))
@example(Fraction(976, 1000))
def test_decimal_pairs_on_the_paper_boundary_are_classified_as_boundary(gamma):
    pair = {"beta1": float(gamma), "beta2": float(gamma / (2 - gamma))}
    assert s.stability_coefficient(**pair) == 0
    assert str(s.growth_rate(**pair)) == "0.0"
    assert np.isinf(s.update_bound(**pair, step=np.inf))
    # Inside the exact region, which touches the paper's at (1, 1) only.
    assert s.verdict(**pair) is s.Verdict.BOUNDED


@given(inside, laws, st.sampled_from([-1, 1]))
def test_boundary_tolerance_is_a_few_machine_epsilons(gamma, law, side):
    beta = s.boundary_beta2(beta1=gamma, law=law) * (1 + 4 * side * s.BOUNDARY_TOLERANCE)
    assert np.sign(s.stability_coefficient(beta1=gamma, beta2=beta, law=law)) == side


@given(pair=pairs)
def test_verdict_agrees_with_coefficients_rates_and_bounds(pair):
    verdict = s.verdict(**pair)
    c, exact = (s.stability_coefficient(**pair, law=law) for law in ("paper", "exact"))
    bounded = verdict in (s.Verdict.STABLE, s.Verdict.BOUNDED)
    assert bounded == (exact > 0) == bool(np.isfinite(s.update_bound(**pair, step=np.inf, law="exact")))
    assert (verdict is s.Verdict.STABLE) == (c > 0 and exact > 0)
    assert (verdict is s.Verdict.UNSTABLE) == (exact < 0) == (s.growth_rate(**pair, law="exact") > 0)


@pytest.mark.parametrize("gamma", [1e-5, 1e-17, 1e-160])
def test_tiny_beta1_is_unstable_for_zero_beta2(gamma):
    """γ(1 − γ) rounds to γ there, and β − γ² must not vanish with it."""
    assert s.verdict(beta1=gamma, beta2=0.0) is s.Verdict.UNSTABLE
    assert s.verdict(beta1=gamma, beta2=gamma) is s.Verdict.STABLE


#: As close to 1 as float64 allows.
close_to_one = st.one_of(
    st.floats(0, 1, exclude_max=True),
    st.floats(-16, 0).map(lambda exponent: min(1 - 10**exponent, np.nextafter(1, 0))).filter(lambda value: value >= 0),
    st.integers(1, 64).map(lambda n: 1 - n * 2.0**-53),
)


@settings(max_examples=500, deadline=None)
@given(beta1=close_to_one, beta2=close_to_one, law=laws)
@example(beta1=0.99995, beta2=0.999, law="paper")
@example(beta1=1 - 1e-12, beta2=0.0, law="paper")
@example(beta1=1 - 2.0**-53, beta2=0.5, law="exact")
def test_nearest_stable_beta2_is_stable_as_printed(beta1, beta2, law):
    nearest = s.nearest_stable_beta2(beta1=beta1, beta2=beta2, law=law)
    last = 1 - 2.0**-53
    wanted = {s.Verdict.STABLE} if law == "paper" else {s.Verdict.STABLE, s.Verdict.BOUNDED}
    if np.isnan(nearest):
        assert beta1 > 1 - 1e-15 and s.verdict(beta1=beta1, beta2=last) not in wanted
    else:
        assert nearest < 1 and s.verdict(beta1=beta1, beta2=float(repr(nearest))) in wanted
        assert type(nearest) is float
        assert s.stability_coefficient(beta1=beta1, beta2=nearest, law=law) > 0


@given(pair=pairs, law=laws)
def test_boundary_and_nearest_stable(pair, law):
    boundary = s.boundary_beta2(beta1=pair["beta1"], law=law)
    assert s.stability_coefficient(beta1=pair["beta1"], beta2=boundary, law=law) == pytest.approx(
        0, abs=1e-9 * max(1, 1 / boundary)
    )
    stable = s.stability_coefficient(**pair, law=law) > 0
    nearest = s.nearest_stable_beta2(**pair, law=law)
    assert s.stability_coefficient(beta1=pair["beta1"], beta2=nearest, law=law) > 0
    if stable:
        assert nearest == pair["beta2"]
    else:
        assert boundary <= nearest <= boundary + 0.11 * (1 - boundary)


@given(coefficient=st.floats(-0.5, 2), beta2=st.floats(0.1, 0.999))
def test_level_curve(coefficient, beta2):
    beta1 = s.level_curve(coefficient=coefficient, beta2=beta2)
    if np.isfinite(beta1):
        assert s.stability_coefficient(beta1=beta1, beta2=beta2) == pytest.approx(coefficient, abs=1e-12)
    else:
        assert 2 / (1 + coefficient + 1 / beta2) >= 1


def test_normal_curve_is_perpendicular_to_level_curves():
    beta1, beta2 = s.normal_curve_points(count=64)
    h = 1e-6
    d_gamma = (
        s.stability_coefficient(beta1=beta1 + h, beta2=beta2) - s.stability_coefficient(beta1=beta1 - h, beta2=beta2)
    ) / (2 * h)
    d_beta = (
        s.stability_coefficient(beta1=beta1, beta2=beta2 + h) - s.stability_coefficient(beta1=beta1, beta2=beta2 - h)
    ) / (2 * h)
    slope = (
        s.normal_curve(through=s.USUAL_PAIR, beta2=beta2 + h) - s.normal_curve(through=s.USUAL_PAIR, beta2=beta2 - h)
    ) / (2 * h)
    # The curve's direction (1, dγ/dβ) is that of the gradient (∂C/∂β, ∂C/∂γ).
    np.testing.assert_allclose(slope[1:], (d_gamma / d_beta)[1:], rtol=1e-5)


@pytest.mark.parametrize("pair", [(0.9, 0.999), (0.3, 0.3), (0.5, 0.1), (0.1, 0.6), (0.999, 0.01)])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_points_are_equally_spaced_by_arc_length(pair, count):
    through = dict(zip(("beta1", "beta2"), pair, strict=True))
    beta1, beta2 = s.normal_curve_points(count=count, through=through)
    assert ((beta1 > 0) & (beta1 < 1) & (beta2 > 0) & (beta2 < 1)).all()
    np.testing.assert_allclose(
        s.normal_curve_constant(beta1=beta1, beta2=beta2), s.normal_curve_constant(**through), rtol=1e-12
    )
    # An independent arc length: integrate along β where the curve is flat in γ, along γ where it is steep.
    constant = float(s.normal_curve_constant(**through))

    def arc(i):
        (b0, g0), (b1, g1) = (beta2[i], beta1[i]), (beta2[i + 1], beta1[i + 1])
        if abs(b1 - b0) > abs(g1 - g0):
            return abs(quad(lambda b: np.hypot(1, 2 * b**2 / np.cbrt(constant - 2 * b**3) ** 2), b0, b1)[0])
        return abs(quad(lambda g: np.hypot(1, g**2 / (2 * np.cbrt((constant - g**3) / 2) ** 2)), g0, g1)[0])

    arcs = [arc(i) for i in range(0, count - 1, max(1, count // 8))]
    if arcs:
        np.testing.assert_allclose(arcs, arcs[0], rtol=1e-7)
    assert (np.diff(s.stability_coefficient(beta1=beta1, beta2=beta2)) < 0).all()


def test_epsilon_cap_against_brute_force():
    beta1, beta2, eps, root = 0.96, 0.88, 1e-8, 3e-4
    j = np.arange(2000)
    update = beta1**j / (beta2 ** (j / 2) + eps / root)
    unseen, cap = s.epsilon_cap(beta1=beta1, beta2=beta2, eps=eps, root=root)
    assert abs(unseen - update.argmax()) <= 1
    assert cap == pytest.approx(update.max(), rel=1e-3)
    assert s.epsilon_cap(beta1=beta1, beta2=beta2, eps=10.0)[0] == 0  # too large an ε: falls from the start


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: s.stability_coefficient(beta1=1.0, beta2=0.9), r"Invalid beta1: 1.0 is not in \[0, 1\)"),
        (lambda: s.stability_coefficient(beta1=0.9, beta2=[0.5, -0.1]), "Invalid beta2: -0.1"),
        (lambda: s.update_bound(beta1=float("nan"), beta2=0.9, step=1), "Invalid beta1: nan"),
        (lambda: s.update_bound(beta1=0.9, beta2=0.9, step=-1), "Invalid step: -1"),
        (lambda: s.growth_rate(beta1=0.9, beta2=0.9, law="papers"), "Invalid law: 'papers'"),
        (lambda: s.worst_case_gradients(beta1=0.0, beta2=0.9, step=1), "beta1 > 0"),
        (lambda: s.normal_curve_points(count=0), "Invalid count: 0"),
        (lambda: s.normal_curve_points(count=3, through={"beta1": 0.0, "beta2": 0.5}), "inside the unit square"),
        (lambda: s.epsilon_cap(beta1=0.9, beta2=0.999, eps=1e-8), "no growth to cap"),
        (lambda: s.epsilon_cap(beta1=0.99, beta2=0.9, eps=0.0), "Invalid epsilon"),
    ],
)
def test_invalid_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_arrays_broadcast_and_scalars_stay_scalars():
    beta1, beta2, step = np.full((3, 1, 1), 0.9), np.full((4, 1), 0.99), np.arange(5)
    assert s.update_bound(beta1=beta1, beta2=beta2, step=step, law="exact").shape == (3, 4, 5)
    assert np.isscalar(s.update_bound(beta1=0.9, beta2=0.99, step=5))
    assert s.update_bound(beta1=np.float32(0.9), beta2=0.99, step=5).dtype == np.float64
    with pytest.raises(TypeError):
        s.stability_coefficient(0.9, 0.99)  # keyword-only: the order is the trap
