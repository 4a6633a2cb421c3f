"""Reference implementation of a step: one parameter after another."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _get_value

from ctadam.optim.arithmetic import Scalar, stage_, stage_update

#: Called with a parameter and its update u⁽ᵏ⁾.
UpdateHook = Callable[[Tensor, Tensor], object]


def as_real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as a real view with a last dimension of 2; return a real tensor as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Compare first: for a small tensor, a `to` without effect costs a tenth of torch's whole step.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def plain_step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[list[Tensor]],
    exp_avg_sqs: list[list[Tensor]],
    steps: list[Tensor],
    *,
    stages: Sequence[tuple[Scalar, Scalar]],
    lr: Scalar,
    eps: float,
    weight_decay: float,
    maximize: bool,
    tensor_steps: bool,
    on_update: UpdateHook | None,
) -> None:
    """Perform one step, in place.

    Args:
        params: parameters.
        grads: their gradients.
        exp_avgs: for each stage, the first averages of all parameters.
        exp_avg_sqs: for each stage, the second averages of all parameters.
        steps: step counts, 0-dim tensors.
        stages: k pairs (beta1, beta2).
        lr: learning rate.
        eps: term added to the root.
        weight_decay: decoupled weight decay.
        maximize: ascend instead of descend.
        tensor_steps: keep step counts as tensors, for graph capture and autograd.
        on_update: called with each parameter and its update, or None.
    """
    for index, param in enumerate(params):
        steps[index] += 1
        step = steps[index] if tensor_steps else _get_value(steps[index])
        averages = [(as_real(m[index]), as_real(v[index])) for m, v in zip(exp_avgs, exp_avg_sqs, strict=True)]
        dtype = averages[0][0].dtype
        grad = in_dtype(as_real(-grads[index] if maximize else grads[index]), dtype)
        # The update is applied in the state's dtype and rounded once to the parameter's.
        real = as_real(param)
        target = in_dtype(real, dtype)
        if weight_decay != 0:
            target.mul_(1 - lr * weight_decay)
        for i, ((exp_avg, exp_avg_sq), (beta1, beta2)) in enumerate(zip(averages, stages, strict=True)):
            denom, bias_correction1 = stage_(grad, exp_avg, exp_avg_sq, step, beta1=beta1, beta2=beta2, eps=eps)
            if i + 1 < len(stages):
                grad = stage_update(exp_avg, denom, bias_correction1)
        if on_update is not None:
            update = stage_update(exp_avg, denom, bias_correction1)
            on_update(param, torch.view_as_complex(update) if param.is_complex() else update)
        step_size: Any = lr / bias_correction1
        if tensor_steps:
            target.sub_(exp_avg / denom * step_size)  # `value` of addcdiv_ takes no tensor
        else:
            target.addcdiv_(exp_avg, denom, value=-step_size)
        if target is not real:
            real.copy_(target)
