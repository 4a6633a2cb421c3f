"""One parameter after the other: the path that the others are held against."""

import torch
from torch.optim.optimizer import _get_value

from ctadam.optim.arithmetic import stage_, stage_update


def as_real(tensor):
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def in_dtype(tensor, dtype):
    # Asking first: even where nothing has to be done, `to` costs a tenth of what torch's whole step does for a small tensor.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def plain_step(
    params, grads, exp_avgs, exp_avg_sqs, steps, *, stages, lr, eps, weight_decay, maximize, tensor_steps, on_update
):
    """Takes one step, in place.

    exp_avgs and exp_avg_sqs hold one list of averages for each stage. `tensor_steps` keeps the step count a tensor, for
    graph capture and autograd; `on_update` is called with each parameter and its update.
    """
    for index, param in enumerate(params):
        steps[index] += 1
        step = steps[index] if tensor_steps else _get_value(steps[index])
        averages = [(as_real(m[index]), as_real(v[index])) for m, v in zip(exp_avgs, exp_avg_sqs, strict=True)]
        dtype = averages[0][0].dtype
        grad = in_dtype(as_real(-grads[index] if maximize else grads[index]), dtype)
        # Applied in the state's dtype, then rounded once to the parameter's.
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
        step_size = lr / bias_correction1
        if tensor_steps:
            target.sub_(exp_avg / denom * step_size)  # addcdiv_ takes a number only
        else:
            target.addcdiv_(exp_avg, denom, value=-step_size)
        if target is not real:
            real.copy_(target)
