"""k = 1 is torch's Adam, and with decay its AdamW, bit for bit; on the CPU foreach is the plain path, bit for bit."""

import pytest
import torch
from common import all_kinds, assert_same, clones, give_grads

from ctadam import KAdam


def _assert_same_trajectory(mine, other, ours, theirs, steps=20):
    for step in range(steps):
        give_grads(ours, theirs, none={step % len(ours)})
        mine.step()
        other.step()
        for left, right in zip(ours, theirs, strict=True):
            assert torch.equal(left, right)
            for key, value in other.state[right].items():
                assert torch.equal(mine.state[left][key], value), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.0}, {"maximize": True}, {"eps": 0.0, "betas": (0.5, 0.75)}, {"lr": torch.tensor(0.01)}],
    ids=["default", "no decay", "maximize", "eps=0", "tensor lr"],
)
def test_plain(dtype, options):
    options = {"lr": 0.01, **options}
    ours = all_kinds(dtype)
    theirs = clones(ours)
    torch_class = torch.optim.Adam if options.get("weight_decay") == 0 else torch.optim.AdamW
    mine, other = (
        KAdam(ours, k=1, foreach=False, **options),
        torch_class(theirs, foreach=False, **options),
    )
    _assert_same_trajectory(mine, other, ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_foreach(dtype, decay):
    ours = all_kinds(dtype)
    theirs = clones(ours)
    mine = KAdam(ours, lr=0.01, k=1, foreach=True, weight_decay=decay)
    other = torch.optim.AdamW(theirs, lr=0.01, foreach=True, weight_decay=decay)
    _assert_same_trajectory(mine, other, ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("k", [2, 3])
def test_foreach_is_the_plain_path(dtype, k):
    left = all_kinds(dtype)
    right = clones(left)
    options = {"lr": 0.01, "k": k, "weight_decay": 0.1}
    optimizers = KAdam(left, foreach=False, **options), KAdam(right, foreach=True, **options)
    for step in range(10):
        give_grads(left, right, none={step % len(left)})
        for optimizer in optimizers:
            optimizer.step()
        assert_same(*optimizers)


def test_default_is_foreach_for_many_small_parameters(monkeypatch):
    """foreach is chosen where Python's overhead per parameter dominates; the bits are the plain path's either way."""
    from ctadam.optim import kadam

    taken = []
    for name in ("plain_step", "foreach_step"):
        step = getattr(kadam, name)
        monkeypatch.setattr(kadam, name, lambda *a, step=step, name=name, **o: (taken.append(name), step(*a, **o))[1])

    def path(sizes, dtype=torch.float32, **options):
        params = [torch.nn.Parameter(torch.ones(size, dtype=dtype)) for size in sizes]
        for param in params:
            param.grad = torch.ones_like(param)
        taken.clear()
        KAdam(params, **options).step()
        return taken

    assert path([100] * 20) == path([100] * 20, torch.float64) == path([1, 2, 3] * 5) == ["foreach_step"]
    assert path([100] * 3) == path([20_000] * 20) == path([100] * 20, torch.bfloat16) == ["plain_step"]
    assert path([100] * 20, foreach=False) == path([100] * 20, state_dtype=torch.float64) == ["plain_step"]
    assert path([100] * 20, lr=torch.tensor(0.1)) == ["plain_step"]
