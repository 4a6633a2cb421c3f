"""Test properties of k-Adam for any gradients: symmetries, composition, and the last stage's bound."""

import itertools

import numpy as np
import pytest
import torch
from common import PATHS
from hypothesis import given, settings
from hypothesis import strategies as st

from ctadam import KAdam
from ctadam.optim import kadam_update_
from ctadam.theory.stability import growth_rate, update_bound, worst_case_gradients

pytestmark = pytest.mark.filterwarnings("ignore::ctadam.optim.StabilityWarning")
quick = settings(deadline=None, max_examples=25)
paths = st.sampled_from(["plain", "foreach"])
stages = st.lists(st.tuples(st.floats(0, 0.99), st.floats(0.01, 0.999)), min_size=1, max_size=4)
seeds = st.integers(0, 10**6)


def _trajectory(gradients, stages, path="plain", **options):
    """Return float64 parameters after each step, starting from zero, for gradients of shape (steps, ...)."""
    param = torch.zeros(gradients.shape[1:], dtype=torch.float64)
    optimizer = KAdam([param], lr=0.1, weight_decay=0.0, k=len(stages), stages=stages, **PATHS[path], **options)
    values = []
    for grad in gradients:
        param.grad = grad.clone()
        optimizer.step()
        values.append(param.clone())
    return torch.stack(values)


def _gradients(seed, steps=8, size=5):
    return torch.randn(steps, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@quick
@given(seeds, stages, paths, st.integers(-40, 40))
def test_update_is_invariant_to_gradient_scale_without_eps(seed, stages, path, power):
    """A power of two changes no rounding, so not even the last bit differs."""
    gradients = _gradients(seed)
    expected = _trajectory(gradients, stages, path, eps=0.0)
    assert torch.equal(_trajectory(gradients * 2.0**power, stages, path, eps=0.0), expected)


@quick
@given(seeds, stages, paths, st.sampled_from([0.0, 1e-8]))
def test_negated_gradients_negate_the_trajectory(seed, stages, path, eps):
    gradients = _gradients(seed)
    assert torch.equal(_trajectory(-gradients, stages, path, eps=eps), -_trajectory(gradients, stages, path, eps=eps))


@quick
@given(seeds, stages, paths, st.permutations(range(5)))
def test_coordinates_are_independent(seed, stages, path, order):
    gradients = _gradients(seed)
    expected = _trajectory(gradients, stages, path)[:, order]
    torch.testing.assert_close(_trajectory(gradients[:, order], stages, path), expected, rtol=1e-12, atol=1e-12)


@quick
@given(seeds, stages, paths, st.sampled_from([0.0, 1e-8]))
def test_stages_compose(seed, stages, path, eps):
    """The last stage is Adam on the updates of k-Adam with the stages before it."""
    gradients = _gradients(seed)
    together = _trajectory(gradients, stages, path, eps=eps)
    for stage in stages:
        updates = []
        param = torch.zeros(5, dtype=torch.float64)
        optimizer = KAdam([param], lr=0.1, weight_decay=0.0, k=1, stages=[stage], eps=eps, **PATHS[path])
        optimizer.register_update_hook(lambda _, update, updates=updates: updates.append(update.clone()))
        for grad in gradients:
            param.grad = grad.clone()
            optimizer.step()
        gradients = torch.stack(updates)
    torch.testing.assert_close(param, together[-1], rtol=1e-10, atol=1e-10)


STABLE, UNSTABLE = (0.9, 0.999), (0.995, 0.954)


def _largest_updates(gradients, stages):
    """max |u| after each step, ε = 0."""
    averages = [[torch.zeros_like(gradients[0]) for _ in stages] for _ in "mv"]
    return torch.stack(
        [
            kadam_update_(grad, *averages, n, stages=stages, eps=0.0).abs().max()
            for n, grad in enumerate(gradients, start=1)
        ]
    ).numpy()


def _hostile(steps):
    """Return gradients that make an unstable stage grow: they vanish, decay, or return after a long time."""
    n = torch.arange(steps, dtype=torch.float64)
    impulse = torch.where(n == 0, 1.0, 1e-300)  # not 0: a zero root has a zero update
    decaying = 0.95**n
    worst = torch.from_numpy(worst_case_gradients(beta1=UNSTABLE[0], beta2=UNSTABLE[1], step=steps - 1))
    returning = torch.where(n % 97 == 0, 1.0, 1e-12)
    return torch.stack([impulse, decaying, worst, returning, torch.randn(steps, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize(("k", "unstable"), [(k, i) for k in (1, 2, 3) for i in range(k)])
def test_last_stage_alone_decides_stability(k, unstable):
    """Claim K3: with an unstable stage before the last, the last stage's bound holds; as the last stage it grows."""
    stages = [STABLE] * k
    stages[unstable] = UNSTABLE
    steps = np.arange(600)
    largest = _largest_updates(_hostile(len(steps)), stages)
    gamma, beta = stages[-1]
    assert (largest <= update_bound(beta1=gamma, beta2=beta, step=steps, law="exact") * (1 + 1e-9)).all()
    if stages[-1] == STABLE:
        assert (largest <= update_bound(beta1=gamma, beta2=beta, step=steps, law="paper") * (1 + 1e-9)).all()
    else:
        slope = np.diff(np.log(largest[300:])).mean()
        assert slope == pytest.approx(growth_rate(beta1=gamma, beta2=beta, law="exact"), rel=0.1)


@quick
@given(seeds, st.lists(st.tuples(st.floats(0, 0.999), st.floats(0.3, 0.9999)), min_size=1, max_size=3))
def test_exact_bound_of_the_last_stage_holds_for_any_stages(seed, stages):
    gradients = _gradients(seed, steps=40) * torch.logspace(0, -30, 40, dtype=torch.float64)[:, None]
    gamma, beta = stages[-1]
    bound = update_bound(beta1=gamma, beta2=beta, step=np.arange(40), law="exact")
    assert (_largest_updates(gradients, stages) <= bound * (1 + 1e-9)).all()


def test_worst_case_gradients_attain_the_bound_in_the_hook():
    """The recorded update is exact: worst-case gradients reach the bound to 1e-9, with float32 parameters."""
    for (gamma, beta), path in itertools.product([STABLE, (0.99, 0.97)], ["plain", "foreach"]):
        param = torch.zeros(1)
        optimizer = KAdam([param], k=1, betas=(gamma, beta), eps=0.0, state_dtype=torch.float64, lr=1e-3, **PATHS[path])
        seen = []
        optimizer.register_update_hook(lambda _, update, seen=seen: seen.append(update.item()))
        for grad in worst_case_gradients(beta1=gamma, beta2=beta, step=99):
            # Gradients have the parameter's dtype; float32 rounds these, which moves u by less than 1e-6.
            param.grad = torch.tensor([grad], dtype=torch.float32)
            optimizer.step()
        assert seen[-1] == pytest.approx(update_bound(beta1=gamma, beta2=beta, step=99, law="exact"), rel=1e-6)
