"""Helpers of the optimizer's tests: its paths, parameters of every kind, and comparison of two optimizers."""

import torch

PATHS = {
    "plain": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"capturable": True},
    "foreach capturable": {"foreach": True, "capturable": True},
    "fused capturable": {"fused": True, "capturable": True},
}
#: The implementations that a user can select.
MAIN = ("plain", "foreach", "fused")


def all_kinds(dtype=torch.float32):
    """Return parameters with different failure modes: packed or not, empty, 0-dim, not contiguous, with gaps."""
    shapes = {
        "large": torch.randn(150, 120, dtype=dtype),
        "small": torch.randn(5, dtype=dtype),
        "0-dim": torch.randn((), dtype=dtype),
        "empty": torch.randn(0, 3, dtype=dtype),
        "channels last": torch.randn(3, 40, 15, 11, dtype=dtype).to(memory_format=torch.channels_last),
        "with gaps": torch.randn(260, 300, dtype=dtype)[::2, ::2],
        "transposed": torch.randn(7, 9, dtype=dtype).t(),
    }
    return [value.requires_grad_() for value in (v.detach() for v in shapes.values())]


def clones(params):
    """Return copies with the same strides, including gaps, which `clone` would close."""
    return [
        torch.empty_strided(param.shape, param.stride(), dtype=param.dtype).copy_(param.detach()).requires_grad_()
        for param in params
    ]


def give_grads(*lists, none=()):
    """Set the same random gradients in each list of parameters; None at the indices `none`."""
    for index, twins in enumerate(zip(*lists, strict=True)):
        dtype = twins[0].dtype
        # Drawn in float32 at least: normal numbers drawn in bfloat16 are sometimes exactly 0, and torch divides 0 by 0.
        grad = torch.randn(twins[0].shape, dtype=torch.promote_types(dtype, torch.float32)).to(dtype)
        for twin in twins:
            twin.grad = None if index in none else grad.clone()


def snapshot(optimizer):
    """Return copies of parameters and state, in order."""
    tensors = []
    for group in optimizer.param_groups:
        for param in group["params"]:
            tensors.append(param.detach().clone())
            tensors += [value.clone() for _, value in sorted(optimizer.state.get(param, {}).items())]
    return tensors


def assert_same(left, right, **tolerance):
    """Compare two optimizers' parameters and state, bit for bit unless a tolerance is given."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    torch.testing.assert_close(snapshot(left), snapshot(right), **tolerance)
