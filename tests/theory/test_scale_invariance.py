"""Test the norm laws against closed sums and against the optimizer on scale-invariant weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from ctadam.optim import kadam_update_
from ctadam.theory import scale_invariance as s

rates = st.fixed_dictionaries({"lr": st.floats(1e-4, 0.1), "weight_decay": st.floats(0.0, 2.0)})
squares = st.lists(st.floats(0.0, 1e3), min_size=1, max_size=40)


@given(rates, st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_norm_step_is_exact(rates, seed, dimension):
    weight, update = np.random.default_rng(seed).standard_normal((2, dimension))
    after = (1 - rates["lr"] * rates["weight_decay"]) * weight - rates["lr"] * update
    law = s.norm_step(weight @ weight, update_sq=update @ update, inner=weight @ update, **rates)
    assert law == pytest.approx(after @ after, rel=1e-11, abs=1e-13)


@given(squares, st.floats(0.0, 1e3), rates)
def test_discrete_law_equals_its_closed_sum(squares, start, rates):
    law, decay_factor = s.norm_law(squares, start=start, **rates), 1 - rates["lr"] * rates["weight_decay"]
    for n in range(len(squares) + 1):
        total = sum(rates["lr"] ** 2 * decay_factor ** (2 * (n - 1 - j)) * squares[j] for j in range(n))
        assert law[n] == pytest.approx(decay_factor ** (2 * n) * start + total, rel=1e-10, abs=1e-12)


@settings(max_examples=15)
@given(st.lists(st.floats(0.0, 1e3), min_size=1, max_size=6), st.floats(0.0, 10.0), rates)
def test_integral_form_equals_quadrature(squares, start, rates):
    """‖W(0)‖² e^{−2λt} + η ∫ e^{−2λ(t−τ)} ‖u(τ)‖² dτ, by quadrature, u constant during a step of length η."""
    lr, decay = rates["lr"], rates["weight_decay"]
    end = lr * len(squares)
    pieces = [
        quad(lambda t, u=u: np.exp(-2 * decay * (end - t)) * u, i * lr, (i + 1) * lr)[0] for i, u in enumerate(squares)
    ]
    law = s.norm_law(squares, start=start, form="integral", **rates)
    assert law[-1] == pytest.approx(np.exp(-2 * decay * end) * start + lr * sum(pieces), rel=1e-9, abs=1e-12)


def test_forms_differ_at_first_order_in_the_decay():
    squares, off = np.random.default_rng(0).uniform(1, 3, 3000), []
    for lr in (1e-2, 1e-3):
        discrete, integral = (
            s.norm_law(squares, start=1.0, lr=lr, weight_decay=1.0, form=form) for form in ("discrete", "integral")
        )
        off.append(np.abs(discrete / integral - 1).max() / lr)
    assert all(0.5 < x < 4 for x in off)
    with pytest.raises(ValueError, match="Invalid form: 'sum' is neither"):
        s.norm_law(squares, start=1.0, lr=0.1, weight_decay=0.0, form="sum")


def test_series_broadcast_over_runs():
    squares = np.random.default_rng(0).uniform(0, 1, (20, 3))
    lr, decay, gamma = np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.9, 0.99])
    plain = s.norm_law(squares, start=1.0, lr=lr, weight_decay=decay)
    share = s.momentum(gamma, np.arange(20)[:, None])
    inertial = s.inertial_norm_law(squares, start=1.0, share=share, lr=lr, weight_decay=decay)
    for i in range(3):
        one = {"start": 1.0, "lr": lr[i], "weight_decay": decay[i]}
        np.testing.assert_allclose(plain[:, i], s.norm_law(squares[:, i], **one), rtol=1e-13)
        alone = s.inertial_norm_law(squares[:, i], share=share[:, i], **one)
        np.testing.assert_allclose(inertial[:, i], alone, rtol=1e-13)


@given(st.floats(0.0, 0.999), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_momentum_gives_the_recursion_of_the_corrected_average(beta1, step, seed):
    """m̂_n = γ_n m̂_{n−1} + (1 − γ_n) g_n, m̂ Adam's corrected first moment."""
    gradients = np.random.default_rng(seed).standard_normal(step + 1)
    m, corrected = 0.0, []
    for n, gradient in enumerate(gradients):
        m = beta1 * m + (1 - beta1) * gradient
        corrected.append(m / (1 - beta1 ** (n + 1)))
    share = s.momentum(beta1, step)
    before = corrected[-2] if step else 0.0
    assert corrected[-1] == pytest.approx(share * before + (1 - share) * gradients[-1], rel=1e-9, abs=1e-9)


# A scale-invariant, noisy loss of one weight: the distance of its direction from a moving target.


def _gradient(weight, target):
    """Of −⟨target, W⟩/‖W‖."""
    norm = np.linalg.norm(weight)
    direction = weight / norm
    return -(target - (target @ direction) * direction) / norm


def _momentum_run(*, beta1, lr, weight_decay, beta2=None, steps=300, noise=1.0, seed=0, dimension=20):
    """Return series (one entry per step) of AdamW with scalar v (Assumption 2): 1, or the average of ‖g‖²/d with ``beta2``."""
    rng = np.random.default_rng(seed)
    weight, average, square, before = rng.standard_normal(dimension), np.zeros(dimension), 0.0, 1.0
    goal = rng.standard_normal(dimension)
    rows = []
    for n in range(steps):
        gradient = _gradient(weight, goal + noise * rng.standard_normal(dimension))
        average = beta1 * average + (1 - beta1) * gradient
        corrected = 1.0
        if beta2 is not None:
            square = beta2 * square + (1 - beta2) * (gradient @ gradient) / dimension
            corrected = square / (1 - beta2 ** (n + 1))
        update = average / (1 - beta1 ** (n + 1)) / np.sqrt(corrected)
        after = (1 - lr * weight_decay) * weight - lr * update
        rows.append(
            {
                "norm_sq": weight @ weight, "update_sq": update @ update, "inner": weight @ update, "after": after @ after,
                "overlap": after @ update,
                "share": s.momentum(beta1, n) * np.sqrt(before / corrected),
                "orthogonal": weight @ gradient / np.linalg.norm(weight) / np.linalg.norm(gradient),
            }
        )  # fmt: skip
        weight, before = after, corrected
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


moved = st.fixed_dictionaries(
    {
        "beta1": st.sampled_from([0.0, 0.5, 0.9, 0.99]),
        "lr": st.floats(1e-3, 0.1),
        "weight_decay": st.sampled_from([0.0, 0.3, 1.0]),
        "noise": st.sampled_from([0.1, 1.0]),
        "seed": st.integers(0, 1000),
        "beta2": st.sampled_from([None, 0.9, 0.999]),
    }
)


@settings(max_examples=40, deadline=None)
@given(moved)
def test_derivation_is_exact_for_scalar_v(run):
    """docs/scale_invariance.md, equations (1) to (4), in its order; and the law made of them."""
    series = _momentum_run(**run)
    rates = {"lr": run["lr"], "weight_decay": run["weight_decay"]}
    decay_factor = 1 - run["lr"] * run["weight_decay"]
    size = np.sqrt(series["norm_sq"] * series["update_sq"])
    assert np.abs(series["orthogonal"]).max() < 1e-12
    step = s.norm_step(series["norm_sq"], update_sq=series["update_sq"], inner=series["inner"], **rates)
    np.testing.assert_allclose(step, series["after"], rtol=1e-11)
    before = np.concatenate([[0.0], series["overlap"][:-1]])
    assert (np.abs(series["inner"] - series["share"] * before) / size).max() < 1e-11
    overlap = decay_factor * series["inner"] - run["lr"] * series["update_sq"]
    assert (np.abs(series["overlap"] - overlap) / size).max() < 1e-11
    law = s.inertial_norm_law(series["update_sq"], start=series["norm_sq"][0], share=series["share"], **rates)
    np.testing.assert_allclose(law[:-1], series["norm_sq"], rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(moved)
def test_inertial_law_has_a_closed_form_after_bias_correction(run):
    """v constant: Y = ‖W_n‖² − 2ηγ/(a−γ)·⟨W_n, u_{n−1}⟩ follows Y_{n+1} = a²Y_n + η²(a+γ)/(a−γ)·‖u_n‖²: equation (5)."""
    gamma, lr = min(run["beta1"], 0.9), run["lr"]
    run = {**run, "beta1": gamma, "lr": min(lr, 0.05), "beta2": None}
    decay_factor, lr = 1 - run["lr"] * run["weight_decay"], run["lr"]
    series = _momentum_run(**run, steps=600)
    late = slice(400, None)  # 0.9^400 is below rounding
    before = np.concatenate([[0.0], series["overlap"][:-1]])
    y = series["norm_sq"] - 2 * lr * gamma / (decay_factor - gamma) * before
    expected = (
        decay_factor**2 * y[late][:-1]
        + lr**2 * (decay_factor + gamma) / (decay_factor - gamma) * series["update_sq"][late][:-1]
    )
    np.testing.assert_allclose(y[late][1:], expected, rtol=1e-10)


def test_radial_term_makes_the_recursion_exact_for_constant_v():
    """For gradients that are not orthogonal to the weight, the recursion is exact only with ⟨W, g⟩."""
    rng, rates = np.random.default_rng(0), {"lr": 0.01, "weight_decay": 0.5}
    weight, average = rng.standard_normal(20), np.zeros(20)
    with_it, without = (weight @ weight, 0.0), (weight @ weight, 0.0)
    for n in range(300):
        gradient = rng.standard_normal(20) + 0.3 * weight
        average = 0.9 * average + 0.1 * gradient
        update, gamma = average / (1 - 0.9 ** (n + 1)), s.momentum(0.9, n)
        same = {"update_sq": update @ update, "share": gamma, **rates}
        with_it = s.inertial_step(*with_it, radial=(1 - gamma) * (weight @ gradient), **same)
        without = s.inertial_step(*without, **same)
        weight = (1 - 0.01 * 0.5) * weight - 0.01 * update
    assert with_it[0] == pytest.approx(weight @ weight, rel=1e-11)
    assert abs(without[0] / (weight @ weight) - 1) > 0.5


@pytest.mark.parametrize("noise", [30.0, 0.0])
def test_inertial_law_holds_with_and_without_gradient_noise(noise):
    """With momentum and no decay, for gradients that are nearly orthogonal to each other and for persistent ones."""
    lr = 0.02 if noise == 0 else 0.002
    measured = _momentum_run(beta1=0.9, lr=lr, weight_decay=0.0, steps=800, noise=noise)
    rates = {"start": measured["norm_sq"][0], "lr": lr, "weight_decay": 0.0}
    growth = measured["norm_sq"][-1] - rates["start"]
    paper = s.norm_law(measured["update_sq"], **rates)
    inertial = s.inertial_norm_law(measured["update_sq"], share=measured["share"], **rates)
    assert (paper[-2] - rates["start"]) / growth < 0.1
    assert (inertial[-2] - rates["start"]) / growth == pytest.approx(1, rel=1e-9)


@settings(max_examples=30)
@given(rates, st.integers(0, 2**32 - 1))
def test_angle_of_a_tangential_update_is_the_papers_to_first_order(rates, seed):
    weight, update = np.random.default_rng(seed).standard_normal((2, 12))
    update -= (update @ weight) / (weight @ weight) * weight  # scale invariance without momentum
    decay_factor = 1 - rates["lr"] * rates["weight_decay"]
    after = decay_factor * weight - rates["lr"] * update
    cosine = after @ weight / np.linalg.norm(after) / np.linalg.norm(weight)
    paper = s.angular_step(update_sq=update @ update, norm_sq=weight @ weight, lr=rates["lr"])
    assert np.arccos(cosine) == pytest.approx(np.arctan(paper / decay_factor), rel=1e-6)


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_steady_state_is_a_fixed_point_of_the_laws(beta1):
    rates = {"lr": 0.02, "weight_decay": 0.7}
    law = s.inertial_norm_law(np.full(5000, 3.0), start=1.0, share=beta1, **rates)
    factor = s.amplification(beta1=beta1, **rates)
    rest = s.steady_norm_sq(3.0, factor=factor, **rates)
    assert law[-1] == pytest.approx(rest, rel=1e-10)
    # cos φ = ⟨W_n, W_{n+1}⟩/‖W‖² = a − η⟨W_n, u_n⟩/‖W‖², with ⟨W_n, u_n⟩ where (3) and (4) come to rest.
    decay_factor = 1 - 0.02 * 0.7
    inner = -beta1 * 0.02 * 3.0 / (1 - decay_factor * beta1)
    angle = s.steady_angular_step(beta1=beta1, **rates)
    assert np.cos(angle) == pytest.approx(decay_factor - 0.02 * inner / rest, rel=1e-12)
    assert np.cos(angle) == pytest.approx((decay_factor + beta1) / (1 + decay_factor * beta1), rel=1e-12)
    assert angle == pytest.approx((2 * 0.02 * 0.7 * (1 - beta1) / (1 + beta1)) ** 0.5, rel=0.02)
    assert s.norm_law(np.full(5000, 3.0), start=1.0, **rates)[-1] == pytest.approx(
        s.steady_norm_sq(3.0, **rates), rel=1e-10
    )
    assert s.remembered(steps=3, **rates) == pytest.approx((1 - 0.014) ** 6)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_mean_angle_equals_the_steady_angle(beta1):
    """For stationary noise and constant v, compare the mean of cos φ after the start is forgotten."""
    series = _momentum_run(beta1=beta1, lr=0.3, weight_decay=0.1, steps=6000, noise=3.0)
    late = slice(1000, None)
    between = (1 - 0.03) * series["norm_sq"] - 0.3 * series["inner"]  # ⟨W_n, W_{n+1}⟩
    cosine = (between / np.sqrt(series["norm_sq"] * series["after"]))[late]
    expected = s.steady_angular_step(lr=0.3, weight_decay=0.1, beta1=beta1)
    assert np.sqrt((np.arccos(cosine) ** 2).mean()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("decay", [0.0, 60.0])
def test_steady_state_without_decay_raises(decay):
    with pytest.raises(ValueError, match=r"is not in \(0, 1\)"):
        s.steady_norm_sq(1.0, lr=0.02, weight_decay=decay)
    with pytest.raises(ValueError, match=r"is not in \(0, 1\)"):
        s.second_stage(lr=0.02, weight_decay=decay, norm=1.0, dimension=3)
    with pytest.raises(ValueError, match=r"is not in \(0, 1\)"):
        s.steady_angular_step(lr=0.02, weight_decay=decay)


@given(squares, st.floats(0.1, 10.0), st.floats(1e-4, 0.1), st.floats(1e-2, 2.0), st.integers(1, 50))
def test_second_average_is_the_papers_norm_from_the_first_step(squares, norm, lr, decay, dimension):
    beta2, rate, average = s.second_stage(lr=lr, weight_decay=decay, norm=norm, dimension=dimension)
    law = s.norm_law(squares, start=norm**2, lr=lr, weight_decay=decay)
    for n, u in enumerate(squares):
        # The step of a weight of fixed norm R, relative to R, and that of a scale-invariant weight.
        assert rate / norm / np.sqrt(average) == pytest.approx(lr / np.sqrt(law[n]), rel=1e-9)
        average = beta2 * average + (1 - beta2) * u / dimension
    assert average == pytest.approx(law[-1] * (1 - beta2) / (lr**2 * dimension), rel=1e-9)


@given(st.floats(1e-4, 0.1), st.floats(1e-2, 2.0), st.floats(1.0, 400.0))
def test_factor_keeps_the_first_step_and_divides_the_steady_angle(lr, decay, factor):
    same = {"lr": lr, "weight_decay": decay, "norm": 2.0, "dimension": 7}
    beta2, rate, start = s.second_stage(**same)
    other_beta2, other_rate, other_start = s.second_stage(**same, factor=factor)
    assert other_beta2 == beta2 and other_rate == pytest.approx(rate / factor**0.5)
    assert other_rate / other_start**0.5 == pytest.approx(rate / start**0.5)
    # ‖W‖² = η² d f v₂/(1 − β₂) where ‖u‖² = d·v₂: the steady state of the law with this factor.
    steady = s.steady_norm_sq(7 * 3.0, lr=lr, weight_decay=decay, factor=factor)
    assert lr**2 * 7 * factor * 3.0 / (1 - beta2) == pytest.approx(steady, rel=1e-9)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_second_stage_reproduces_the_scale_invariant_direction(beta1):
    """AdamW on a weight with a gradient of the direction alone, against 2-Adam's second stage on the unit sphere. One number
    for v in both stages, so that only the correspondence is tested. The distance is of the order of ηλ, over 1 − γ."""
    distances = []
    for lr in (0.02, 0.005):
        decay, steps, d = 1.0, int(8 / lr), 30
        rng = np.random.default_rng(0)
        noise, goal = rng.standard_normal((steps, d)), 0.3 * rng.standard_normal(d)
        factor = s.amplification(beta1=beta1, lr=lr, weight_decay=decay)
        free = rng.standard_normal(d)
        free *= 2 / np.linalg.norm(free)
        beta2, rate, second = s.second_stage(lr=lr, weight_decay=decay, norm=2.0, dimension=d, factor=factor)
        fixed = free.copy()
        averages = [np.zeros(d), np.zeros(d)]

        def update(i, weight, n, averages=averages, noise=noise, goal=goal):
            direction, drawn = weight / np.linalg.norm(weight), goal + noise[n]
            averages[i] = beta1 * averages[i] - (1 - beta1) * (drawn - (drawn @ direction) * direction)
            return averages[i] / (1 - beta1 ** (n + 1))

        for n in range(steps):
            free = (1 - lr * decay) * free - lr * update(0, free, n)
            u = update(1, fixed, n)
            second = beta2 * second + (1 - beta2) * (u @ u) / d
            fixed = fixed - rate * u / np.sqrt(second)
            fixed *= 2 / np.linalg.norm(fixed)
        distances.append(np.linalg.norm(free / np.linalg.norm(free) - fixed / 2))
    assert distances[1] < 0.5 * distances[0] and distances[1] < 0.05


def test_laws_accept_tensors_and_hold_for_adam():
    """Adam with its elementwise v; the remaining error is that of Assumption 2, one percent here."""
    torch.manual_seed(0)
    weight, m, v = torch.randn(3, 400, dtype=torch.float64).unbind()
    m, v = torch.zeros_like(m), torch.zeros_like(v)
    gamma, rates = torch.tensor(0.9, dtype=torch.float64), {"lr": 0.003, "weight_decay": 0.5}
    law, overlap = (weight @ weight), torch.zeros((), dtype=torch.float64)
    for n in range(500):
        gradient = torch.randn_like(weight)
        gradient -= (gradient @ weight) / (weight @ weight) * weight
        update = kadam_update_(gradient, [m], [v], n + 1.0, stages=[(0.9, 0.999)], eps=0.0)
        share = s.momentum(gamma, n)  # v hardly changes
        law, overlap = s.inertial_step(law, overlap, update_sq=update @ update, share=share, **rates)
        weight = (1 - 0.003 * 0.5) * weight - 0.003 * update
    assert law.item() == pytest.approx((weight @ weight).item(), rel=0.02)
