"""Multi-tensor implementation of a step: fewer kernel launches, one more copy of the averages in memory.

Operations run in the order of ``torch.optim.Adam(foreach=True)``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ctadam.optim.arithmetic import Scalar, bias_corrections
from ctadam.optim.plain import UpdateHook, as_real

Tensors = list[Tensor] | tuple[Tensor, ...]


def foreach_step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[list[Tensor]],
    exp_avg_sqs: list[list[Tensor]],
    steps: list[Tensor],
    **options: Any,
) -> None:
    """Perform one step, in place; arguments as in `ctadam.optim.plain.plain_step`, with betas as floats."""
    # Group by the parameters only: the averages may have another dtype.
    lists: Any = [params]
    grouped: Any = Optimizer._group_tensors_by_device_and_dtype(lists, with_indices=True)
    for [members], indices in grouped.values():
        if indices is None:  # under torch.compile there is one group with all parameters
            indices = range(len(members))

        def pick(tensors: list[Tensor], indices: Sequence[int] = indices) -> list[Tensor]:
            return [tensors[i] for i in indices]

        _step_alike(
            members,
            pick(grads),
            [pick(stage) for stage in exp_avgs],
            [pick(stage) for stage in exp_avg_sqs],
            pick(steps),
            **options,
        )


def _reals(tensors: list[Tensor]) -> list[Tensor]:
    return [as_real(tensor) for tensor in tensors] if tensors[0].is_complex() else tensors


def _step_alike(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[list[Tensor]],
    exp_avg_sqs: list[list[Tensor]],
    steps: list[Tensor],
    *,
    stages: Sequence[tuple[float, float]],
    lr: Scalar,
    eps: float,
    weight_decay: float,
    maximize: bool,
    tensor_steps: bool,
    on_update: UpdateHook | None,
) -> None:
    """Perform `foreach_step` on parameters of one device and dtype."""
    reals = _reals(params)
    exp_avgs = [_reals(m) for m in exp_avgs]
    exp_avg_sqs = [_reals(v) for v in exp_avg_sqs]
    dtype = exp_avgs[0][0].dtype
    inputs: Tensors = [grad.to(dtype) for grad in _reals(grads)]
    targets = reals if reals[0].dtype == dtype else [real.to(dtype) for real in reals]
    if maximize:
        inputs = torch._foreach_neg(inputs)

    if steps[0].is_cpu and not torch.compiler.is_compiling():
        # A tensor is made once; a number would be wrapped again for every step count.
        torch._foreach_add_(steps, torch.tensor(1.0), alpha=1.0)
    else:
        torch._foreach_add_(steps, 1)
    tensor_steps = tensor_steps or torch.compiler.is_compiling()
    counts = torch.stack(steps) if tensor_steps else [step.item() for step in steps]

    if weight_decay != 0:
        torch._foreach_mul_(targets, 1 - lr * weight_decay)
    for i, (exp_avg, exp_avg_sq, (beta1, beta2)) in enumerate(zip(exp_avgs, exp_avg_sqs, stages, strict=True)):
        torch._foreach_lerp_(exp_avg, inputs, 1 - beta1)
        torch._foreach_mul_(exp_avg_sq, beta2)
        torch._foreach_addcmul_(exp_avg_sq, inputs, inputs, 1 - beta2)
        corrections1, corrections2_sqrt = _bias_corrections(counts, dtype, beta1=beta1, beta2=beta2)
        denoms = torch._foreach_sqrt(exp_avg_sq)
        torch._foreach_div_(denoms, corrections2_sqrt)
        torch._foreach_add_(denoms, eps)
        if eps < torch.finfo(dtype).tiny:  # see `ctadam.optim.arithmetic.denominator`
            for denom in denoms:
                denom.masked_fill_(denom == 0, torch.inf)
        if i + 1 < len(stages):
            inputs = _updates(exp_avg, denoms, corrections1)

    if on_update is not None:
        for param, update in zip(params, _updates(exp_avg, denoms, corrections1), strict=True):
            on_update(param, torch.view_as_complex(update) if param.is_complex() else update)
    if tensor_steps:
        updates = torch._foreach_div(exp_avg, denoms)
        torch._foreach_mul_(updates, [lr / correction for correction in corrections1])
        torch._foreach_sub_(targets, updates)
    else:
        torch._foreach_addcdiv_(targets, exp_avg, denoms, [-lr / correction for correction in corrections1])
    if targets is not reals:
        torch._foreach_copy_(reals, targets)


def _bias_corrections(counts: Tensor | list[float], dtype: torch.dtype, *, beta1: float, beta2: float) -> list[Any]:
    """Return two lists, `ctadam.optim.arithmetic.bias_corrections` of each parameter, as floats or 0-dim tensors."""
    if isinstance(counts, torch.Tensor):
        corrections: Any = bias_corrections(counts, beta1=beta1, beta2=beta2)
        return [correction.to(dtype).unbind() for correction in corrections]
    by_count = {count: bias_corrections(count, beta1=beta1, beta2=beta2) for count in set(counts)}
    return [[by_count[count][index] for count in counts] for index in (0, 1)]


def _updates(exp_avgs: Tensors, denoms: Tensors, corrections1: list[Any]) -> Tensors:
    updates = torch._foreach_div(exp_avgs, denoms)
    torch._foreach_div_(updates, corrections1)
    return updates
