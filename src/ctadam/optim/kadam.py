"""KAdam: k-Adam as a ``torch.optim.Optimizer``.

The update rule is in `ctadam.optim.arithmetic`. This module validates options, holds state and selects an implementation.
"""

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
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

from ctadam.optim.arithmetic import Scalar
from ctadam.optim.foreach import foreach_step
from ctadam.optim.fused import PACKED_NUMEL, Plan, fused_step
from ctadam.optim.plain import StepOptions, StepTensors, UpdateHook, plain_step
from ctadam.optim.stages import check_betas, check_stages, resolve
from ctadam.theory.stability import growth_rate, nearest_stable_beta2, stability_coefficient


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
        k: number of stages. Each has two averages, so the state holds 2k values per parameter element.
        stages: strategy ``"naive"``, ``"exp"``, ``"inverse-exp"`` or ``"uniform"`` (see `ctadam.optim.stage_betas`), or a
            sequence of k pairs (beta1, beta2) that replaces `betas`.
        maximize: ascend instead of descend.
        foreach: use torch's multi-tensor kernels. None chooses as torch does on CUDA. On the CPU, None uses them for many
            small parameters, where they are faster and give the same bits.
        capturable: keep the step count on the parameters' device, for graph capture. Also works on the CPU.
        differentiable: let autograd run through the step.
        fused: use one compiled kernel for the whole step. If compilation fails, warn and use the plain path. Results differ
            from the plain path by rounding only.
        state_dtype: dtype of the averages, such as ``torch.float64``; at least as precise as the parameters'. Gradients are
            cast to it, the update is computed in it, and the new parameter is rounded once. None uses the parameters' dtype.

    The state of a parameter is ``step`` (0-dim) and, for i = 1 … k, ``exp_avg_{i}`` and ``exp_avg_sq_{i}`` of its shape.

    Raises:
        ValueError: if an option is out of range or `state_dtype` is less precise than a parameter.
        TypeError: if k is not an integer.
        RuntimeError: if fused is combined with foreach or differentiable.

    Warns:
        StabilityWarning: once, if the last stage's betas are outside the stable region C > 0 (section 3 of the paper). The
            bound on the update holds for any input of the last stage, so the earlier stages do not matter.

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
        weight_decay: float = 0.0,
        *,
        k: int = 2,
        stages: str | Sequence[tuple[Scalar, Scalar]] = "inverse-exp",
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
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
        for group in self.param_groups:
            self._warn_if_unstable(group)

    def _init_unsaved(self) -> None:
        """Initialize what pickles and copies do not keep."""
        self._update_hooks: OrderedDict[int, UpdateHook] = OrderedDict()
        self._plans: dict[int, Plan] = {}
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
        check_betas(betas)
        for index, beta in enumerate(betas):
            if isinstance(beta, Tensor) and options["foreach"] and not options["capturable"]:
                raise ValueError(f"betas[{index}] as a Tensor is not supported for capturable=False and foreach=True")
        if options["fused"]:
            if options["differentiable"]:
                raise RuntimeError("`fused` does not support `differentiable`")
            if options["foreach"]:
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        state_dtype = options["state_dtype"]
        if state_dtype is not None and not (isinstance(state_dtype, torch.dtype) and state_dtype.is_floating_point):
            raise ValueError(f"Invalid state_dtype: {state_dtype!r} is not a floating point torch.dtype")
        return {
            **options,
            "betas": tuple(_to_scalar(beta) for beta in betas),
            "stages": check_stages(options["stages"], options["k"]),
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
        self._warn_if_unstable(group)

    def _warn_if_unstable(self, group: dict[str, Any]) -> None:
        if self._warned_unstable:
            return
        last = resolve(group["stages"], group["k"], group["betas"])[-1]
        beta1, beta2 = (beta.item() if isinstance(beta, Tensor) else beta for beta in last)
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
            stacklevel=3,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_update_hooks" not in self.__dict__:
            self._init_unsaved()
            self._warned_unstable = True  # the original already warned
        for group in self.param_groups:
            # Older state dicts lack newer options.
            for name in ("k", "stages", "maximize", "foreach", "capturable", "differentiable", "fused", "state_dtype"):
                group.setdefault(name, self.defaults[name])
            for param in group["params"]:
                step = self.state[param].get("step") if param in self.state else None
                if step is not None and not isinstance(step, Tensor):
                    self.state[param]["step"] = _new_step(param, group, value=float(step))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the optimizer state; averages keep the precision of `state_dtype`."""
        loaded: dict[str, Any] = {}

        def remember(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
            loaded.update(state_dict)

        def restore(optimizer: Optimizer) -> None:
            # torch casts averages to the parameter's dtype: where that loses digits, take them from the source again.
            # It also moves the step counts of fused groups to the parameters' device.
            saved = [index for group in loaded["param_groups"] for index in group["params"]]
            params = [(param, group) for group in optimizer.param_groups for param in group["params"]]
            for index, (param, group) in zip(saved, params, strict=True):
                if param not in optimizer.state:
                    continue
                state = optimizer.state[param]
                dtype = _state_dtype(param, group["state_dtype"])
                if dtype != param.dtype:
                    for key, value in loaded["state"][index].items():
                        if key != "step" and isinstance(value, Tensor):
                            state[key] = value.to(dtype=dtype, device=param.device)
                if not group["capturable"] and "step" in state:
                    state["step"] = state["step"].to("cpu")

        # Hooks run after the user's pre-hooks (last) and before the user's post-hooks (first).
        last = self.register_load_state_dict_pre_hook(remember)
        first = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            first.remove()

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
        """Return the tensors of the parameters that have a gradient; create missing state."""
        params, grads, steps = [], [], []
        exp_avgs: list[list[Tensor]] = [[] for _ in range(group["k"])]
        exp_avg_sqs: list[list[Tensor]] = [[] for _ in range(group["k"])]
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise RuntimeError("KAdam does not support sparse gradients, please consider SparseAdam instead")
            state = self.state[param]
            if len(state) == 0:
                state["step"] = _new_step(param, group)
                dtype = _state_dtype(param, group["state_dtype"])
                for i in range(1, group["k"] + 1):
                    for key in (f"exp_avg_{i}", f"exp_avg_sq_{i}"):
                        state[key] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
            elif f"exp_avg_{group['k']}" not in state or f"exp_avg_{group['k'] + 1}" in state:
                raise RuntimeError(f"the optimizer's state was not created with k={group['k']}: it has {sorted(state)}")
            if group["differentiable"]:
                if state["step"].requires_grad:
                    raise RuntimeError("`requires_grad` is not supported for `step` in differentiable mode")
                # Autograd saves the averages that a step uses, so each step works on copies.
                for key in state:
                    if key != "step":
                        state[key] = state[key].clone()
            params.append(param)
            grads.append(param.grad)
            steps.append(state["step"])
            for i in range(group["k"]):
                exp_avgs[i].append(state[f"exp_avg_{i + 1}"])
                exp_avg_sqs[i].append(state[f"exp_avg_sq_{i + 1}"])
        return StepTensors(params, grads, exp_avgs, exp_avg_sqs, steps)

    def _call_update_hooks(self, param: Tensor, update: Tensor) -> None:
        for hook in list(self._update_hooks.values()):
            hook(param, update)

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
            options = StepOptions(
                stages=resolve(group["stages"], group["k"], group["betas"]),
                lr=_to_scalar(group["lr"]),
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                maximize=group["maximize"],
                tensor_steps=group["capturable"] or group["differentiable"],
                on_update=self._call_update_hooks if self._update_hooks else None,
            )
            if group["fused"]:
                self._fused(number, group, options)
                continue
            tensors = self._gather(group)
            if tensors.params:
                run = foreach_step if self._takes_foreach(group, tensors.params) else plain_step
                run(tensors, options)
        return loss

    @torch.compiler.disable  # a compiled step uses the kernel as it is
    def _fused(self, number: int, group: dict[str, Any], options: StepOptions) -> None:
        """Perform one step of a group on the fused path."""
        if self._update_hooks:
            raise RuntimeError("`fused` does not support update hooks: it never forms the update in memory")
        plan = self._plans.get(number)
        grads = None if plan is None else plan.grads(group, self.state)
        if plan is None or grads is None:
            tensors = self._gather(group)
            self._plans[number] = plan = Plan(group, self.state, tensors)
            grads = tensors.grads
        error = fused_step(plan, grads, options)
        if error is not None and not self._warned_fused:
            self._warned_fused = True
            warnings.warn(
                f"`fused=True` could not compile its kernel and uses the plain path instead: {error}", stacklevel=4
            )

    def _takes_foreach(self, group: dict[str, Any], params: list[Tensor]) -> bool:
        """Return whether a group takes the multi-tensor path: as requested, or as torch's own optimizers would choose."""
        foreach = group["foreach"]
        tensor_lr = isinstance(group["lr"], Tensor) and not group["capturable"]
        if foreach is None and group["fused"] is None:
            _, foreach = _default_to_fused_or_foreach(params, group["differentiable"], use_fused=False)
            foreach = (foreach or _many_small(params, group["state_dtype"])) and not tensor_lr
        if foreach and tensor_lr:
            raise RuntimeError("lr as a Tensor is not supported for capturable=False and foreach=True")
        # The multi-tensor kernels take betas as numbers only, and autograd does not support them.
        return foreach and not group["differentiable"] and not isinstance(_first_beta(group), Tensor)

    def _check_graph_capture(self) -> None:
        # torch renamed this check between supported versions; the old name warns where the new one exists.
        check = getattr(self, "_accelerator_graph_capture_health_check", None)
        (check or self._cuda_graph_capture_health_check)()


def _is_finite_and_not_negative(value: Any) -> bool:
    value = value.detach() if isinstance(value, Tensor) else value
    return bool(value >= 0.0) and math.isfinite(value)  # NaN fails the first


def _many_small(params: list[Tensor], state_dtype: torch.dtype | None) -> bool:
    """Return whether Python's overhead per parameter dominates: many small parameters on the CPU.

    There the multi-tensor path is faster, its copies are small, and its bits are the plain path's.
    """
    return (
        len(params) >= 8
        and all(param.is_cpu and param.dtype in (torch.float32, torch.float64) for param in params)
        and state_dtype in (None, params[0].dtype)
        and sum(map(Tensor.numel, params)) <= PACKED_NUMEL * len(params)
    )


def _first_beta(group: dict[str, Any]) -> Scalar:
    """Return beta1 of the first pair; its type is that of all betas, because a pair is both floats or both tensors."""
    return (group["betas"] if isinstance(group["stages"], str) else group["stages"][0])[0]


def _new_step(param: Tensor, group: dict[str, Any], value: float = 0.0) -> Tensor:
    # On the CPU unless capturable, because reading it there needs no synchronization.
    if group["capturable"]:
        return torch.tensor(value, dtype=torch.float32, device=param.device)
    return torch.tensor(value, dtype=_get_scalar_dtype(), device="cpu")


def _state_dtype(param: Tensor, state_dtype: torch.dtype | None) -> torch.dtype:
    """Return the dtype of the averages of `param`: complex if it is complex, and at least as precise."""
    if state_dtype is None:
        return param.dtype
    dtype = state_dtype.to_complex() if param.is_complex() else state_dtype
    if torch.promote_types(param.dtype, dtype) != dtype:
        raise ValueError(f"Invalid state_dtype: {state_dtype} is less precise than a parameter of {param.dtype}")
    return dtype
