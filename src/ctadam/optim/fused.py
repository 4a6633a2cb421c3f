"""Fused implementation of a step: one Inductor kernel per step that reads and writes every byte of state once.

One kernel of dynamic length serves all parameters, so it is compiled once instead of once per shape. A large parameter is
updated in its own memory. A small parameter would cost more to launch than to compute, so small parameters are packed:
their averages are views of common buffers, and their values and gradients are copied in and out.

Betas, learning rate, weight decay and step count are passed as one small tensor, so changing them recompiles nothing.
"""

import operator
import types
from collections.abc import Callable, Collection, Sequence
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ctadam.optim.arithmetic import Scalar, average_, bias_corrections
from ctadam.optim.plain import StepOptions, StepTensors, as_real, from_real, plain_step

#: Parameters with at most this many elements are packed.
PACKED_NUMEL = 16384
#: Length of the example that the kernel is compiled on; long enough for Inductor to use all threads.
EXAMPLE_NUMEL = 1 << 20


def _kernel(
    param: Tensor, grad: Tensor, averages: list[Tensor], numbers: Tensor, *, maximize: bool, guarded: bool
) -> None:
    """Perform one step on 1-D tensors of one length; `numbers` comes from `_numbers`.

    The bias corrections are folded into one factor of √v and one of ε, so a stage needs one root and one division.
    """
    dtype = averages[0].dtype
    update = grad.to(dtype)
    if maximize:
        update = -update
    kept, step_size = numbers[0], numbers[1]
    for i in range(len(averages) // 2):
        exp_avg, exp_avg_sq = averages[2 * i], averages[2 * i + 1]
        weight1, beta2, weight2, root_factor, eps = numbers[2 + 5 * i : 7 + 5 * i].unbind()
        average_(update, exp_avg, exp_avg_sq, weight1=weight1, beta2=beta2, weight2=weight2)
        denom = exp_avg_sq.sqrt() * root_factor + eps
        update = exp_avg / denom
        if guarded:
            update = torch.where(denom == 0, 0.0, update)
    param.copy_(param.to(dtype) * kept - update * step_size)


def _numbers(step: Scalar, options: StepOptions, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the kernel's numbers as a 1-D tensor.

    They are computed as floats unless step, lr or betas are tensors (capturable).
    """
    numbers = [1 - options.lr * options.weight_decay, options.lr]
    for beta1, beta2 in options.stages:
        correction1, correction2_sqrt = bias_corrections(step, beta1=beta1, beta2=beta2)
        numbers += [1 - beta1, beta2, 1 - beta2, correction1 / correction2_sqrt, options.eps * correction1]
    if any(isinstance(number, Tensor) for number in numbers):
        # `full` fills a number in with a kernel. A copy would synchronize and prevent graph capture.
        return torch.stack(
            [
                number.to(device, dtype)
                if isinstance(number, Tensor)
                else torch.full((), number, dtype=dtype, device=device)
                for number in numbers
            ]
        )
    tensor = torch.tensor(numbers, dtype=dtype)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # otherwise the copy synchronizes
    return tensor.to(device, non_blocking=True)


@cache
def compiled_kernel(
    k: int,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
    device: torch.device,
    maximize: bool,
    guarded: bool,
) -> tuple[Callable[..., None] | None, str | None]:
    """Return ``(kernel, None)``, or ``(None, reason)`` if compilation fails; each variant is compiled once per process.

    Args:
        k: number of stages.
        dtypes: real dtypes of the parameter, the gradient and the state.
        device: device of the tensors.
        maximize: ascend instead of descend; a constant of the kernel.
        guarded: define 0/0 as 0; a constant of the kernel.
    """
    # Dynamo caches per code object and gives up after a few variants, so each variant gets its own code object.
    fresh = types.FunctionType(_kernel.__code__.replace(), _kernel.__globals__, "kadam", None, _kernel.__closure__)
    fresh.__kwdefaults__ = {"maximize": maximize, "guarded": guarded}
    kernel = torch.compile(fresh, fullgraph=True, dynamic=True, options={"cpp.dynamic_threads": True})
    param_dtype, grad_dtype, state_dtype = dtypes
    state = [torch.zeros(EXAMPLE_NUMEL, dtype=state_dtype, device=device) for _ in range(2 * k)]
    options = StepOptions(stages=[(0.9, 0.999)] * k, lr=0.0, eps=1.0, weight_decay=0.0)
    numbers = _numbers(1.0, options, dtype=_real_dtype(state_dtype), device=device)
    try:
        kernel(
            torch.zeros(EXAMPLE_NUMEL, dtype=param_dtype, device=device),
            torch.zeros(EXAMPLE_NUMEL, dtype=grad_dtype, device=device),
            state,
            numbers,
        )
    except Exception as error:  # a missing or broken compiler can raise anything
        # Keep only the text: the error's traceback would keep the example alive.
        return None, f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return kernel, None


def _real_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the kernel's numbers, at least float32: bfloat16 cannot represent 1 − beta2 = 0.001 precisely."""
    return torch.promote_types(dtype, torch.float32)


def fused_step(plan: "Plan", grads: list[Tensor], options: StepOptions) -> str | None:
    """Perform one step on the plan's parameters, in place.

    Returns:
        None, or the reason why a kernel could not be compiled. Its parameters have then taken the plain path.
    """
    if not options.tensor_steps:
        stages = [(float(beta1), float(beta2)) for beta1, beta2 in options.stages]
        options = options._replace(stages=stages, lr=float(options.lr))
    params = plan.tensors.params
    known: dict[Any, Tensor] = {}  # parameters with the same step count share their numbers
    error = None
    plain_indices = list(plan.others)
    launches = []
    for unit in plan.units:
        flat_param, flat_grad = unit.load(params, grads)
        dtype, device = unit.averages[0].dtype, flat_param.device
        dtypes = flat_param.dtype, flat_grad.dtype, dtype
        guarded = options.eps < torch.finfo(dtype).tiny
        kernel, failure = compiled_kernel(len(options.stages), dtypes, device, options.maximize, guarded)
        if kernel is None:
            error = failure
            plain_indices += unit.indices
            continue
        unit.step.add_(1)
        count = unit.step.double() if options.tensor_steps else unit.count()
        numbers = known.get((count, dtype, device))
        if numbers is None:
            numbers = _numbers(count, options, dtype=_real_dtype(dtype), device=device)
            if not options.tensor_steps:
                known[count, dtype, device] = numbers
        launches.append((unit, kernel, flat_param, flat_grad, numbers))
    # Launch everything at the end: a large kernel evicts the caches, and Python code between two kernels waits for memory.
    for unit, kernel, flat_param, flat_grad, numbers in launches:
        kernel(flat_param, flat_grad, unit.averages, numbers)
        unit.store(params)
    if plain_indices:
        plain_step(plan.tensors._replace(grads=grads).at(plain_indices), options)
    return error


class Plan:
    """Division of a group's parameters into packed and separate ones, valid while the same tensors come back.

    Args:
        group: parameter group of the optimizer.
        state: state of the optimizer.
        tensors: tensors of the parameters that have a gradient.
    """

    def __init__(self, group: dict[str, Any], state: dict[Any, Any], tensors: StepTensors) -> None:
        self.tensors = tensors._replace(grads=[])  # a plan does not keep gradients alive
        self._group = list(group["params"])
        self._with_grad = [param.grad is not None for param in self._group]
        self._state = list(state.values())
        self._mine = [state[param] for param in tensors.params]
        numbers = range(1, group["k"] + 1)
        self._entries = operator.itemgetter("step", *(f"{n}_{i}" for i in numbers for n in ("exp_avg", "exp_avg_sq")))
        self._state_tensors = list(chain.from_iterable(map(self._entries, self._mine)))
        self._k = group["k"]

        self.units: list[_Alone | _Pack] = []
        self.others: list[int] = []  # neither packed nor dense in memory: left to the plain path
        packs: dict[Any, list[Any]] = {}
        for index, (param, grad, entry) in enumerate(zip(tensors.params, tensors.grads, self._mine, strict=True)):
            step, *averages = self._entries(entry)
            if param.numel() <= PACKED_NUMEL and not group["capturable"]:
                # A pack has one step count because all its parameters share the bias corrections.
                key = param.device, param.dtype, grad.dtype, averages[0].dtype, step.dtype, step.item()
                packs.setdefault(key, []).append((index, param, grad, step, averages))
            elif as_real(param).numel() < 2 or (order := _memory_order(as_real(param))) is None:
                self.others.append(index)
            else:
                self.units.append(_Alone(index, param, step, averages, order))
        self.units += [_Pack(members) for members in packs.values()]

    def grads(self, group: dict[str, Any], state: dict[Any, Any]) -> list[Tensor] | None:
        """Return the gradients of the plan's parameters, or None if anything changed since the plan was made.

        This replaces collecting parameters and state again, which for many small parameters costs as much as the step. All
        comparisons are by identity, in C.
        """
        grads = [param.grad for param in group["params"]]
        try:
            fits = (
                group["k"] == self._k
                and _same(group["params"], self._group)
                and [grad is not None for grad in grads] == self._with_grad
                and _same(state.values(), self._state)
                and all(map(operator.is_, chain.from_iterable(map(self._entries, self._mine)), self._state_tensors))
                and all(unit.fits() for unit in self.units)
            )
        except KeyError:
            return None
        grads = [grad for grad in grads if grad is not None]
        return grads if fits and not any(grad.is_sparse for grad in grads) else None


def _same(new: Collection[Any], old: Collection[Any]) -> bool:
    return len(new) == len(old) and all(map(operator.is_, new, old))


def _memory_order(tensor: Tensor) -> list[int] | None:
    """Return the dimensions from outermost to innermost in memory, or None if the tensor has gaps or overlaps."""
    order = sorted(range(tensor.dim()), key=lambda d: (tensor.stride(d), tensor.size(d)), reverse=True)
    return order if tensor.permute(order).is_contiguous() else None


class _Alone:
    """A parameter that is updated in its own memory."""

    def __init__(self, index: int, param: Tensor, step: Tensor, averages: list[Tensor], order: list[int]) -> None:
        self.indices = [index]
        self.step = step
        self._order = None if order == sorted(order) else order
        for average in averages:
            if average.stride() != param.stride():  # a state dict may have another layout
                average.data = torch.empty_like(param, dtype=average.dtype).copy_(average)
        self.averages = [self._flat(average) for average in averages]

    def _flat(self, tensor: Tensor) -> Tensor:
        tensor = as_real(tensor)
        return (tensor if self._order is None else tensor.permute(self._order)).view(-1)

    def fits(self) -> bool:
        return True

    def count(self) -> float:
        return self.step.item()

    def load(self, params: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, Tensor]:
        param, grad = params[self.indices[0]], grads[self.indices[0]]
        if grad.stride() != param.stride():
            grad = torch.empty_like(param, dtype=grad.dtype).copy_(grad)
        return self._flat(param), self._flat(grad)

    def store(self, params: list[Tensor]) -> None:
        pass


class _Pack:
    """Small parameters with the same dtypes, device and step count; their averages and steps become views of common buffers."""

    def __init__(self, members: list[tuple[int, Tensor, Tensor, Tensor, list[Tensor]]]) -> None:
        self.indices, params, grads, steps, averages = zip(*members, strict=True)
        self._param, self._params = _packed(params)
        self._grad, self._grads = _packed(grads)
        self.step = _moved(steps)[: len(steps)]
        self.averages = [_moved(tensors) for tensors in zip(*averages, strict=True)]

    def fits(self) -> bool:
        return bool((self.step == self.step[0]).all())

    def count(self) -> float:
        return self.step[0].item()

    def load(self, params: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, Tensor]:
        torch._foreach_copy_(self._params, [params[index] for index in self.indices])
        torch._foreach_copy_(self._grads, [grads[index] for index in self.indices])
        return self._param, self._grad

    def store(self, params: list[Tensor]) -> None:
        torch._foreach_copy_([params[index] for index in self.indices], self._params)


def _packed(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return a 1-D real buffer of zeros for all elements of `tensors`, and views of it with their shapes."""
    reals = [as_real(tensor) for tensor in tensors]
    sizes = [real.numel() for real in reals]
    # Round up to whole vectors; lengths 0 and 1 would recompile.
    buffer = torch.zeros(-(-max(sum(sizes), 1) // 64) * 64, dtype=reals[0].dtype, device=reals[0].device)
    parts = buffer[: sum(sizes)].split(sizes)
    return buffer, [from_real(part.view(real.shape), like=tensors[0]) for part, real in zip(parts, reals, strict=True)]


def _moved(tensors: Sequence[Tensor]) -> Tensor:
    """Move the memory of `tensors` into one buffer and return the buffer; the tensor objects stay the same."""
    buffer, views = _packed(tensors)
    torch._foreach_copy_(views, list(tensors))
    for tensor, view in zip(tensors, views, strict=True):
        tensor.data = view
    return buffer
