"""Compare every path with the slow float64 reference: parameters and state after every step."""

import pytest
import torch
from common import MAIN, PATHS, all_kinds, assert_same, clones, give_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference

from ctadam import KAdam, stage_betas

OPTIONS = {
    "default": {},
    "decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "eps=0": {"eps": 0.0},
}
TOLERANCE = {
    torch.float64: {"rtol": 1e-11, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 2e-6},
    torch.complex128: {"rtol": 1e-11, "atol": 1e-12},
}


def _run(dtype, k, path, options, steps=6):
    params = all_kinds(dtype)
    optimizer = KAdam(params, lr=0.01, k=k, **PATHS[path], **options)
    reference = Reference(params, stages=stage_betas("inverse-exp", k), lr=0.01, **options)
    for step in range(steps):
        # Each parameter misses some steps, so that step counts differ.
        give_grads(params, none={i for i in range(len(params)) if (i + step) % 5 == 4})
        if step == 2:
            params[0].grad[:7] = 0
        reference.step([param.grad for param in params])
        optimizer.step()
        reference.assert_equals(params, optimizer, **TOLERANCE[dtype])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_float64(k, path):
    _run(torch.float64, k, path, {"weight_decay": 0.1})


@pytest.mark.parametrize("path", MAIN)
@pytest.mark.parametrize("name", OPTIONS)
def test_options_in_float32(path, name):
    _run(torch.float32, 2, path, OPTIONS[name])


@pytest.mark.parametrize("path", PATHS)
def test_complex(path):
    _run(torch.complex128, 2, path, {})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_in_float64_equals_the_reference_rounded_once(path, dtype):
    params = [param.detach() for param in all_kinds(dtype)]
    optimizer = KAdam(params, lr=0.01, k=2, weight_decay=0.1, state_dtype=torch.float64, **PATHS[path])
    reference = Reference(params, stages=stage_betas("inverse-exp", 2), lr=0.01, weight_decay=0.1)
    for _ in range(4):
        give_grads(params)
        before = clones(params)
        reference.theta = [param.detach().double().numpy() for param in before]
        reference.step([param.grad for param in params])
        optimizer.step()
        for param, theta in zip(params, reference.theta, strict=True):
            # One rounding; the last digit may differ where the float64 results lie on both sides of a tie.
            torch.testing.assert_close(param, torch.as_tensor(theta).to(dtype), rtol=torch.finfo(dtype).eps, atol=0)
            state = optimizer.state[param]
            assert {value.dtype for key, value in state.items() if key != "step"} == {torch.float64}
    reference.theta = [param.double().numpy() for param in params]
    reference.assert_equals(params, optimizer, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("path", ["foreach", "capturable", "foreach capturable"])
def test_paths_agree_in_bfloat16(path):
    """Compare one step from the same state to the precision of bfloat16."""
    left = all_kinds(torch.bfloat16)
    right = clones(left)
    give_grads(left, right)
    optimizers = KAdam(left, lr=0.01, **PATHS["plain"]), KAdam(right, lr=0.01, **PATHS[path])
    for optimizer in optimizers:
        optimizer.step()
    assert_same(*optimizers, rtol=2**-6, atol=2**-12)


@pytest.mark.parametrize("path", MAIN)
def test_explicit_stages_and_per_group_options(path):
    params = all_kinds(torch.float64)
    stages = [(0.5, 0.9), (0.0, 0.99), (0.9, 0.999)]
    groups = [
        {"params": params[:3], "k": 3, "stages": stages, "lr": 0.1},
        {"params": params[3:], "k": 1, "weight_decay": 0.3, "maximize": True},
    ]
    optimizer = KAdam(groups, lr=0.01, **PATHS[path])
    first = Reference(params[:3], stages=stages, lr=0.1)
    second = Reference(params[3:], stages=[(0.9, 0.999)], lr=0.01, weight_decay=0.3, maximize=True)
    for _ in range(4):
        give_grads(params)
        first.step([param.grad for param in params[:3]])
        second.step([param.grad for param in params[3:]])
        optimizer.step()
    first.assert_equals(params[:3], optimizer, rtol=1e-11, atol=1e-12)
    second.assert_equals(params[3:], optimizer, rtol=1e-11, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)),
    k=st.integers(1, 4),
    name=st.sampled_from(["naive", "exp", "inverse-exp", "uniform"]),
    path=st.sampled_from(["plain", "foreach"]),
    eps=st.sampled_from([0.0, 1e-8, 1e-2]),
    seed=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore::ctadam.optim.StabilityWarning")
def test_any_decays(betas, k, name, path, eps, seed):
    torch.manual_seed(seed)
    param = torch.randn(11, dtype=torch.float64)
    optimizer = KAdam([param], lr=0.1, betas=betas, k=k, stages=name, eps=eps, **PATHS[path])
    reference = Reference([param], stages=stage_betas(name, k, betas=betas), lr=0.1, eps=eps)
    for _ in range(5):
        give_grads([param])
        reference.step([param.grad])
        optimizer.step()
        reference.assert_equals([param], optimizer, rtol=1e-7, atol=1e-9)
