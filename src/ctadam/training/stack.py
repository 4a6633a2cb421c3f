"""k-Adam for many runs at once, each with its own betas, learning rate and weight decay.

The parameters of a run are one row of a tensor. The update rule is that of `ctadam.optim.arithmetic`, in the order of
``torch.optim.AdamW(foreach=False)``, so a row equals the optimizer's result for that run alone bit for bit.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ctadam.optim.arithmetic import average_, bias_corrections, denominator, stage_update, unsmoothed_update_

# Tensors start at multiples of this many elements, because the order of sums in a kernel may depend on alignment.
_ALIGNMENT = 16


class Layout:
    """Positions of a model's tensors in the row of a run.

    Args:
        named: the model's ``named_parameters``, in order.

    Attributes:
        shapes: shape of each tensor, by name.
        places: slice of each tensor in a row, by name.
        width: length of a row.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.places: dict[str, slice] = {}
        start = 0
        for name, parameter in named:
            self.shapes[name] = tuple(parameter.shape)
            self.places[name] = slice(start, start + parameter.numel())
            start += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        self.width = start

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return ``{name: view of shape (runs, *shape)}`` of a tensor of shape (runs, width)."""
        return {name: rows[:, place].view(len(rows), *self.shapes[name]) for name, place in self.places.items()}


def _common(values: Sequence[float], device: torch.device, dtype: torch.dtype) -> float | Tensor:
    """Return one float if all values are equal, otherwise a column of them."""
    if len(set(values)) == 1:
        return float(values[0])
    return torch.tensor(values, dtype=torch.float64)[:, None].to(device, dtype)


def _first(value: Any, count: int) -> Any:
    """Return the first ``count`` rows of a column; a number is valid for all rows."""
    return value[:count] if isinstance(value, Tensor) else value


def _from(value: Any, first: int) -> Any:
    return value[first:] if isinstance(value, Tensor) else value


class StackedKAdam:
    """k-Adam for R runs whose parameters are the rows of one tensor.

    Args:
        params: float tensor of shape (R, width), updated in place.
        stages: R lists of k pairs (beta1, beta2) of floats; the paper's (γ, β). k may differ between runs, but must not
            increase from one run to the next.
        lr: R learning rates > 0.
        weight_decay: R decoupled weight decays ≥ 0.
        eps: R terms added to the root, ≥ 0.
        state_dtype: dtype of the averages. The update is computed in it, and the new parameter is rounded once.
        steps: number of steps that will be taken. Their bias corrections are computed beforehand in float64 with C's ``pow``,
            as torch's optimizer does: a device's own ``pow`` differs in the last bit, and no step waits for a transfer.

    Raises:
        ValueError: if a run has more stages than the one before it.
    """

    def __init__(
        self,
        params: Tensor,
        *,
        stages: Sequence[Sequence[tuple[float, float]]],
        lr: Sequence[float],
        weight_decay: Sequence[float],
        eps: Sequence[float],
        state_dtype: torch.dtype,
        steps: int,
    ) -> None:
        self.params, self.count = params, 0
        lengths = [len(run) for run in stages]
        if lengths != sorted(lengths, reverse=True):
            raise ValueError("a run has more stages than the one before it")
        #: Number of runs (the first ones) that have a first, second, … stage.
        self._stage_runs = [sum(length > i for length in lengths) for i in range(lengths[0])]
        self.averages = [
            torch.zeros((2, count, *params.shape[1:]), dtype=state_dtype, device=params.device)
            for count in self._stage_runs
        ]
        rates, decays = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (lr, weight_decay))
        self._decayed = bool((decays != 0).any())
        # A single run uses floats: its kernels are faster and no less exact.
        single = len(params) == 1

        def ready(value: Tensor) -> Any:
            return value[..., 0, 0].tolist() if single else value.to(params.device, state_dtype)

        self._decay_factor = ready(1 - rates * decays)
        self._eps = _common(eps, params.device, state_dtype)
        #: For each stage, numbers that broadcast against its averages. Those that change per step have a leading step axis.
        self._values: list[dict[str, Any]] = []
        for i, count in enumerate(self._stage_runs):
            pairs = [run[i] for run in stages[:count]]
            betas = torch.tensor(pairs, dtype=torch.float64)[:, None]
            corrections = torch.tensor(
                [
                    [bias_corrections(n, beta1=beta1, beta2=beta2) for beta1, beta2 in pairs]
                    for n in range(1, steps + 1)
                ],
                dtype=torch.float64,
            )[:, :, None]
            values = {
                "weight1": 1 - betas[..., 0],
                "beta2": betas[..., 1],
                "weight2": 1 - betas[..., 1],
                "correction1": corrections[..., 0],
                "correction2": corrections[..., 1],
                # The update is applied as (lr/correction) · m/denominator, which saves a factor per parameter.
                "minus_step_size": -rates[:count] / corrections[..., 0],
            }
            self._values.append({name: ready(value) for name, value in values.items()})

    def step(self, grad: Tensor) -> Tensor:
        """Perform one step.

        Args:
            grad: gradients in the state's dtype, shape (R, width).

        Returns:
            −lr·u in the state's dtype, shape (R, width): what the update added to the parameters. The caller may overwrite it.
        """
        n, changes = self.count, []
        # The last runs are those without a further stage.
        next_runs = [*self._stage_runs[1:], 0]
        for (exp_avg, exp_avg_sq), v, further in zip(self.averages, self._values, next_runs, strict=True):
            average_(grad, exp_avg, exp_avg_sq, weight1=v["weight1"], beta2=v["beta2"], weight2=v["weight2"])
            denom = denominator(exp_avg_sq, v["correction2"][n], eps=_first(self._eps, len(exp_avg)))
            if further < len(exp_avg):
                size = v["minus_step_size"][n]
                changes.append((exp_avg[further:] * _from(size, further)).div_(denom[further:]))
            if further:
                grad = stage_update(exp_avg[:further], denom[:further], _first(v["correction1"][n], further))
        change = changes[0] if len(changes) == 1 else torch.cat(changes[::-1])
        target = self.params.to(change.dtype)
        if self._decayed:
            target.mul_(self._decay_factor)
        target.add_(change)
        if target is not self.params:
            self.params.copy_(target)
        self.count += 1
        return change


class StackedUnsmoothed:
    """2-Adam variant of `unsmoothed_update_` for R runs, with β₂ of the second average equal to β.

    Args:
        params: float tensor of shape (R, width), updated in place.
        betas: R pairs (beta1, beta2) of floats.
        lr: R learning rates > 0.
        weight_decay: R decoupled weight decays ≥ 0.
        eps: R terms added to the root, ≥ 0.
        state_dtype: dtype of the averages.
    """

    def __init__(
        self,
        params: Tensor,
        *,
        betas: Sequence[Sequence[float]],
        lr: Sequence[float],
        weight_decay: Sequence[float],
        eps: Sequence[float],
        state_dtype: torch.dtype,
    ) -> None:
        self.params, self.count = params, 0
        self.eps = _common(eps, params.device, state_dtype)
        self.averages = torch.zeros((3, *params.shape), dtype=state_dtype, device=params.device)
        beta1, beta2 = torch.tensor(betas, dtype=torch.float64, device=params.device).T[..., None]
        self.betas = {"beta1": beta1, "beta2": beta2, "second_beta2": beta2}
        rates, decays = (
            torch.tensor(x, dtype=torch.float64, device=params.device)[:, None] for x in (lr, weight_decay)
        )
        self.minus_lr, self.decay_factor = -rates.to(state_dtype), (1 - rates * decays).to(state_dtype)

    def step(self, grad: Tensor) -> Tensor:
        """Perform one step; arguments and result as in `StackedKAdam.step`."""
        self.count += 1
        m, v, w = self.averages
        change = unsmoothed_update_(grad, m, v, w, float(self.count), **self.betas, eps=self.eps)
        change.mul_(self.minus_lr)
        self.params.copy_(self.params.to(change.dtype) * self.decay_factor + change)
        return change
