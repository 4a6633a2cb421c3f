"""Test the update rule without the optimizer, as the ensemble trainer uses it."""

import pytest
import torch
from common import give_grads

from ctadam.optim import KAdam, kadam_update_, stage_, stage_betas, unsmoothed_update_


def _zeros(like, k):
    return [torch.zeros_like(like) for _ in range(k)], [torch.zeros_like(like) for _ in range(k)]


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_stacked_runs_with_their_own_decays_equal_single_runs(eps):
    betas = [(0.9, 0.999), (0.0, 0.9), (0.995, 0.95)]
    per_run = torch.tensor(betas, dtype=torch.float64)
    stages = [(per_run[:, 0].view(3, 1, 1), per_run[:, 1].view(3, 1, 1))] * 2
    stacked = torch.zeros(3, 4, 5, dtype=torch.float64)
    together = _zeros(stacked, 2)
    alone = [_zeros(run, 2) for run in stacked]
    for n in range(1, 30):
        grad = torch.randn_like(stacked)
        grad[:, 0] = 0
        updates = kadam_update_(grad, *together, n, stages=stages, eps=eps)
        for run, pair in enumerate(betas):
            single = kadam_update_(grad[run], *alone[run], n, stages=[pair] * 2, eps=eps)
            torch.testing.assert_close(updates[run], single, rtol=1e-12, atol=1e-14)
            for ours, theirs in zip(together, alone[run], strict=True):
                torch.testing.assert_close([t[run] for t in ours], theirs, rtol=1e-12, atol=1e-14)


def test_decays_and_steps_as_0_dim_tensors_equal_floats():
    grad = torch.randn(7)
    floats, tensors = _zeros(grad, 1), _zeros(grad, 1)
    for n in range(1, 10):
        grad = torch.randn(7)
        expected, c1 = stage_(grad, floats[0][0], floats[1][0], n, beta1=0.9, beta2=0.999, eps=1e-8)
        beta1, beta2 = torch.tensor([0.9, 0.999], dtype=torch.float64)
        denominator, tensor_c1 = stage_(
            grad, tensors[0][0], tensors[1][0], torch.tensor(float(n)), beta1=beta1, beta2=beta2, eps=1e-8
        )
        torch.testing.assert_close(denominator, expected, rtol=1e-6, atol=0)
        assert tensor_c1.item() == pytest.approx(c1, rel=1e-13)


def test_optimizer_equals_the_functional_update():
    param = torch.zeros(6, 5, dtype=torch.float64)
    optimizer = KAdam([param], lr=1.0, weight_decay=0.0, k=3, stages="exp")
    theta, averages = param.clone(), _zeros(param, 3)
    for n in range(1, 10):
        give_grads([param])
        theta -= kadam_update_(param.grad, *averages, n, stages=stage_betas("exp", 3), eps=1e-8)
        optimizer.step()
        torch.testing.assert_close(param, theta, rtol=1e-13, atol=1e-13)


def test_number_of_stages_must_match_averages():
    grad = torch.ones(2)
    with pytest.raises(ValueError):
        kadam_update_(grad, *_zeros(grad, 2), 1, stages=[(0.9, 0.999)], eps=0.0)


def test_zero_root_gives_zero_update_despite_momentum():
    """With beta2 = 0, v forgets all but the last gradient while m does not."""
    param = torch.zeros(1)
    averages = _zeros(param, 1)
    for n, gradient in ((1, 1.0), (2, 0.0)):
        update = kadam_update_(torch.tensor([gradient]), *averages, n, stages=[(0.9, 0.0)], eps=0.0)
    assert averages[0][0] > 0 and update == 0


def test_underflowing_eps_gives_zero_update_in_float16():
    """1e-8 is 0 in float16, where torch's Adam divides 0 by 0."""
    param = torch.ones(3, dtype=torch.float16, requires_grad=True)
    param.grad = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float16)
    KAdam([param], lr=0.5, weight_decay=0.0, k=1).step()
    assert param.tolist() == [1.0, 0.5, 1.5]


def _by_sums(grads, *, beta1, beta2, second_beta2):
    """Return the unsmoothed variant's last update from sums in Python floats, without recursion or in-place operations."""

    def average(values, beta):
        weights = [beta ** (len(values) - 1 - j) for j in range(len(values))]
        return sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)

    unsmoothed = [g / average([x * x for x in grads[: n + 1]], beta2) ** 0.5 for n, g in enumerate(grads)]
    update = average(grads, beta1) / average([g * g for g in grads], beta2) ** 0.5
    return update / average([h * h for h in unsmoothed], second_beta2) ** 0.5


def test_unsmoothed_variant_equals_direct_sums():
    """Stacked runs with different betas."""
    decays = [(0.9, 0.999, 0.98), (0.0, 0.9, 0.5), (0.99, 0.95, 0.999)]
    column = torch.tensor(decays, dtype=torch.float64).T[..., None]
    grads = torch.randn(25, 3, 4, dtype=torch.float64)
    averages = [torch.zeros(3, 4, dtype=torch.float64) for _ in range(3)]
    for n, grad in enumerate(grads, start=1):
        update = unsmoothed_update_(
            grad.clone(), *averages, n, beta1=column[0], beta2=column[1], second_beta2=column[2], eps=0.0
        )
        for run, (beta1, beta2, second_beta2) in enumerate(decays):
            series = grads[:n, run, 0].tolist()
            expected = _by_sums(series, beta1=beta1, beta2=beta2, second_beta2=second_beta2)
            assert update[run, 0].item() == pytest.approx(expected, rel=1e-11)


def test_unsmoothed_variant_equals_2_adam_only_without_momentum():
    for beta1, same in ((0.0, True), (0.9, False)):
        averages, second = _zeros(torch.zeros(6, dtype=torch.float64), 2), torch.zeros(6, dtype=torch.float64)
        first = [torch.zeros_like(second), torch.zeros_like(second)]
        for n in range(1, 30):
            grad = torch.randn_like(second)
            grad[0] = 0  # no update without a gradient
            expected = kadam_update_(grad, *averages, n, stages=[(beta1, 0.99), (0.0, 0.9)], eps=1e-8)
            update = unsmoothed_update_(grad, *first, second, n, beta1=beta1, beta2=0.99, second_beta2=0.9, eps=1e-8)
        assert update[0] == 0 == expected[0]
        assert torch.allclose(update[1:], expected[1:], rtol=1e-12, atol=0) == same
