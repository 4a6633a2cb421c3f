"""Test the fused path: what it compiles, how often, how many bytes it moves, and its fallback."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from common import all_kinds, assert_same, clones, give_grads
from torch._inductor import metrics

from ctadam import KAdam
from ctadam.optim import fused


def _counts(k):
    """Return (kernels, bytes) of the compiled float32 step on its example, as counted by Inductor."""
    # Inductor counts bytes for its log only, and only where it really generates code.
    torch._logging.set_logs(inductor_metrics=True)
    fused.compiled_kernel.cache_clear()
    metrics.reset()
    try:
        with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
            _, reason = fused.compiled_kernel(k, (torch.float32,) * 3, torch.device("cpu"), False, False)
        assert reason is None
        return metrics.generated_kernel_count, metrics.num_bytes_accessed
    finally:
        torch._logging.set_logs()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_one_kernel_touches_each_byte_once(k):
    """12 bytes for the parameter (read, written) and its gradient, 16 for the two averages of each stage."""
    kernels, count = _counts(k)
    assert kernels == 1
    numbers = 4 * (2 + 5 * k)
    assert count == (12 + 16 * k) * fused.EXAMPLE_NUMEL + numbers


def _misses():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_nothing_recompiles_over_steps_lr_betas_or_sizes():
    params = [torch.randn(30_000), torch.randn(200, 100), torch.randn(7), torch.randn(60, 5, 100)]
    optimizer = KAdam(params, fused=True, weight_decay=0.1)
    give_grads(params)
    optimizer.step()
    before = _misses()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)  # cycles lr and beta1
    for step in range(12):
        give_grads(params, none={step % 4})
        optimizer.step()
        scheduler.step()
    optimizer.param_groups[0].update(lr=0.5, weight_decay=0.0, eps=1e-4, betas=(0.5, 0.6))
    optimizer.add_param_group({"params": [torch.randn(50_001)], "lr": 1e-5})
    for _ in range(2):
        give_grads([param for group in optimizer.param_groups for param in group["params"]])
        optimizer.step()
    assert _misses() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_equals_the_plain_path(dtype):
    """bfloat16 parameters have a float32 state, because otherwise the plain path rounds more often than the kernel."""
    options = {"lr": 0.01, "k": 2, "state_dtype": torch.float32 if dtype == torch.bfloat16 else None}
    left = [param.detach() for param in all_kinds(dtype)]
    right = [param.clone() for param in left]
    plain, packed = KAdam(left, foreach=False, **options), KAdam(right, fused=True, **options)
    for step in range(12):
        # Changing sets of parameters, so that packs are made anew while state is in them.
        give_grads(left, right, none={step % 3, step % 7})
        plain.step()
        packed.step()
        tolerance = {"rtol": 2**-7, "atol": 2**-7} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 2e-6}
        assert_same(plain, packed, **tolerance)


def test_packed_state_survives_loading_and_editing():
    """Load, replace and edit state, and replace the tensor of a parameter."""
    left = [torch.randn(30), torch.randn(3, 4), torch.randn(5)]
    right = clones(left)
    optimizers = [KAdam(left, lr=0.01, foreach=False), KAdam(right, lr=0.01, fused=True)]

    def load(optimizer):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def replace(optimizer):
        param = optimizer.param_groups[0]["params"][0]
        optimizer.state[param]["exp_avg_1"] = torch.ones_like(param)

    def edit(optimizer):
        for param in optimizer.param_groups[0]["params"]:
            optimizer.state[param]["exp_avg_2"].mul_(0.5)

    def rewind(optimizer):
        optimizer.state[optimizer.param_groups[0]["params"][1]]["step"].fill_(1.0)

    def forget(optimizer):
        optimizer.state.pop(optimizer.param_groups[0]["params"][2])

    def swap(optimizer):
        param = optimizer.param_groups[0]["params"][1]
        param.data = param.data * 2

    def other_k(optimizer):
        optimizer.param_groups[0]["k"] = 1
        optimizer.state.clear()

    for action in (load, replace, edit, rewind, forget, swap, other_k):
        for optimizer in optimizers:
            action(optimizer)
        for _ in range(2):
            give_grads(left, right)
            for optimizer in optimizers:
                optimizer.step()
            assert_same(*optimizers, rtol=1e-5, atol=1e-6)


def test_nan_stays_in_one_parameter_of_a_pack():
    params = [torch.randn(4) for _ in range(3)]
    optimizer = KAdam(params, fused=True)
    give_grads(params)
    params[1].grad[0] = torch.nan
    optimizer.step()
    assert [bool(param.isnan().any()) for param in params] == [False, True, False]


def test_learning_rate_and_betas_as_tensors():
    left = [torch.randn(20_000), torch.randn(3)]
    right = clones(left)
    floats = KAdam(left, lr=0.01, betas=(0.8, 0.95), fused=True)
    tensors = KAdam(right, lr=torch.tensor(0.01), betas=(torch.tensor(0.8), torch.tensor(0.95)), fused=True)
    for _ in range(3):
        give_grads(left, right)
        floats.step()
        tensors.step()
        assert_same(floats, tensors, rtol=1e-5, atol=1e-6)


WITHOUT_COMPILER = """
import warnings, torch
from ctadam import KAdam
torch.manual_seed(0)
left = [torch.randn(20_000), torch.randn(3)]
right = [param.clone() for param in left]
plain, fused = KAdam(left, foreach=False), KAdam(right, fused=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        for a, b in zip(left, right):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        plain.step()
        fused.step()
ours = [w for w in caught if "`fused=True` could not compile" in str(w.message)]
assert len(ours) == 1, caught
assert ours[0].category is UserWarning
assert all(torch.equal(a, b) for a, b in zip(left, right))
"""


@pytest.mark.slow
def test_missing_compiler_warns_once_and_uses_the_plain_path(tmp_path):
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
