"""Reference implementation of a step: one parameter after another."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import _get_value

from ctadam.optim.arithmetic import Scalar, kadam_update_, stage_, stage_update

#: Called with a parameter and its update u⁽ᵏ⁾.
UpdateHook = Callable[[Tensor, Tensor], object]


class StepTensors(NamedTuple):
    """Tensors that a step reads and updates, in the order of the parameters.

    Attributes:
        params: parameters.
        grads: their gradients.
        exp_avgs: for each stage, the first averages of all parameters.
        exp_avg_sqs: for each stage, the second averages of all parameters.
        steps: step counts, 0-dim tensors.
    """

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[list[Tensor]]
    exp_avg_sqs: list[list[Tensor]]
    steps: list[Tensor]

    def at(self, indices: Sequence[int]) -> "StepTensors":
        """Return the tensors of the parameters with these indices."""

        def pick(tensors: list[Tensor]) -> list[Tensor]:
            return [tensors[i] for i in indices]

        params, grads, exp_avgs, exp_avg_sqs, steps = self
        return StepTensors(pick(params), pick(grads), [*map(pick, exp_avgs)], [*map(pick, exp_avg_sqs)], pick(steps))


class StepOptions(NamedTuple):
    """Options of a step, the same for all its parameters.

    Attributes:
        stages: k pairs (beta1, beta2).
        lr: learning rate.
        eps: term added to the root.
        weight_decay: decoupled weight decay.
        maximize: ascend instead of descend.
        tensor_steps: keep step counts as tensors, for graph capture and autograd.
        on_update: called with each parameter and its update, or None.
    """

    stages: Sequence[tuple[Scalar, Scalar]]
    lr: Scalar
    eps: float
    weight_decay: float
    maximize: bool = False
    tensor_steps: bool = False
    on_update: UpdateHook | None = None


def as_real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as a real view with a last dimension of 2; return a real tensor as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def from_real(real: Tensor, *, like: Tensor) -> Tensor:
    """Undo `as_real`: return a complex view if `like` is complex, else `real` as it is."""
    return torch.view_as_complex(real) if like.is_complex() else real


#: Types whose memory a kernel may address; subclasses can store their values in any way.
_PLAIN = (Tensor, Parameter)


def all_plain(tensors: Iterable[Tensor]) -> bool:
    """Return whether all are ordinary tensors, not of a subclass such as FakeTensor or DTensor."""
    return all(type(tensor) in _PLAIN for tensor in tensors)


def local(tensor: Any, *, like: Any = None) -> Tensor:
    """Return the local shard of a DTensor, and other tensors as they are.

    Args:
        tensor: parameter, gradient or average.
        like: parameter to whose placement a gradient is brought first.
    """
    if type(tensor) in _PLAIN or not hasattr(tensor, "to_local"):
        return tensor
    if like is not None and tensor.placements != like.placements:
        tensor = tensor.redistribute(placements=like.placements)
    return tensor.to_local()


def state_keys(k: int) -> tuple[str, ...]:
    """Return the names of a parameter's averages, stage by stage; for k = 1 those of torch's Adam."""
    if k == 1:
        return "exp_avg", "exp_avg_sq"
    return tuple(f"{name}_{i}" for i in range(1, k + 1) for name in ("exp_avg", "exp_avg_sq"))


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Compare first: for a small tensor, a `to` without effect costs a tenth of torch's whole step.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def plain_step(tensors: StepTensors, options: StepOptions) -> None:
    """Perform one step on `tensors`, in place."""
    lr, eps = options.lr, options.eps
    # The last stage is separate, because its update is folded into the step. With k = 1 no stage is before it.
    *earlier_stages, (beta1, beta2) = options.stages
    params, grads, all_exp_avgs, all_exp_avg_sqs, steps = tensors
    for index, param in enumerate(params):
        steps[index] += 1
        step = steps[index] if options.tensor_steps else _get_value(steps[index])
        *exp_avgs, exp_avg = [as_real(averages[index]) for averages in all_exp_avgs]
        *exp_avg_sqs, exp_avg_sq = [as_real(averages[index]) for averages in all_exp_avg_sqs]
        dtype = exp_avg.dtype
        grad = in_dtype(as_real(-grads[index] if options.maximize else grads[index]), dtype)
        # The update is applied in the state's dtype and rounded once to the parameter's.
        real = as_real(param)
        target = real if real.dtype == dtype else real.to(torch.promote_types(real.dtype, dtype))
        if options.weight_decay != 0:
            target.mul_(1 - lr * options.weight_decay)
        grad = kadam_update_(grad, exp_avgs, exp_avg_sqs, step, stages=earlier_stages, eps=eps)
        denom, bias_correction1 = stage_(grad, exp_avg, exp_avg_sq, step, beta1=beta1, beta2=beta2, eps=eps)
        if options.on_update is not None:
            options.on_update(param, from_real(stage_update(exp_avg, denom, bias_correction1), like=param))
        step_size: Any = lr / bias_correction1
        if options.tensor_steps:
            target.sub_(exp_avg / denom * step_size)  # `value` of addcdiv_ takes no tensor
        else:
            target.addcdiv_(exp_avg, denom, value=-step_size)
        if target is not real:
            real.copy_(target)
