"""Watch an optimizer's updates and compare them with the bound of the theory."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from ctadam.monitor.laws import UpdateLaw, last_betas, law_of, unwrap
from ctadam.optim import KAdam

#: Excess over the bound that is an alarm. Averages in half precision may exceed the bound by their rounding alone.
TOLERANCE, ROUNDINGS = 1e-3, 8
#: Relative difference from the predicted growth, and steps for which it must hold, until a warning.
GROWTH_TOLERANCE, GROWTH_STEPS = 0.1, 100


class UpdateWarning(UserWarning):
    """An update exceeds its bound, is not finite, or grows as theory predicts outside the stable region."""


class LargeUpdate(NamedTuple):
    """The largest update of one parameter.

    Attributes:
        name: name of the parameter.
        row: index along its first dimension.
        value: |u|.
        ratio: |u| over its bound; NaN where none applies.
    """

    name: str
    row: int
    value: float
    ratio: float


@dataclass(frozen=True)
class UpdateSample:
    """The updates of one step.

    Attributes:
        step: step count of the optimizer, from 1.
        top: largest updates, one per parameter, largest first.
        bound: bound on the largest update at this step; NaN where none applies, inf where there is none.
        ratio_to_bound: largest ratio of an update to its bound; NaN where no bound applies to any parameter.
        rms: root mean square of all updates.
        relative: lr·‖u‖/‖θ‖ over all parameters.
        growth: growth per step of ln(u / bias correction) since the sample before, in the row that held the largest update
            there; NaN inside the stable region.
        predicted_growth: growth of a row without gradients; NaN inside the stable region.
        steps_to_cap: steps for which that row can still grow before ε ends it.
        alarms: texts of the warnings that hold at this step.
        notes: why no bound applies to some groups.
    """

    step: int
    top: tuple[LargeUpdate, ...]
    bound: float
    ratio_to_bound: float
    rms: float
    relative: float
    growth: float = math.nan
    predicted_growth: float = math.nan
    steps_to_cap: float = math.nan
    alarms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def numbers(self) -> dict[str, float]:
        """Return what ``log`` receives: a flat dict of numbers."""
        numbers: dict[str, float] = {
            "update/step": self.step,
            "update/max": self.top[0].value,
            "update/row": self.top[0].row,
            "update/bound": self.bound,
            "update/ratio_to_bound": self.ratio_to_bound,
            "update/rms": self.rms,
            "update/relative": self.relative,
            "update/alarms": len(self.alarms),
        }
        if not math.isnan(self.predicted_growth):
            numbers |= {
                "update/growth": self.growth,
                "update/predicted_growth": self.predicted_growth,
                "update/steps_to_cap": self.steps_to_cap,
            }
        return numbers | {f"update/top/{large.name}": large.value for large in self.top}

    def __str__(self) -> str:
        lines = [f"step {self.step}: rms update {self.rms:.3g}, lr·‖u‖/‖θ‖ {self.relative:.3g}"]
        lines += [
            f"  {large.name}[{large.row}]: |u| {large.value:.4g}, {large.ratio:.3g} of its bound"
            if not math.isnan(large.ratio)
            else f"  {large.name}[{large.row}]: |u| {large.value:.4g}"
            for large in self.top
        ]
        return "\n".join([*lines, *self.notes, *self.alarms])


class _Row(NamedTuple):
    """The row with the largest update of one parameter, as the host reads it."""

    large: LargeUpdate
    bound: float
    param: Tensor
    group: "_Group"
    #: |u| without its bias correction.
    uncorrected: float
    step: float
    dtype: torch.dtype


@dataclass
class _Group:
    """What is known about a parameter group."""

    betas: tuple[Any, ...]
    law: UpdateLaw
    changed: bool = False

    @property
    def grows(self) -> bool:
        return self.law.growth_rate > 0 and not self.changed


@dataclass
class _Part:
    """Statistics of the parameters that share a group and a device."""

    group: int
    params: list[Tensor]
    dtypes: list[torch.dtype]
    lr: Any
    #: Largest uncorrected |u| of each parameter, its row, and the norms of the uncorrected u and of θ.
    stats: Tensor
    steps: Tensor
    correction: Tensor
    #: Uncorrected |u| and √v in the row that held the largest update one sample before, if it is one of these parameters'.
    held: Tensor | None

    def to_host(self) -> "_Part":
        """Return the part with its tensors on their way to the host."""
        lr, stats, steps, correction, held = map(
            _to_host, (self.lr, self.stats, self.steps, self.correction, self.held)
        )
        return _Part(self.group, self.params, self.dtypes, lr, stats, steps, correction, held)


class _Pending(NamedTuple):
    """A sample that may still be on its way to the host."""

    parts: list[_Part]
    found_inf: Tensor | None
    events: list[torch.cuda.Event]


class UpdateMonitor:
    """Monitors the updates of Adam, AdamW or KAdam, on any of their paths, against the bound of the theory.

    Inside the stable region no gradients can make |u| = |m̂|/(√v̂ + ε) exceed the bound. A larger update means that a resume, a
    kernel or a dtype is broken. Outside, a row whose gradients stop grows at the rate ln(γ/√β) per step. The monitor reads
    the optimizer's state after the first step and then every ``every`` steps. It changes no bit of the run, never waits for
    the device, and reports each sample one sample later; `close` reports the last one.

    Args:
        optimizer: the optimizer, or a wrapper that holds it as ``.optimizer``.
        every: steps between two samples.
        top: number of parameters with the largest updates in a sample.
        log: called with a flat dict of numbers per sample, such as ``update/max`` and ``update/ratio_to_bound``; see
            `ctadam.monitor.to_csv`, `to_tensorboard` and `to_wandb`.
        named_parameters: ``model.named_parameters()``, for names where the optimizer was not given any.

    Attributes:
        last: the newest reported `UpdateSample`, or None.

    Raises:
        TypeError: if the update cannot be read from the optimizer's state.
        ValueError: if ``every`` or ``top`` is below 1.

    Warns:
        UpdateWarning: if an update is not finite; exceeds its bound inside the region, by more than rounding can explain; or
            grows at the predicted rate for 100 steps outside it. A warning repeats only after a sample without its cause.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> with UpdateMonitor(optimizer, every=1) as monitor:
        ...     model(torch.ones(3)).sum().backward()
        ...     optimizer.step()
        >>> round(monitor.last.ratio_to_bound, 3)
        1.0
    """

    def __init__(
        self,
        optimizer: Any,
        every: int = 50,
        top: int = 5,
        log: Callable[[Mapping[str, float]], object] | None = None,
        *,
        named_parameters: Iterable[tuple[str, Tensor]] = (),
    ) -> None:
        for name, value in (("every", every), ("top", top)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Invalid {name}: {value!r} is not an integer of at least 1")
        self.optimizer = unwrap(optimizer)
        self.every, self.top, self.log = every, top, log
        self.last: UpdateSample | None = None
        self._names = {param: name for name, param in named_parameters}
        self._pending: _Pending | None = None
        self._warned: set[str] = set()
        self._restart()
        self._handles = [
            self.optimizer.register_step_post_hook(self._after_step),
            self.optimizer.register_load_state_dict_post_hook(lambda optimizer: self._restart()),
        ]

    def close(self) -> None:
        """Report the last sample and stop monitoring."""
        for handle in self._handles:
            handle.remove()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def flush(self) -> None:
        """Report the sample that is still on its way, if there is one. Waits for the device."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._report(pending)

    def _restart(self) -> None:
        """Forget what depends on the history of the averages, and sample the next step."""
        self.flush()
        self._steps = 0
        self._groups: list[_Group] = []
        self._held: _Row | None = None
        self._grown = 0.0
        for group in self.optimizer.param_groups:
            self._add_group(group)

    def _add_group(self, group: dict[str, Any]) -> None:
        law = law_of(self.optimizer, group)
        if not isinstance(law, UpdateLaw) or not isinstance(self.optimizer, (torch.optim.Adam, KAdam)):
            raise TypeError(
                f"UpdateMonitor reads the state of Adam, AdamW and KAdam, not of {type(self.optimizer).__name__}"
            )
        names = group.get("param_names") or [f"group{len(self._groups)}.{i}" for i in range(len(group["params"]))]
        for name, param in zip(names, group["params"], strict=True):
            self._names.setdefault(param, name)
        self._groups.append(_Group(_identity(group), law))

    @torch.compiler.disable
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups[len(self._groups) :]:
            self._add_group(group)
        for group, known in zip(optimizer.param_groups, self._groups, strict=True):
            known.changed = known.changed or _identity(group) != known.betas
        # A GradScaler tells fused optimizers on the device whether to skip the step, and does not call others at all.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and found_inf.is_cpu and bool(found_inf):
            return
        self._steps += 1
        if (self._steps - 1) % self.every or _capturing():
            return
        self.flush()
        with torch.no_grad():
            self._pending = self._sample(found_inf)

    def _sample(self, found_inf: Tensor | None) -> _Pending:
        """Start the computation of a sample, without waiting for it."""
        parts = []
        for number, group in enumerate(self.optimizer.param_groups):
            together: dict[Any, list[Tensor]] = {}
            for param in group["params"]:
                if param.grad is not None and param.numel() and "step" in self.optimizer.state.get(param, {}):
                    together.setdefault((param.device, getattr(param, "device_mesh", None)), []).append(param)
            parts += [self._part(number, group, params, mesh).to_host() for (_, mesh), params in together.items()]
        events = []
        for device in {param.device for part in parts for param in part.params if param.is_cuda}:
            events.append(torch.cuda.Event())
            events[-1].record(torch.cuda.current_stream(device))
        return _Pending(parts, _to_host(found_inf), events)

    def _part(self, number: int, group: dict[str, Any], params: list[Tensor], mesh: Any) -> _Part:
        """Compute the statistics of parameters of one group, on their device."""
        states = [self.optimizer.state[param] for param in params]
        counts = [_local(torch.as_tensor(state["step"])) for state in states]
        steps = torch.stack([count.to(counts[0].device) for count in counts]).double()
        beta1, beta2 = (beta.to(steps) if isinstance(beta, Tensor) else beta for beta in last_betas(group))
        root_correction = (1 - beta2**steps).sqrt()
        columns, held = [], None
        for param, state, eps in zip(params, states, (group["eps"] * root_correction).unbind(), strict=True):
            row = self._held.large.row if self._held is not None and param is self._held.param else None
            column, of_row = self._column(param, state, group, eps, row)
            columns.append(column)
            held = of_row if of_row is not None else held
        stats = torch.stack([torch.stack([number.double() for number in kind]) for kind in zip(*columns, strict=True)])
        if mesh is not None:
            stats, held = _over_shards(stats, held, params, mesh)
        # A copy, because a scheduler may write to it.
        lr = group["lr"].detach().clone() if isinstance(group["lr"], Tensor) else group["lr"]
        dtypes = [_averages(state, group)[0].dtype for state in states]
        return _Part(number, params, dtypes, lr, stats, steps, root_correction / (1 - beta1**steps), held)

    def _column(
        self, param: Tensor, state: dict[str, Any], group: dict[str, Any], eps: Tensor, held_row: int | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Compute one parameter's column of `_Part.stats`, and its `_Part.held` if it has the row.

        m̂/(√v̂ + ε) is m/(√v + ε·√(1−β^t)) times a number. So few operations and one temporary are enough.
        """
        exp_avg, exp_avg_sq = (_local(average) for average in _averages(state, group))
        info = torch.finfo(exp_avg.dtype)
        update = _root(exp_avg_sq)
        if isinstance(self.optimizer, KAdam) and group["eps"] < info.tiny:
            # KAdam's update is 0 where its denominator is. An ε below half the smallest number rounds to 0.
            if group["eps"] > info.tiny * info.eps / 2:
                update.add_(eps)
            update.reciprocal_().nan_to_num_(nan=math.nan, posinf=0.0).mul_(exp_avg)
        else:
            torch.div(exp_avg, update.add_(eps), out=update)
        update.abs_()
        first = _first_row(param)
        if update.numel():
            rows = update.amax(tuple(range(1, update.dim()))) if update.dim() > 1 else update.reshape(-1)
            largest, row = rows.max(0)
        else:  # an empty shard
            largest, row = update.new_full((), -1.0), update.new_zeros(())
        norms = torch.linalg.vector_norm(update), torch.linalg.vector_norm(_local(param))
        held = None if held_row is None else _at_row(update, exp_avg_sq, held_row - first)
        return [largest, row + first if first else row, *norms], held

    def _report(self, pending: _Pending) -> None:
        """Turn a sample into numbers, log them, and warn."""
        for event in pending.events:
            event.synchronize()
        if not pending.parts or (pending.found_inf is not None and bool(pending.found_inf)):
            return
        if self._held is not None and not self._held.group.grows:
            self._held = None  # its betas changed
        rows: list[_Row] = []
        squares = moved = thetas = 0.0
        count = 0
        for part in pending.parts:
            group = self._groups[part.group]
            uncorrected, row, norm, theta = part.stats.numpy()
            correction, steps = part.correction.numpy(), part.steps.numpy()
            bounds = np.broadcast_to(np.nan if group.changed else group.law.bound(steps - 1), steps.shape)
            with np.errstate(over="ignore", invalid="ignore"):
                largest, square = uncorrected * correction, float(np.sum((norm * correction) ** 2))
                squares, moved = squares + square, moved + float(part.lr) ** 2 * square
                thetas += float(np.sum(theta**2))
            for i, param in enumerate(part.params):
                ratio = float(largest[i] / bounds[i])
                large = LargeUpdate(self._names[param], int(row[i]), float(largest[i]), ratio)
                rows.append(
                    _Row(large, float(bounds[i]), param, group, float(uncorrected[i]), float(steps[i]), part.dtypes[i])
                )
                count += param.numel() * (2 if param.is_complex() else 1)
        # NaN comes first.
        rows.sort(key=lambda row: -math.inf if math.isnan(row.large.value) else -row.large.value)
        growth, steps_to_cap = self._growth(pending)
        predicted = max((group.law.growth_rate for group in self._groups if group.grows), default=math.nan)
        if self._held is not None:
            predicted = self._held.group.law.growth_rate
        alarms = self._alarms(rows, growth, predicted, steps_to_cap)
        self._held = next((row for row in rows if row.group.grows and 0 < row.uncorrected < math.inf), None)
        ratios = [row.large.ratio for row in rows if not math.isnan(row.bound)]
        self.last = UpdateSample(
            step=int(max(row.step for row in rows)),
            top=tuple(row.large for row in rows[: self.top]),
            bound=rows[0].bound,
            ratio_to_bound=float(np.max(ratios)) if ratios else math.nan,  # NaN if an update is
            rms=math.sqrt(squares / count),
            relative=math.sqrt(moved / thetas) if thetas > 0 else math.nan,
            growth=growth,
            predicted_growth=predicted,
            steps_to_cap=steps_to_cap,
            alarms=tuple(alarms.values()),
            notes=tuple(
                f"bound not applicable to group {number}: its betas changed"
                for number, group in enumerate(self._groups)
                if group.changed
            ),
        )
        if self.log is not None:
            self.log(self.last.numbers())
        for cause in alarms.keys() - self._warned:
            warnings.warn(alarms[cause], UpdateWarning, stacklevel=2)
        self._warned = set(alarms)

    def _growth(self, pending: _Pending) -> tuple[float, float]:
        """Return the growth per step of the row that held the largest update one sample before, and its steps to the ε-cap."""
        held = self._held
        for part in pending.parts:
            if held is not None and part.held is not None:
                now, root = part.held.tolist()
                passed = float(part.steps[[param is held.param for param in part.params].index(True)]) - held.step
                growth = (math.log(now) - math.log(held.uncorrected)) / passed if now > 0 and passed > 0 else math.nan
                as_predicted = abs(growth / held.group.law.growth_rate - 1) <= GROWTH_TOLERANCE
                self._grown = self._grown + passed if as_predicted else 0.0
                return growth, held.group.law.cap(root)[0] if root > 0 else math.nan
        self._grown = 0.0
        return math.nan, math.nan

    def _alarms(self, rows: list[_Row], growth: float, predicted: float, steps_to_cap: float) -> dict[str, str]:
        """Return the texts of the warnings that hold, by cause."""
        alarms: dict[str, str] = {}
        for row in rows:
            where = f"{row.large.name}[{row.large.row}] at step {row.step:.0f}"
            allowed = 1 + max(TOLERANCE, ROUNDINGS * torch.finfo(row.dtype).eps)
            if not math.isfinite(row.large.value):
                alarms.setdefault("not finite", f"The update of {where} is not finite: {row.large.value}.")
            elif row.group.law.growth_rate == 0 and row.large.ratio > allowed:
                alarms.setdefault(
                    "above bound",
                    f"The update of {where} is {row.large.value:.4g}, {row.large.ratio:.4g} times the largest that any "
                    f"gradients can cause with betas ({row.group.law.beta1:g}, {row.group.law.beta2:g}). The optimizer's "
                    "state is wrong: check how it was saved and loaded, its dtype, and the kernel.",
                )
        if self._held is not None and self._grown >= GROWTH_STEPS:
            law = self._held.group.law
            cap = (
                ""
                if math.isinf(steps_to_cap)
                else f" It can grow for another {steps_to_cap:.0f} steps, until eps ends it."
            )
            alarms["growth"] = (
                f"The update of {self._held.large.name}[{self._held.large.row}] has grown by {growth:.4g} per step for "
                f"{self._grown:.0f} steps, as predicted ({predicted:.4g}) for betas ({law.beta1:g}, {law.beta2:g}), which are "
                f"outside the stable region.{cap} The nearest stable beta2 is {law.nearest_stable_beta2:g}."
            )
        return alarms


def _identity(group: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells whether a group's betas changed, without waiting for a device."""
    explicit = not isinstance(group.get("stages", ""), str)
    betas = group["stages"][-1] if explicit else group["betas"]
    return tuple((id(b), b._version) if isinstance(b, Tensor) and not b.is_cpu else float(b) for b in betas)


def _capturing() -> bool:
    """Return whether a CUDA graph is being captured, which must not contain a sample."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _to_host(value: Any) -> Any:
    return value.to("cpu", non_blocking=True) if isinstance(value, Tensor) else value


def _local(tensor: Tensor) -> Tensor:
    """Return a tensor's shard on this rank, detached and real."""
    local = tensor.detach()
    local = local.to_local() if hasattr(local, "to_local") else local
    return torch.view_as_real(local) if local.is_complex() else local


def _averages(state: dict[str, Any], group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return m and the v that the update divides by: the last stage's, or the largest so far for AMSGrad."""
    stage = f"_{group['k']}" if "k" in group and "exp_avg" not in state else ""
    return state["exp_avg" + stage], state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq" + stage]


def _root(exp_avg_sq: Tensor) -> Tensor:
    """Return √v as a new tensor, in float32 at least."""
    return exp_avg_sq.float().sqrt_() if exp_avg_sq.dtype.itemsize < 4 else exp_avg_sq.sqrt()


def _at_row(update: Tensor, exp_avg_sq: Tensor, row: int) -> Tensor:
    """Return the largest update of a row and its √v as a float64 tensor; zeros if the row is in another shard."""
    if not (0 <= row < (update.shape[0] if update.dim() else 1) and update.numel()):
        return torch.zeros(2, dtype=torch.float64, device=update.device)
    updates, squares = (
        tensor[row].reshape(-1) if tensor.dim() else tensor.reshape(1) for tensor in (update, exp_avg_sq)
    )
    place = updates.argmax().reshape(1)
    return torch.cat([updates.index_select(0, place).double(), squares.index_select(0, place).double().sqrt()])


def _first_row(param: Tensor) -> int:
    """Return the index of a shard's first row in the whole parameter."""
    if not hasattr(param, "placements"):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(param.shape, param.device_mesh, param.placements)  # type: ignore[attr-defined]
    return offset[0] if offset else 0


def _over_shards(stats: Tensor, held: Tensor | None, params: list[Tensor], mesh: Any) -> tuple[Tensor, Tensor | None]:
    """Combine the statistics of all shards: one all-reduce per dimension of the mesh."""
    n = stats.shape[1]
    own = torch.cat([stats.flatten(), *([] if held is None else [held])])
    for dim in range(mesh.ndim):
        # Every rank adds its row to zeros, so one sum carries maxima and sums.
        ranks = own.new_zeros(mesh.size(dim), len(own))
        ranks[mesh.get_local_rank(dim)] = own
        torch.distributed.all_reduce(ranks, group=mesh.get_group(dim))
        largest, holder = ranks[:, :n].max(0)
        rows = ranks[:, n : 2 * n].gather(0, holder[None])[0]
        sharded = torch.tensor([param.placements[dim].is_shard() for param in params], device=own.device)  # type: ignore[attr-defined]
        norms = torch.where(
            sharded.repeat(2), torch.linalg.vector_norm(ranks[:, 2 * n : 4 * n], dim=0), own[2 * n : 4 * n]
        )
        of_row = ranks[:, 4 * n :]
        if held is not None:
            of_row = of_row[of_row[:, 0].argmax()]
        own = torch.cat([largest, rows, norms, of_row.flatten() if held is not None else own.new_zeros(0)])
    return own[: 4 * n].view(4, n), None if held is None else own[4 * n :]
