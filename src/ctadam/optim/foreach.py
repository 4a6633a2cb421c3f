"""Multi-tensor implementation of a step: fewer kernel launches, one more copy of the averages in memory.

Operations run in the order of ``torch.optim.Adam(foreach=True)``.
"""

from typing import Any

import torch
from torch import Tensor

from ctadam.optim.arithmetic import bias_corrections
from ctadam.optim.plain import StepOptions, StepTensors, all_plain, as_real, from_real, plain_step

Tensors = list[Tensor] | tuple[Tensor, ...]


def foreach_step(tensors: StepTensors, options: StepOptions) -> None:
    """Perform one step on `tensors`, in place; betas must be floats."""
    params, first = tensors.params, tensors.exp_avgs[0]
    groups: dict[Any, list[int]] = {}
    # A parameter that comes twice is updated twice, one after the other.
    twice = len({id(param) for param in params}) < len(params)
    if twice or not (all_plain(params) and all_plain(tensors.grads) and all_plain(first)):
        plain_step(tensors, options)
        return
    for index, (param, exp_avg) in enumerate(zip(params, first, strict=True)):
        groups.setdefault((param.device, param.dtype, exp_avg.dtype), []).append(index)
    for indices in groups.values():
        _step_alike(tensors if len(groups) == 1 else tensors.at(indices), options)


def _reals(tensors: list[Tensor]) -> list[Tensor]:
    return [as_real(tensor) for tensor in tensors] if tensors[0].is_complex() else tensors


def _step_alike(tensors: StepTensors, options: StepOptions) -> None:
    """Perform `foreach_step` on parameters of one device and dtype."""
    params, grads, exp_avgs, exp_avg_sqs, steps = tensors
    lr, eps = options.lr, options.eps
    stages: Any = options.stages  # pairs of floats
    reals = _reals(params)
    exp_avgs = [_reals(m) for m in exp_avgs]
    exp_avg_sqs = [_reals(v) for v in exp_avg_sqs]
    dtype = exp_avgs[0][0].dtype
    inputs: Tensors = [grad.to(dtype) for grad in _reals(grads)]
    wide = torch.promote_types(reals[0].dtype, dtype)
    targets = reals if reals[0].dtype == dtype else [real.to(wide) for real in reals]
    if options.maximize:
        inputs = torch._foreach_neg(inputs)

    if steps[0].is_cpu and not torch.compiler.is_compiling():
        # A tensor is made once; a number would be wrapped again for every step count.
        torch._foreach_add_(steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
    else:
        torch._foreach_add_(steps, 1)
    tensor_steps = options.tensor_steps or torch.compiler.is_compiling()
    counts = torch.stack(steps) if tensor_steps else [step.item() for step in steps]

    if options.weight_decay != 0:
        torch._foreach_mul_(targets, 1 - lr * options.weight_decay)
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

    if options.on_update is not None:
        for param, update in zip(params, _updates(exp_avg, denoms, corrections1), strict=True):
            options.on_update(param, from_real(update, like=param))
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
