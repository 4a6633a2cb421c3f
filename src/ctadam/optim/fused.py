"""Fused implementation of a step: one Inductor kernel per step that reads and writes every byte of state once.

One kernel of dynamic length serves all parameters, so it is compiled once instead of once per shape. A large parameter is
updated in its own memory. A small parameter would cost more to launch than to compute, so small parameters are packed:
their averages are views of common buffers, and their values and gradients are copied in and out.

Betas, learning rate, weight decay and step count are passed as one small tensor, so changing them recompiles nothing.

With k = 1 torch's own fused kernel is called wherever it computes the same step. Sharded parameters are updated on their
local shards. Whatever is no ordinary tensor, and tied parameters, take the plain path.
"""

import operator
import types
from collections.abc import Callable, Collection, Sequence
from functools import cache
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from ctadam.optim.arithmetic import Scalar, average_, bias_corrections
from ctadam.optim.plain import (
    StepOptions,
    StepTensors,
    as_real,
    from_real,
    local,
    plain_step,
    state_keys,
)

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
    # A parameter that was cast to a wider dtype than its state keeps its digits.
    param.copy_(param.to(torch.promote_types(param.dtype, dtype)) * kept - update * step_size)


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
    tensor = torch.tensor(numbers, dtype=dtype, device="cpu")
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
    # All that guards could find out is in the arguments here, and checking them costs a fifth of a small kernel.
    settings: Any = {"cpp.dynamic_threads": True, "guard_filter_fn": lambda guards: [False] * len(guards)}
    kernel = torch.compile(fresh, fullgraph=True, dynamic=True, options=settings)
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
        flat_param, flat_grad, averages = unit.load(params, grads)
        dtype, device = averages[0].dtype, flat_param.device
        dtypes = flat_param.dtype, flat_grad.dtype, dtype
        guarded = options.eps < torch.finfo(dtype).tiny
        kernel, failure = compiled_kernel(len(options.stages), dtypes, device, options.maximize, guarded)
        if kernel is None:
            error = failure
            plain_indices += unit.indices
            continue
        step = unit.step
        step.add_(1)
        count = step.double() if options.tensor_steps else step.view(-1)[0].item()
        numbers = known.get((count, dtype, device))
        if numbers is None:
            numbers = _numbers(count, options, dtype=_real_dtype(dtype), device=device)
            if not options.tensor_steps:
                known[count, dtype, device] = numbers
        launches.append((unit, kernel, flat_param, flat_grad, averages, numbers))
    # Launch everything at the end: a large kernel evicts the caches, and Python code between two kernels waits for memory.
    for unit, kernel, flat_param, flat_grad, averages, numbers in launches:
        kernel(flat_param, flat_grad, averages, numbers)
        unit.store(params)
    if plan.torchs:
        _torchs_step(plan.tensors._replace(grads=grads).at(plan.torchs), options)
    if plain_indices:
        plain_step(plan.tensors._replace(grads=grads).at(plain_indices), options)
    return error


def _torchs_step(tensors: StepTensors, options: StepOptions) -> None:
    """Perform one step of k = 1 with the kernel of ``torch.optim.AdamW(fused=True)``."""
    params, grads, [exp_avgs], [exp_avg_sqs], steps = tensors
    [(beta1, beta2)] = options.stages
    number: Any = options.lr  # a float or a tensor
    if isinstance(number, Tensor) and not number.is_cpu:
        number = number.to(params[0].device)
    # The CPU kernel walks memory in order and takes equal strides for granted.
    grads = [
        grad if grad.stride() == param.stride() else torch.empty_like(param).copy_(grad)
        for param, grad in zip(params, grads, strict=True)
    ]
    torch._foreach_add_(steps, 1)
    kernel: Any = torch._fused_adamw_
    together: Any = [params, grads, exp_avgs, exp_avg_sqs, steps]
    for alike, _ in Optimizer._group_tensors_by_device_and_dtype(together).values():
        *lists, alike_steps = cast(list[Any], alike)
        kernel(
            *lists, [], alike_steps,
            amsgrad=False, lr=number, beta1=float(beta1), beta2=float(beta2), weight_decay=options.weight_decay,
            eps=options.eps, maximize=options.maximize,
        )  # fmt: skip


class Plan:
    """Division of a group's parameters among kernels, valid while the same tensors with the same memory come back.

    A plan keeps addresses of parameters and averages, never their memory: moving a tensor elsewhere frees it at once.

    Args:
        group: parameter group of the optimizer.
        state: state of the optimizer.
        tensors: tensors of the parameters that have a gradient; of a sharded parameter, the local shards. All are
            ordinary tensors.
    """

    def __init__(self, group: dict[str, Any], state: dict[Any, Any], tensors: StepTensors) -> None:
        self.tensors = tensors._replace(grads=[])  # a plan does not keep gradients alive
        self._group = list(group["params"])
        self._with_grad = [param.grad is not None for param in self._group]
        self._whole = [param for param in self._group if param.grad is not None]
        self._sharded = any(map(operator.is_not, self._whole, tensors.params))
        self._state = list(state.values())
        self._mine = [state[param] for param in self._whole]
        self._entries = operator.itemgetter("step", *state_keys(group["k"]))
        self._options = _deciding(group)

        self.units: list[_Alone | _Pack] = []
        self.torchs: list[int] = []  # parameters that take torch's own kernel
        self.others: list[int] = []  # parameters that take the plain path
        packs: dict[Any, list[Any]] = {}
        shared = _overlapping(tensors.params)
        entries = list(zip(*tensors.exp_avgs, *tensors.exp_avg_sqs, strict=True))
        for index, (param, grad, step) in enumerate(zip(tensors.params, tensors.grads, tensors.steps, strict=True)):
            averages = [entries[index][part * group["k"] + i] for i in range(group["k"]) for part in (0, 1)]
            order = _memory_order(as_real(param)) if _plain_alike(param, grad, *averages) else None
            if index in shared or order is None:
                self.others.append(index)
            elif _suits_torch(group, param, grad, step, *averages):
                self.torchs.append(index)
            elif param.numel() <= PACKED_NUMEL and not group["capturable"]:
                # A pack has one step count because all its parameters share the bias corrections.
                key = param.device, param.dtype, grad.dtype, averages[0].dtype, step.dtype, step.device, step.item()
                packs.setdefault(key, []).append((index, param, grad, step, averages))
            elif as_real(param).numel() < 2:  # lengths 0 and 1 would recompile
                self.others.append(index)
            else:
                self.units.append(_Alone(index, step, averages, order))
        self.packs = [_Pack(members) for members in packs.values()]
        self.units += self.packs
        self._state_tensors = self._find_state()
        self._memory = _memory(tensors.params, self._state_tensors)

    def _find_state(self) -> list[Tensor]:
        found = chain.from_iterable(map(self._entries, self._mine))
        return [local(tensor) for tensor in found] if self._sharded else list(found)

    def grads(self, group: dict[str, Any], state: dict[Any, Any]) -> list[Tensor] | None:
        """Return the gradients of the plan's parameters, or None if anything changed since the plan was made.

        This replaces collecting parameters and state again, which for many small parameters costs as much as the step.
        """
        every = [param.grad for param in group["params"]]
        if not (
            _same(group["params"], self._group)
            and [grad is not None for grad in every] == self._with_grad
            and _same(state.values(), self._state)
            and _deciding(group) == self._options
        ):
            return None
        try:
            tensors = self._find_state()
        except KeyError:
            return None
        params, grads = self._whole, [grad for grad in every if grad is not None]
        if self._sharded:
            grads = [local(grad, like=param) for param, grad in zip(params, grads, strict=True)]
            params = [local(param) for param in params]
        if (
            _same(params, self.tensors.params)
            and _same(tensors, self._state_tensors)
            and _memory(params, tensors) == self._memory
            and all(type(grad) is Tensor for grad in grads)
            and not any(grad.is_sparse for grad in grads)
            and all(pack.fits() for pack in self.packs)
        ):
            return grads
        return None


def _same(new: Collection[Any], old: Collection[Any]) -> bool:
    return len(new) == len(old) and all(map(operator.is_, new, old))


def _memory(params: list[Tensor], state: list[Tensor]) -> list[Any]:
    """Return what shows that a tensor was moved, cast or resized; strides are read anew in every step."""
    return [
        list(map(Tensor.data_ptr, state)),
        list(map(Tensor.data_ptr, params)),
        [param.dtype for param in params],
        [param.shape for param in params],
    ]


def _deciding(group: dict[str, Any]) -> tuple[Any, ...]:
    """Return the options that decide which kernel a parameter takes."""
    return group["k"], group["capturable"], group["eps"], _tensor_betas(group)


def _tensor_betas(group: dict[str, Any]) -> bool:
    betas = group["betas"] if isinstance(group["stages"], str) else chain(*group["stages"])
    return any(isinstance(beta, Tensor) for beta in betas)


def _plain_alike(param: Tensor, *others: Tensor) -> bool:
    """Return whether all have memory on one device and one shape, with averages of one dtype."""
    _, *averages = others
    return (
        param.device.type != "meta"
        and all(t.layout is torch.strided and t.device == param.device and t.shape == param.shape for t in others)
        and all(average.dtype == averages[0].dtype for average in averages)
    )


def _suits_torch(group: dict[str, Any], param: Tensor, grad: Tensor, step: Tensor, *averages: Tensor) -> bool:
    """Return whether the kernel of ``torch.optim.AdamW(fused=True)`` computes the same step."""
    return (
        group["k"] == 1
        and param.is_floating_point()
        and param.device.type in _get_fused_kernels_supported_devices()
        # Its arithmetic is float32 or wider. Below that precision it divides 0 by 0.
        and group["eps"] >= torch.finfo(_real_dtype(param.dtype)).tiny
        and grad.dtype == param.dtype
        and (step.dtype, step.device) == (torch.float32, param.device)
        and all(average.dtype == param.dtype and average.stride() == param.stride() for average in averages)
        # It takes betas as numbers, and reading them would break graph capture.
        and not (group["capturable"] and _tensor_betas(group))
    )


def _overlapping(params: list[Tensor]) -> set[int]:
    """Return the indices of parameters that share memory: tied ones, which must be updated one after the other."""
    spans = []
    for index, param in enumerate(params):
        if param.numel():
            last = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
            spans.append((param.data_ptr(), param.data_ptr() + (last + 1) * param.element_size(), index))
    spans.sort()
    shared: set[int] = set()
    end, owner = 0, -1
    for start, stop, index in spans:
        if start < end:
            shared |= {owner, index}
        if stop > end:
            end, owner = stop, index
    return shared


def _memory_order(tensor: Tensor) -> list[int] | None:
    """Return the dimensions from outermost to innermost in memory, or None if the tensor has gaps or overlaps."""
    order = sorted(range(tensor.dim()), key=lambda d: (tensor.stride(d), tensor.size(d)), reverse=True)
    return order if tensor.permute(order).is_contiguous() else None


class _Alone:
    """A parameter that is updated in its own memory."""

    def __init__(self, index: int, step: Tensor, averages: list[Tensor], order: list[int]) -> None:
        self.indices = [index]
        self.step = step
        self._averages = averages
        self._order = order

    def load(self, params: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return parameter, gradient and averages as 1-D tensors in the order of the parameter's memory."""
        param, grad = params[self.indices[0]], grads[self.indices[0]]
        strides = param.stride()
        if grad.stride() != strides:
            grad = torch.empty_like(param, dtype=grad.dtype).copy_(grad)
        for average in self._averages:
            if average.stride() != strides:  # a state dict may have another layout
                average.data = torch.empty_like(param, dtype=average.dtype).copy_(average)
        return self._flat(param), self._flat(grad), [self._flat(average) for average in self._averages]

    def _flat(self, tensor: Tensor) -> Tensor:
        tensor = as_real(tensor)
        return (tensor if tensor.is_contiguous() else tensor.permute(self._order)).view(-1)

    def store(self, params: list[Tensor]) -> None:
        pass


class _Pack:
    """Small parameters with the same dtypes, device and step count.

    Their averages and step counts become views of common buffers, so that one kernel updates them all. The views own the
    buffers; a pack keeps addresses only.
    """

    def __init__(self, members: list[tuple[int, Tensor, Tensor, Tensor, list[Tensor]]]) -> None:
        self.indices, params, grads, steps, averages = zip(*members, strict=True)
        self._param, self._params = _packed(params)
        self._grad, self._grads = _packed(grads)
        #: The tensors of each buffer: step counts, then each average.
        self._views = [steps, *zip(*averages, strict=True)]
        self._lengths = [_move_together(tensors) for tensors in self._views]

    def _buffer(self, number: int) -> Tensor:
        return as_real(self._views[number][0]).as_strided((self._lengths[number],), (1,), 0)

    @property
    def step(self) -> Tensor:
        """Common buffer of the step counts; all are equal."""
        return self._buffer(0)[: len(self.indices)]

    def fits(self) -> bool:
        """Return whether the buffers are whole and the step counts equal, given that no tensor's address changed."""
        for tensors, length in zip(self._views, self._lengths, strict=True):
            # Memory of a freed buffer may have been given to a tensor of its own.
            if tensors[0].untyped_storage().nbytes() != length * as_real(tensors[0]).element_size():
                return False
        return bool((self.step == self.step[0]).all())

    def load(self, params: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Copy values and gradients into buffers and return these with the buffers of the averages."""
        torch._foreach_copy_(self._params, [params[index] for index in self.indices])
        torch._foreach_copy_(self._grads, [grads[index] for index in self.indices])
        return self._param, self._grad, [self._buffer(number) for number in range(1, len(self._views))]

    def store(self, params: list[Tensor]) -> None:
        """Copy the new values out."""
        torch._foreach_copy_([params[index] for index in self.indices], self._params)

    def unpack(self) -> None:
        """Give every tensor of the state memory of its own again."""
        for tensors in self._views:
            storage = tensors[0].untyped_storage().data_ptr()
            for tensor in tensors:
                if tensor.untyped_storage().data_ptr() == storage:
                    tensor.data = tensor.clone()


def _packed(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return a 1-D real buffer of zeros for all elements of `tensors`, and views of it with their shapes."""
    reals = [as_real(tensor) for tensor in tensors]
    sizes = [real.numel() for real in reals]
    # Round up to whole vectors; lengths 0 and 1 would recompile.
    buffer = torch.zeros(-(-max(sum(sizes), 1) // 64) * 64, dtype=reals[0].dtype, device=reals[0].device)
    parts = buffer[: sum(sizes)].split(sizes)
    return buffer, [from_real(part.view(real.shape), like=tensors[0]) for part, real in zip(parts, reals, strict=True)]


def _move_together(tensors: Sequence[Tensor]) -> int:
    """Move the memory of `tensors` into one buffer and return its length; the tensor objects stay the same."""
    buffer, views = _packed(tensors)
    torch._foreach_copy_(views, list(tensors))
    for tensor, view in zip(tensors, views, strict=True):
        tensor.data = view
    return buffer.numel()
