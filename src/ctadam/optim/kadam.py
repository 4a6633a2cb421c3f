"""KAdam: k-Adam as a ``torch.optim.Optimizer``.

The update rule is in `ctadam.optim.arithmetic`. This module validates options, holds state and selects an implementation.
"""

import copy
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    ParamsT,
    _default_to_fused_or_foreach,
    _get_scalar_dtype,
    _to_scalar,
    _use_grad_for_differentiable,
)
from torch.utils.hooks import RemovableHandle

from ctadam.optim.arithmetic import Scalar, bias_corrections, denominator, stage_update
from ctadam.optim.foreach import foreach_step
from ctadam.optim.fused import PACKED_NUMEL, Plan, fused_step
from ctadam.optim.plain import (
    StepOptions,
    StepTensors,
    UpdateHook,
    all_plain,
    as_real,
    from_real,
    local,
    plain_step,
    state_keys,
)
from ctadam.optim.stages import check_betas, check_stages, resolve
from ctadam.theory.stability import growth_rate, nearest_stable_beta2, stability_coefficient

#: Keys of AdamW's groups and defaults that KAdam does not take over.
_NOT_OURS = ("params", "decoupled_weight_decay")

#: Why `amsgrad=True` is refused.
AMSGRAD = (
    "amsgrad=True is not supported: k-Adam's stages divide by the root of the average itself, and with the maximum of "
    "past averages the bound of the last stage would be another one"
)


class StabilityWarning(UserWarning):
    """The last stage's betas are outside the stable region (arXiv 2411.05746, section 3)."""


class KAdam(Optimizer):
    """Implements k-Adam, which applies Adam's normalization k times (arXiv 2411.05746, k-Adam).

    With u⁽⁰⁾ = g, stage i = 1 … k computes::

        m⁽ⁱ⁾ ← γ_i m⁽ⁱ⁾ + (1−γ_i) u⁽ⁱ⁻¹⁾
        v⁽ⁱ⁾ ← β_i v⁽ⁱ⁾ + (1−β_i) (u⁽ⁱ⁻¹⁾)²
        u⁽ⁱ⁾ = m̂⁽ⁱ⁾ / (√v̂⁽ⁱ⁾ + ε)            m̂, v̂ bias-corrected

    and the step is θ ← θ − lr · (weight_decay · θ + u⁽ᵏ⁾). With k = 1 this is ``torch.optim.AdamW``, bit for bit on the
    default path in float32, float64 and bfloat16. The paper's γ is ``beta1`` and its β is ``beta2``, so its pair (β, γ) is
    torch's ``betas`` in the opposite order.

    Args:
        params: iterable of parameters, named parameters, or dicts that define parameter groups. Groups can override every
            option below.
        lr: learning rate, ≥ 0; a float or a 1-element tensor.
        betas: base pair (beta1, beta2) from which `stages` computes each stage's pair; floats in [0, 1) or 1-element tensors.
        eps: term added to the root in every stage, ≥ 0. If it is 0 or underflows in the state's dtype, the update is 0
            wherever the root is 0.
        weight_decay: decoupled weight decay, as in AdamW, ≥ 0.
        amsgrad: accepted as AdamW's argument, but must be False.
        k: number of stages. Each has two averages, so the state holds 2k values per parameter element.
        stages: strategy ``"naive"``, ``"exp"``, ``"inverse-exp"`` or ``"uniform"`` (see `ctadam.optim.stage_betas`), or a
            sequence of k pairs (beta1, beta2) that replaces `betas`.
        maximize: ascend instead of descend.
        foreach: use torch's multi-tensor kernels. None chooses as torch does on CUDA. On the CPU, None uses them for many
            small parameters, where they are faster and give the same bits.
        capturable: keep the step count on the parameters' device, for graph capture. Also works on the CPU.
        differentiable: let autograd run through the step.
        fused: use one kernel for the whole step: torch's own for k = 1, a compiled one beyond. If compilation fails, warn and
            use the plain path. Results differ from the plain path by rounding only.
        state_dtype: dtype of the averages, such as ``"float64"`` or ``torch.float64``; at least as precise as the
            parameters'. Gradients are cast to it, the update is computed in it, and the new parameter is rounded once. None
            uses the parameters' dtype.

    The state of a parameter is ``step`` (0-dim) and averages of its shape: ``exp_avg`` and ``exp_avg_sq``, AdamW's names, for
    k = 1, and ``exp_avg_{i}`` and ``exp_avg_sq_{i}`` for i = 1 … k beyond.

    Raises:
        ValueError: if an option is out of range or `state_dtype` is less precise than a parameter.
        TypeError: if k is not an integer.
        RuntimeError: if fused is combined with foreach or differentiable.

    Warns:
        StabilityWarning: once, at construction or when the betas change, if the last stage's betas are outside the stable
            region C > 0 (section 3 of the paper). The bound on the update holds for any input of the last stage, so the
            earlier stages do not matter.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = KAdam(model.parameters(), lr=1e-3, k=2)
        >>> model(torch.ones(3)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        k: int = 2,
        stages: str | Sequence[Sequence[Scalar]] = "inverse-exp",
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "k": k,
            "stages": stages,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "state_dtype": state_dtype,
        }
        self._init_unsaved()
        self._warned_unstable = True  # warn below, where the caller's line is at a known stack depth
        super().__init__(params, self._checked(defaults))
        self._warned_unstable = False
        for number, group in enumerate(self.param_groups):
            self._check_stability(number, group, stacklevel=3)

    @classmethod
    def from_adamw(cls, optimizer: Optimizer, k: int = 2, **options: Any) -> "KAdam":
        """Return a KAdam that continues a run of ``torch.optim.AdamW`` on the same parameters.

        Options and step counts are AdamW's. The first stage takes over AdamW's averages. Each later stage starts as if its
        input had always been AdamW's last update u, and its mean square had been 1: such a stage returns u itself, so the
        first updates have AdamW's size (derived in docs/kadam_reference.md). With k = 1 the run continues bit for bit.

        Args:
            optimizer: the AdamW to continue, or an Adam without weight decay. It is left unchanged, and no state is shared.
            k: number of stages.
            options: options of KAdam that replace AdamW's in every group, such as `stages` or `lr`.

        Raises:
            TypeError: if `optimizer` is neither AdamW nor Adam.
            ValueError: if it uses AMSGrad or weight decay that is not decoupled.

        Example:
            >>> model = torch.nn.Linear(3, 1)
            >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            >>> optimizer = KAdam.from_adamw(optimizer, k=2)
        """
        if not isinstance(optimizer, torch.optim.Adam):
            raise TypeError(f"from_adamw continues torch.optim.AdamW, not {torch.typename(optimizer)}")
        groups, betas = [], {}
        for group in optimizer.param_groups:
            _check_adamw(group)
            betas.update(dict.fromkeys(group["params"], group["betas"]))
            own = {name: copy.deepcopy(value) for name, value in group.items() if name not in _NOT_OURS}
            groups.append({**own, "params": group["params"], "k": k, **options})
        defaults = {name: copy.deepcopy(v) for name, v in optimizer.defaults.items() if name not in _NOT_OURS}
        continued = cls(groups, **{**defaults, "k": k, **options})
        for group in continued.param_groups:
            for param in group["params"]:
                if optimizer.state.get(param):
                    continued.state[param] = _warm_start(optimizer.state[param], param, group, betas[param])
        return continued

    def _init_unsaved(self) -> None:
        """Initialize what pickles and copies do not keep."""
        self._update_hooks: OrderedDict[int, UpdateHook] = OrderedDict()
        self._plans: dict[int, Plan] = {}
        self._checked_betas: dict[int, tuple[Any, ...]] = {}
        self._whole: dict[int, Tensor] = {}  # sharded parameter of a local shard, for update hooks
        self._warned_fused = False

    @staticmethod
    def _checked(options: dict[str, Any]) -> dict[str, Any]:
        """Return the options in normal form, or raise torch's error for the first invalid one."""
        lr, betas = options["lr"], options["betas"]
        if isinstance(lr, Tensor):
            if options["foreach"] and not options["capturable"]:
                raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
            if lr.numel() != 1:
                raise ValueError("Tensor lr must be 1-element")
        if not _is_finite_and_not_negative(lr):
            raise ValueError(f"Invalid learning rate: {lr}")
        for name, value in (("epsilon", options["eps"]), ("weight_decay", options["weight_decay"])):
            if not _is_finite_and_not_negative(value):
                raise ValueError(f"Invalid {name} value: {value}")
        if options["amsgrad"]:
            raise ValueError(AMSGRAD)
        check_betas(betas)
        for index, beta in enumerate(betas):
            if isinstance(beta, Tensor) and options["foreach"] and not options["capturable"]:
                raise ValueError(f"betas[{index}] as a Tensor is not supported for capturable=False and foreach=True")
        if options["fused"]:
            if options["differentiable"]:
                raise RuntimeError("`fused` does not support `differentiable`")
            if options["foreach"]:
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        return {
            **options,
            "betas": tuple(_to_scalar(beta) for beta in betas),
            "stages": check_stages(options["stages"], options["k"]),
            "state_dtype": _dtype_name(options["state_dtype"]),
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; see ``torch.optim.Optimizer.add_param_group``."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        checked = self._checked({**self.defaults, **param_group})
        # Pass on only the group's own options; torch fills in the defaults.
        super().add_param_group({name: checked[name] for name in param_group})
        group = self.param_groups[-1]
        try:
            for param in group["params"]:
                _state_dtype(param, group["state_dtype"])
        except ValueError:
            self.param_groups.pop()
            raise
        self._check_stability(len(self.param_groups) - 1, group, stacklevel=3)

    def _check_stability(self, number: int, group: dict[str, Any], *, stacklevel: int) -> None:
        """Warn once if the betas of a group's last stage are unstable and were not checked before.

        Betas on an accelerator are not read, because that would synchronize.
        """
        if self._warned_unstable or torch.compiler.is_compiling():
            return
        betas = group["betas"] if isinstance(group["stages"], str) else group["stages"][-1]
        if any(isinstance(beta, Tensor) and not beta.is_cpu for beta in betas):
            return
        known = group["stages"], group["k"], *(_number(beta) for beta in betas)
        if known == self._checked_betas.get(number):
            return
        self._checked_betas[number] = known
        beta1, beta2 = (_number(beta) for beta in _stages(group)[-1])
        coefficient = stability_coefficient(beta1=beta1, beta2=beta2)
        if coefficient > 0:
            return
        self._warned_unstable = True
        rate = growth_rate(beta1=beta1, beta2=beta2)
        nearest = nearest_stable_beta2(beta1=beta1, beta2=beta2)
        if math.isnan(nearest):
            advice = "No beta2 below 1 is stable for this beta1."
        else:
            advice = f"The nearest stable beta2 for this beta1 is {nearest}."
        warnings.warn(
            f"The last stage's betas ({beta1:.6g}, {beta2:.6g}) are outside the stable region: C = {coefficient:.4g} "
            f"is not positive, so updates have no bound and can grow by a factor exp({rate:.4g}) per step (growth rate "
            f"{rate:.4g}). {advice}",
            StabilityWarning,
            stacklevel=stacklevel,
        )

    def __getstate__(self) -> dict[str, Any]:
        self._unpack()
        return {**super().__getstate__(), "_warned_unstable": self._warned_unstable}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_update_hooks" not in self.__dict__:
            self._init_unsaved()
        self.__dict__.setdefault("_warned_unstable", True)  # older pickles do not say; the original already warned
        for name, value in {"amsgrad": False, "state_dtype": None}.items():
            self.defaults.setdefault(name, value)
        for group in self.param_groups:
            for name, value in self.defaults.items():  # older state lacks newer options
                group.setdefault(name, value)
            group["state_dtype"] = _dtype_name(group["state_dtype"])
            for param in group["params"]:
                if self.state.get(param):
                    own = self.state[param] = _with_current_names(self.state[param])
                    if not isinstance(own["step"], Tensor):
                        own["step"] = _new_step(param, group, value=float(own["step"]))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer; see ``torch.optim.Optimizer.state_dict``.

        Each tensor in it has memory of its own, so that saving one parameter's state saves nothing else.
        """
        self._unpack()
        return super().state_dict()

    def _unpack(self) -> None:
        """Give the averages that the fused path has packed memory of their own; the next step packs them again."""
        for plan in self._plans.values():
            for pack in plan.packs:
                pack.unpack()
        self._plans.clear()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the optimizer state; it shares no memory with `state_dict`.

        With k = 1, a state dict of ``torch.optim.AdamW`` loads too. `from_adamw` continues an AdamW run with more stages.

        Raises:
            ValueError: if the state belongs to another k, to another optimizer, or to AMSGrad.
        """
        states: dict[Any, Any] = {}
        saved_indices: list[Any] = []

        def take_state(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
            # torch would cast averages to the parameters' dtype and share their memory with the source.
            groups = [
                _accepted(group, saved, state_dict["state"])
                for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=False)
            ]
            groups += state_dict["param_groups"][len(groups) :]  # torch raises if the numbers differ
            states.update(state_dict["state"])
            saved_indices.extend(index for group in groups for index in group["params"])
            rest = {index: state for index, state in states.items() if index not in set(saved_indices)}
            return {**state_dict, "state": rest, "param_groups": groups}

        def copy_state(optimizer: Optimizer) -> None:
            params = [(param, group) for group in self.param_groups for param in group["params"]]
            for index, (param, group) in zip(saved_indices, params, strict=True):
                if saved := states.get(index):
                    self.state[param] = _copied(_with_current_names(saved), param, group)

        # The hooks run after the user's pre-hooks (last) and before the user's post-hooks (first).
        last = self.register_load_state_dict_pre_hook(take_state)
        first = self.register_load_state_dict_post_hook(copy_state, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            first.remove()
        self._plans.clear()
        for number, group in enumerate(self.param_groups):
            self._check_stability(number, group, stacklevel=3)

    def register_update_hook(self, hook: UpdateHook) -> RemovableHandle:
        """Register ``hook(param, update)``, which every step calls for each parameter before applying its update.

        ``update`` is u⁽ᵏ⁾, which multiplies −lr in arXiv 2411.05746: bias-corrected, before the learning rate and without weight
        decay. It has the parameter's shape and the state's dtype. It is valid only during the call, and writing to it has no
        effect. Without a hook it is not computed.

        Returns:
            torch.utils.hooks.RemovableHandle: a handle whose ``remove()`` removes the hook.

        Raises:
            RuntimeError: if a parameter group has ``fused=True``, which never forms the update in memory.
        """
        if any(group["fused"] for group in self.param_groups):
            raise RuntimeError("`fused` does not support update hooks: it never forms the update in memory")
        handle = RemovableHandle(self._update_hooks)
        self._update_hooks[handle.id] = hook
        return handle

    def _gather(self, group: dict[str, Any]) -> StepTensors:
        """Return the tensors of the parameters that have a gradient; create missing state.

        Of sharded parameters these are the local shards.
        """
        k, keys = group["k"], state_keys(group["k"])
        params, grads, steps = [], [], []
        averages: list[list[Tensor]] = [[] for _ in keys]
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad.is_sparse:
                raise RuntimeError("KAdam does not support sparse gradients, please consider SparseAdam instead")
            state = self.state[param]
            if len(state) == 0:
                state["step"] = _new_step(param, group)
                dtype = _state_dtype(param, group["state_dtype"])
                for key in keys:
                    state[key] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
            elif keys[-1] not in state or f"exp_avg_{k + 1}" in state:
                raise RuntimeError(f"the optimizer's state was not created with k={k}: it has {sorted(state)}")
            if group["differentiable"]:
                if state["step"].requires_grad:
                    raise RuntimeError("`requires_grad` is not supported for `step` in differentiable mode")
                # Autograd saves the averages that a step uses, so each step works on copies.
                for key in keys:
                    state[key] = state[key].clone()
            params.append(param)
            grads.append(grad)
            steps.append(state["step"])
            for key, tensors in zip(keys, averages, strict=True):
                tensors.append(state[key])
        if not all_plain(params) and not group["differentiable"]:
            grads = [local(grad, like=param) for param, grad in zip(params, grads, strict=True)]
            whole = params
            params, *averages = ([local(tensor) for tensor in tensors] for tensors in (params, *averages))
            if self._update_hooks:
                self._whole.update(zip(map(id, params), whole, strict=True))
        return StepTensors(params, grads, averages[::2], averages[1::2], steps)

    def _call_update_hooks(self, param: Tensor, update: Tensor) -> None:
        whole: Any = self._whole.get(id(param), param)
        if whole is not param:
            update = type(whole).from_local(
                update, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
            )
        for hook in list(self._update_hooks.values()):
            hook(whole, update)

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure (Callable, optional): A closure that reevaluates the model and returns the loss.

        Returns:
            The result of `closure`, or None.

        Raises:
            RuntimeError: if a gradient is sparse or the state was created with another k.
        """
        self._check_graph_capture()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            self._check_stability(number, group, stacklevel=5)
            options = StepOptions(
                stages=_stages(group),
                lr=_to_scalar(group["lr"]),
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                maximize=group["maximize"],
                tensor_steps=group["capturable"] or group["differentiable"],
                on_update=self._call_update_hooks if self._update_hooks else None,
            )
            if group["fused"]:
                # A compiled step uses the kernel as it is. Outside of one, the decorator costs as much as a small kernel.
                run_fused = self._fused_uncompiled if torch.compiler.is_compiling() else self._fused
                run_fused(number, group, options)
                continue
            tensors = self._gather(group)
            if tensors.params:
                run = foreach_step if self._takes_foreach(group, tensors.params, options.stages) else plain_step
                run(tensors, options)
            self._whole.clear()
        return loss

    def _fused(self, number: int, group: dict[str, Any], options: StepOptions) -> None:
        """Perform one step of a group on the fused path."""
        if self._update_hooks:
            raise RuntimeError("`fused` does not support update hooks: it never forms the update in memory")
        plan = self._plans.get(number)
        grads = None if plan is None else plan.grads(group, self.state)
        if plan is None or grads is None:
            tensors = self._gather(group)
            if not all_plain(chain(tensors.params, tensors.grads, *tensors.exp_avgs, *tensors.exp_avg_sqs)):
                self._plans.pop(number, None)
                plain_step(tensors, options)
                return
            self._plans[number] = plan = Plan(group, self.state, tensors)
            grads = tensors.grads
        error = fused_step(plan, grads, options)
        if error is not None and not self._warned_fused:
            self._warned_fused = True
            warnings.warn(
                f"`fused=True` could not compile its kernel and uses the plain path instead: {error}", stacklevel=5
            )

    # `torch.compiler.disable` would import Dynamo at once.
    _fused_uncompiled = torch._disable_dynamo(_fused)

    def _takes_foreach(self, group: dict[str, Any], params: list[Tensor], stages: Sequence[Any]) -> bool:
        """Return whether a group takes the multi-tensor path: as requested, or as torch's own optimizers would choose."""
        foreach = group["foreach"]
        tensor_lr = isinstance(group["lr"], Tensor) and not group["capturable"]
        if foreach is None and group["fused"] is None:
            _, foreach = _default_to_fused_or_foreach(params, group["differentiable"], use_fused=False)
            foreach = (foreach or _many_small(params, group["state_dtype"])) and not tensor_lr
        if foreach and tensor_lr:
            raise RuntimeError("lr as a Tensor is not supported for capturable=False and foreach=True")
        # The multi-tensor kernels take betas as numbers only, and autograd does not support them.
        return (
            foreach
            and not group["differentiable"]
            and not any(isinstance(beta, Tensor) for pair in stages for beta in pair)
        )

    def _check_graph_capture(self) -> None:
        # torch renamed this check between supported versions; the old name warns where the new one exists.
        check = getattr(self, "_accelerator_graph_capture_health_check", None)
        (check or self._cuda_graph_capture_health_check)()


def _is_finite_and_not_negative(value: Any) -> bool:
    value = value.detach() if isinstance(value, Tensor) else value
    return bool(value >= 0.0) and math.isfinite(value)  # NaN fails the first


def _many_small(params: list[Tensor], state_dtype: str | None) -> bool:
    """Return whether Python's overhead per parameter dominates: many small parameters on the CPU.

    There the multi-tensor path is faster, its copies are small, and its bits are the plain path's.
    """
    return (
        len(params) >= 8
        and all(param.is_cpu and param.dtype in (torch.float32, torch.float64) for param in params)
        and (state_dtype is None or getattr(torch, state_dtype) == params[0].dtype)
        and sum(map(Tensor.numel, params)) <= PACKED_NUMEL * len(params)
    )


def _number(value: Scalar) -> float:
    return value.item() if isinstance(value, Tensor) else value


def _stages(group: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return the k pairs of betas of a group, each of floats or of tensors."""
    betas = group["betas"]
    tensors = [beta for beta in betas if isinstance(beta, Tensor)]
    if len(tensors) == 1:  # a scheduler that cycles the momentum has written a float beside a tensor
        betas = [torch.as_tensor(beta, dtype=torch.float64, device=tensors[0].device) for beta in betas]
    return resolve(group["stages"], group["k"], betas)


def _step_on_device(param: Tensor, group: dict[str, Any]) -> bool:
    """Return whether step counts lie with the parameters: graph capture and torch's fused kernel need them there.

    Elsewhere they lie on the CPU, because reading them there needs no synchronization.
    """
    return bool(group["capturable"] or (group["fused"] and group["k"] == 1 and not param.is_meta))


def _new_step(param: Tensor, group: dict[str, Any], value: float = 0.0) -> Tensor:
    if _step_on_device(param, group):
        return torch.tensor(value, dtype=torch.float32, device=param.device)
    return torch.tensor(value, dtype=_get_scalar_dtype(), device="cpu")


def _dtype_name(dtype: torch.dtype | str | None) -> str | None:
    """Return the name of a floating point dtype, such as ``"float64"``: options are JSON values."""
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"Invalid state_dtype: {dtype!r} is not a floating point dtype")
    return name


def _state_dtype(param: Tensor, state_dtype: str | None) -> torch.dtype:
    """Return the dtype of the averages of `param`: complex if it is complex, and at least as precise."""
    if state_dtype is None:
        return param.dtype
    real: torch.dtype = getattr(torch, state_dtype)
    dtype = real.to_complex() if param.is_complex() else real
    if torch.promote_types(param.dtype, dtype) != dtype:
        raise ValueError(f"Invalid state_dtype: {real} is less precise than a parameter of {param.dtype}")
    return dtype


def _with_current_names(state: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's state with the names of k = 1 as AdamW has them; older KAdam numbered them."""
    if "exp_avg_2" in state:
        return state
    return {key.removesuffix("_1"): value for key, value in state.items()}


def _copied(state: dict[str, Any], param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a loaded state with the dtypes and devices that `param` needs."""
    dtype = _state_dtype(param, group["state_dtype"])
    copied: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            copied[key] = _new_step(param, group, value=float(value)) if key == "step" else copy.deepcopy(value)
        elif key != "step":
            copied[key] = value.detach().to(dtype=dtype, device=param.device, copy=True)
        elif _step_on_device(param, group):
            copied[key] = value.detach().to(dtype=torch.float32, device=param.device, copy=True)
        else:
            copied[key] = value.detach().to(device="cpu", copy=True)
    return copied


@torch.no_grad()
def _warm_start(state: dict[str, Any], param: Tensor, group: dict[str, Any], betas: Sequence[Scalar]) -> dict[str, Any]:
    """Return the state from which a group of KAdam continues AdamW's; see docs/kadam_reference.md.

    Args:
        state: AdamW's state of the parameter.
        param: the parameter.
        group: its group in KAdam.
        betas: the betas that AdamW used.
    """
    copied = _copied(state, param, group)
    exp_avg, exp_avg_sq = as_real(copied.pop("exp_avg")), as_real(copied.pop("exp_avg_sq"))
    step = float(copied["step"])
    before1, before2 = bias_corrections(step, beta1=float(betas[0]), beta2=float(betas[1]))
    averages: list[Tensor] = []
    for beta1, beta2 in _stages(group):
        after1, after2 = bias_corrections(step, beta1=float(beta1), beta2=float(beta2))
        if not averages:
            # The corrected averages stay the same when they are divided by the first stage's own corrections.
            averages = [exp_avg * (after1 / before1), exp_avg_sq * (after2 / before2) ** 2]
            update = stage_update(averages[0], denominator(averages[1], after2, eps=group["eps"]), after1)
        else:
            averages += [update * after1, torch.full_like(update, float(after2) ** 2)]
    for key, average in zip(state_keys(group["k"]), averages, strict=True):
        copied[key] = from_real(average, like=param)
    return copied


def _accepted(group: dict[str, Any], saved: dict[str, Any], states: dict[Any, Any]) -> dict[str, Any]:
    """Return a saved parameter group with the options that it lacks; raise if `group` cannot continue its state.

    Args:
        group: parameter group of the optimizer.
        saved: the group in the state dict, of KAdam or of torch's AdamW.
        states: states in the state dict.
    """
    k = group["k"]
    if saved.get("amsgrad"):
        raise ValueError(AMSGRAD)
    keys = {key for index in saved["params"] for key in states.get(index) or ()} - {"step"}
    if "k" in saved:  # wrappers, such as timm's Lookahead, keep tensors of their own there
        keys = {key for key in keys if key.startswith("exp_avg")}
    saved_k = len(keys) // 2 or saved.get("k")
    ours = not keys or keys == {*state_keys(len(keys) // 2)} or keys == {"exp_avg_1", "exp_avg_sq_1"}
    # RAdam's state has the same names, but no `amsgrad` is among its options.
    radam = keys == {"exp_avg", "exp_avg_sq"} and not {"amsgrad", "k"} & set(saved)
    if not ours or radam or not {"betas", "eps"} <= set(saved):
        raise ValueError(
            f"the state dict is another optimizer's: its state has {sorted(keys)} and its options are "
            f"{sorted(set(saved) - {'params'})}, while KAdam with k={k} has {list(state_keys(k))}"
        )
    if saved_k not in (None, k):
        origin = "torch's AdamW (k=1)" if saved_k == 1 and "k" not in saved else f"KAdam with k={saved_k}"
        raise ValueError(
            f"the state dict is of {origin}, but this optimizer is KAdam with k={k}; KAdam.from_adamw continues an AdamW run"
        )
    _check_adamw(saved)
    options = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    return {**options, **{name: value for name, value in saved.items() if name != "decoupled_weight_decay"}}


def _check_adamw(group: dict[str, Any]) -> None:
    """Raise if a group of torch's Adam or AdamW has an option that KAdam lacks."""
    if group.get("amsgrad"):
        raise ValueError(AMSGRAD)
    if not group.get("decoupled_weight_decay", True) and group["weight_decay"] != 0:
        raise ValueError(
            "KAdam's weight decay is decoupled, as AdamW's; it cannot continue torch.optim.Adam with "
            f"weight_decay={group['weight_decay']}, which adds it to the gradients"
        )
