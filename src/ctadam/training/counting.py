"""What a training run asks of a GPU, counted where there is none: kernels, operations, bytes, memory, and the host's part.

The run itself is executed on torch's ``meta`` device, whose tensors have shapes and no numbers: the same Python, the same
calls, the same sizes, nothing computed. A `Counter` sees every call and answers for the numbers that are not there.
"""

import contextlib
import time
import weakref
from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.fx.experimental._config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

META = torch.device("meta")


@dataclass(frozen=True)
class Card:
    """A GPU, by its maker's data sheet.

    Attributes:
        memory: bytes that a process may use.
        bandwidth: of the memory, bytes per second.
        flops: ``{dtype name: operations per second}`` of dense products, without TF32.
    """

    name: str
    memory: float
    bandwidth: float
    flops: Mapping[str, float]


#: float64 products run on tensor cores, float32 ones (TF32 is off) do not.
CARDS = {
    "h200": Card("H200", 139 * 2**30, 4.8e12, {"float64": 67e12, "float32": 67e12, "bfloat16": 989e12}),
    "h100": Card("H100", 79 * 2**30, 3.35e12, {"float64": 67e12, "float32": 67e12, "bfloat16": 989e12}),
}

#: Assumed, until they are measured: the part of a data sheet's rates that real kernels reach,
BANDWIDTH_SHARE, FLOPS_SHARE = 0.75, 0.5
#: the shortest kernel, and what the call that launches one costs the host (Python, autograd, torch.func, CUDA); seconds.
KERNEL_S, CALL_S = 2.5e-6, 3e-5
#: A copy between host and device: bytes per second of pageable memory, and what waiting for one costs in seconds.
COPY_RATE, WAIT_S = 1e10, 2e-5

#: Longer than any call: the host is doing something else.
LONG_S = 1e-3

_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
_WRITE = {"copy_", "fill_", "zero_", "normal_", "uniform_"}
_GATHER = {"embedding", "index", "gather", "index_select", "take", "take_along_dim"}
_SCATTER = {"scatter_", "scatter_add_", "index_put_", "_index_put_impl_", "index_add_", "index_copy_"}

_assumed = []


def _leaves(*arguments):
    """Arguments of a call, those in lists too."""
    for argument in arguments:
        if isinstance(argument, tuple | list):
            yield from argument
        else:
            yield argument


def _tensors(*arguments):
    return [x for x in _leaves(*arguments) if isinstance(x, Tensor)]


def _convolution_backward(grad, inputs, weight, bias_sizes, stride, padding, dilation, transposed, *rest, **ignored):
    """Operations of a convolution's gradients, each as many as the convolution's own.

    torch's formula counts that of the weight once for each group too many, and batched convolutions are groups.
    """
    *_, mask = rest
    return sum(mask[:2]) * conv_flop_count(inputs.shape, weight.shape, grad.shape, transposed=transposed)


_FORMULAS = flop_registry | {torch.ops.aten.convolution_backward: _convolution_backward}


@cache
def _schema(func):
    """Of an operator: its name, whether it returns a view, whether it changes an argument, its formula of operations."""
    schema = func._schema
    view = any(x.alias_info is not None and not x.alias_info.is_write for x in schema.returns)
    return schema.name.removeprefix("aten::"), view, schema.is_mutable, _FORMULAS.get(func._overloadpacket)


def memory_of(device):
    """Bytes of a device's memory; for ``meta`` those of the card that is counted for."""
    if device.type == "meta":
        if not _assumed:
            raise ValueError("the meta device has no memory of its own: count under a Counter with a card")
        return _assumed[-1].memory
    return torch.cuda.get_device_properties(device).total_memory


def _nbytes(tensor):
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


class Counter(TorchDispatchMode):
    """Counts while it is active (``with Counter(card) as counter``).

    Args:
        card: for which times are estimated; without one there are counts only.
        kind: type of the device whose calls are counted: ``meta``, or ``cpu`` to count a real run.

    Attributes:
        kernels: calls that would launch one (a few launch several).
        flops: ``{dtype name: operations}`` of matrix products and convolutions, as torch counts them.
        moved: bytes that the kernels read and write in the device's memory, each operand once.
        copied: bytes between host and device.
        live, peak: bytes of memory in use, and their maximum.
        waits: how often the host asks for a number and waits for it.
        device_s: seconds of the kernels and copies on the card, by its rates.
        host_s: CPU seconds that the host works by itself, measured here: on tensors of its own, or for more than `LONG_S`
            between two calls (NumPy, pandas). What calls themselves cost it is not in there: that is `CALL_S` a kernel.
    """

    def __init__(self, card=None, *, kind="meta"):
        super().__init__()
        self.card, self.kind = card, kind
        self.kernels = self.moved = self.copied = self.waits = self.live = self.peak = 0
        self.flops = Tally()
        self.device_s = self.host_s = 0.0
        self._known, self._results = {}, {}

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        if self.kind == "meta":
            # A boolean index is taken to select everything.
            self._stack.enter_context(torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True))
        if self.card is not None:
            _assumed.append(self.card)
            self._stack.callback(_assumed.pop)
        self._last = time.process_time()
        return super().__enter__()

    def __exit__(self, *exception):
        result = super().__exit__(*exception)
        self._host(time.process_time())
        self._stack.close()
        return result

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self._host(time.process_time())
        given = _tensors(*args, *kwargs.values())
        result = self._call(func, args, kwargs, given)
        made = _tensors(result)
        if any(x.device.type == self.kind for x in (*given, *made)):
            self._count(func, args, kwargs, given, result, made)
        else:
            self.host_s += time.process_time() - self._last
        self._last = time.process_time()
        return result

    def _host(self, now):
        """What the host did since the last call, if it was more than to prepare this one."""
        if now - self._last > LONG_S:
            self.host_s += now - self._last
        self._last = now

    def _call(self, func, args, kwargs, given):
        """The result, with numbers, ones mostly, where the meta device has none."""
        if self.kind != "meta" or not any(x.is_meta for x in given):
            return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            self._wait(given[0].element_size())
            return torch.ones((), dtype=given[0].dtype).item()
        if func is torch.ops.aten.equal.default:
            self._wait(1)
            return True
        to = kwargs.get("device")
        if func is torch.ops.aten._to_copy.default and to is not None and torch.device(to).type != "meta":
            self._wait(_nbytes(given[0]))
            dtype = kwargs.get("dtype") or given[0].dtype
            # Whole numbers may be used as an index.
            return torch.full(given[0].shape, dtype.is_floating_point or dtype is torch.bool, dtype=dtype)
        if func is torch.ops.aten.copy_.default and not args[0].is_meta:
            self._wait(_nbytes(args[1]))
            return args[0].fill_(1)
        return self._shapes(func, args, kwargs, given)

    def _shapes(self, func, args, kwargs, given):
        """The result of a call on the meta device, remembered: to find its shape may take a thousand lines of Python."""
        _, view, mutable, _ = _schema(func)
        if mutable and len(func._schema.returns) == 1 and args and func._schema.name.endswith("_"):
            return args[0]  # in place
        if view or mutable or any(not x.is_meta for x in given):
            return func(*args, **kwargs)
        leaves = _leaves(*args, *kwargs.values())
        key = func, *((x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else (type(x), x) for x in leaves)
        known = self._results.get(key)
        if known is None:
            result = func(*args, **kwargs)
            made = result if isinstance(result, tuple | list) else (result,)
            if all(x is None or (isinstance(x, Tensor) and x.is_meta) for x in made):
                self._results[key] = type(result), [x if x is None else (x.shape, x.stride(), x.dtype) for x in made]
            return result
        kind, parts = known
        made = [x if x is None else torch.empty_strided(x[0], x[1], dtype=x[2], device=META) for x in parts]
        return kind(made) if kind in (tuple, list) else made[0]

    def _wait(self, nbytes):
        self.waits += 1
        self.copied += nbytes
        self.device_s += WAIT_S + nbytes / COPY_RATE

    def _count(self, func, args, kwargs, given, result, made):
        for tensor in made:
            self._hold(tensor)
        name, view, _, formula = _schema(func)
        if not made or view or name in _NOTHING:
            return
        if any(x.device.type != self.kind for x in made):
            return  # to the host: `_call` has counted it
        written = sum(map(_nbytes, made))
        if name in ("_to_copy", "copy_") and given[-1].device.type != self.kind:
            self.copied += written
            self.device_s += written / COPY_RATE
            return
        if name in _GATHER:
            moved = 2 * written + sum(map(_nbytes, given[1:]))
        elif name in _SCATTER:
            moved = 3 * sum(map(_nbytes, given[1:]))
        else:
            moved = written + sum(map(_nbytes, given[name in _WRITE :]))
        flops, kind = 0, str(made[0].dtype).removeprefix("torch.")
        if formula is not None:
            flops = formula(*args, **kwargs, out_val=result)
            self.flops[kind] += flops
        self.kernels += 1
        self.moved += moved
        if self.card is not None:
            rate = FLOPS_SHARE * self.card.flops.get(kind, self.card.flops["float32"])
            self.device_s += max(KERNEL_S, moved / (BANDWIDTH_SHARE * self.card.bandwidth), flops / rate)

    def _hold(self, tensor):
        """Count a tensor's memory for as long as it lives."""
        storage = tensor.untyped_storage()
        if tensor.device.type != self.kind or storage._cdata in self._known:
            return
        key, nbytes = storage._cdata, storage.nbytes()

        def drop(_):
            self.live -= nbytes
            del self._known[key]

        self._known[key] = weakref.ref(storage, drop)
        self.live += nbytes
        self.peak = max(self.peak, self.live)
