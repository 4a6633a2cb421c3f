"""The bounds of NAdam, RAdam, Adamax and AMSGrad against torch's own optimizers in float64."""

import numpy as np
import pytest
import torch

from ctadam.theory.stability import update_bound, worst_case_gradients
from ctadam.theory.variants import (
    adamax_bound,
    amsgrad_bound,
    nadam_bound,
    nadam_weights,
    radam_bound,
    radam_rectification,
)

PAIRS = [
    (0.9, 0.999),
    (0.9, 0.95),
    (0.95, 0.95),
    (0.5, 0.3),
    (0.95, 0.88),
    (0.9, 0.81),
    (0.2, 0.7),
    (0.7, 0.1),
    (0.0, 0.9),
]
STEPS = [0, 1, 2, 7, 30]


def last_update(kind, gradients, betas, **options):
    """The update of the last step of one of torch's optimizers, with ε = 0; each column is a coordinate of its own."""
    gradients = torch.as_tensor(np.asarray(gradients), dtype=torch.float64)
    param = torch.zeros_like(gradients[0]).requires_grad_()
    optimizer = kind([param], lr=1.0, betas=betas, eps=0.0, **options)
    for gradient in gradients:
        before, param.grad = param.detach().clone(), gradient.clone()
        optimizer.step()
    return (before - param.detach()).abs().numpy()


def random_gradients(steps, seed):
    """Gradients of 2,000 coordinates whose sizes differ by many orders of magnitude, within and between coordinates."""
    draw = np.random.default_rng(seed)
    trend = np.exp(np.arange(steps)[:, None] * draw.normal(0, 0.5, 2000))
    return trend * draw.normal(size=(steps, 2000)) * np.exp(draw.normal(0, 2, (steps, 2000)))


BOUNDS = {
    torch.optim.NAdam: (nadam_bound, {}),
    torch.optim.RAdam: (radam_bound, {}),
    torch.optim.Adamax: (adamax_bound, {}),
    torch.optim.Adam: (amsgrad_bound, {"amsgrad": True}),
}


@pytest.mark.parametrize("kind", BOUNDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("betas", PAIRS)
def test_no_gradients_exceed_the_bound(kind, betas):
    bound, options = BOUNDS[kind]
    for step in STEPS:
        update = last_update(kind, random_gradients(step + 1, seed=step), betas, **options)
        assert np.nanmax(update) <= bound(beta1=betas[0], beta2=betas[1], step=step) * (1 + 1e-7)


@pytest.mark.parametrize("momentum_decay", [4e-3, 0.0, 0.1])
@pytest.mark.parametrize("betas", PAIRS)
def test_nadam_attains_its_bound(betas, momentum_decay):
    beta1, beta2 = betas
    for step in STEPS:
        newest, older = nadam_weights(beta1=beta1, momentum_decay=momentum_decay, step=step)
        age = np.arange(step, -1, -1.0)
        weights = older * (1 - beta1) * beta1**age + np.where(age == 0, newest, 0)
        gradients = np.maximum(weights / beta2**age, 1e-30)  # torch divides 0 by 0
        update = last_update(torch.optim.NAdam, gradients[:, None], betas, momentum_decay=momentum_decay)
        bound = nadam_bound(beta1=beta1, beta2=beta2, momentum_decay=momentum_decay, step=step)
        assert update[0] == pytest.approx(bound, rel=1e-6)  # torch keeps the product of the schedule in float32


@pytest.mark.parametrize("betas", PAIRS)
def test_adamax_attains_its_bound(betas):
    for step in STEPS:
        update = last_update(torch.optim.Adamax, betas[1] ** np.arange(step + 1.0)[:, None], betas)
        assert update[0] == pytest.approx(adamax_bound(beta1=betas[0], beta2=betas[1], step=step), rel=1e-12)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.95, 0.88), (0.2, 0.7)])
def test_radam_attains_its_bound_where_it_divides_by_the_root(betas):
    for step in STEPS:
        pair = {"beta1": betas[0], "beta2": betas[1]}
        bound = radam_bound(**pair, step=step)
        update = last_update(torch.optim.RAdam, worst_case_gradients(**pair, step=step)[:, None], betas)
        if np.isfinite(bound):
            assert update[0] == pytest.approx(bound, rel=1e-9)
        else:  # the momentum, whatever the bound says
            scaled = last_update(torch.optim.RAdam, 1e6 * worst_case_gradients(**pair, step=step)[:, None], betas)
            assert scaled[0] == pytest.approx(1e6 * update[0])


@pytest.mark.parametrize("betas", [pair for pair in PAIRS if pair[1] >= pair[0] > 0])
def test_amsgrad_attains_adams_bound_where_beta2_is_at_least_beta1(betas):
    for step in STEPS:
        gradients = worst_case_gradients(beta1=betas[0], beta2=betas[1], step=step)[:, None]
        update = last_update(torch.optim.Adam, gradients, betas, amsgrad=True)
        assert update[0] == pytest.approx(
            update_bound(beta1=betas[0], beta2=betas[1], step=step, law="exact"), rel=1e-9
        )


def test_amsgrad_is_bounded_where_adam_is_not():
    bounds = amsgrad_bound(beta1=0.95, beta2=0.88, step=np.append(np.arange(10_000), np.inf))
    assert bounds.max() < 1.1 and bounds[-1] == 1
    assert np.isinf(update_bound(beta1=0.95, beta2=0.88, step=np.inf, law="exact"))
    # A gradient that stops: AMSGrad's update falls, Adam's grows.
    stops = np.r_[1.0, np.zeros(99)][:, None]
    assert last_update(torch.optim.Adam, stops, (0.95, 0.88), amsgrad=True) < 0.1
    assert last_update(torch.optim.Adam, stops, (0.95, 0.88)) > 0.4


def test_limits_and_first_steps():
    pair = {"beta1": 0.9, "beta2": 0.999}
    for bound in (nadam_bound, radam_bound, adamax_bound, amsgrad_bound):
        limit = bound(**pair, step=np.inf)
        assert np.isfinite(limit) and bound(**pair, step=1e6) == pytest.approx(limit, rel=1e-6), bound
        assert isinstance(limit, float)
    assert radam_bound(**pair, step=np.inf) == update_bound(**pair, step=np.inf, law="exact")
    assert np.isnan(radam_rectification(beta2=0.999, step=4)) and radam_rectification(beta2=0.999, step=5) < 0.05
    assert np.isinf(radam_bound(beta1=0.9, beta2=0.6, step=np.inf))  # ρ∞ = 4
    assert adamax_bound(**pair, step=np.inf) == pytest.approx(0.1 / (1 - 0.9 / 0.999))
    for bound in (nadam_bound, adamax_bound):
        assert np.isinf(bound(beta1=0.9, beta2=0.0, step=5)) and np.isinf(bound(beta1=0.9, beta2=0.7, step=np.inf))
