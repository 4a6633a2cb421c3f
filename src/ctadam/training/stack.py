"""k-Adam on the parameters of many runs at once, each with its own decays, learning rate and weight decay.

The parameters of a run are one row. The arithmetic is that of `ctadam.optim.arithmetic`, in the order of
``torch.optim.AdamW(foreach=False)``, so that a row is bit for bit what the optimizer makes of that run alone.
"""

import torch
from torch import Tensor

from ctadam.optim.arithmetic import average_, bias_corrections, denominator, stage_update, unsmoothed_update_

# Tensors start at multiples of this many elements: kernels may sum in another order at another alignment.
_ALIGNMENT = 16


class Layout:
    """Where the tensors of a model lie in the row of a run.

    Args:
        named: the model's ``named_parameters``, in order.
    """

    def __init__(self, named):
        self.shapes, self.places, start = {}, {}, 0
        for name, parameter in named:
            self.shapes[name] = tuple(parameter.shape)
            self.places[name] = slice(start, start + parameter.numel())
            start += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        self.width = start

    def views(self, rows):
        """``{name: view of shape (runs, *shape)}`` of a tensor of shape (runs, width)."""
        return {name: rows[:, place].view(len(rows), *self.shapes[name]) for name, place in self.places.items()}


def _common(values, device, dtype):
    """One float if all values are equal, else a column of them."""
    if len(set(values)) == 1:
        return float(values[0])
    return torch.tensor(values, dtype=torch.float64)[:, None].to(device, dtype)


def _first(value, count):
    """The first so many of a column; a number is everyone's."""
    return value[:count] if isinstance(value, Tensor) else value


def _from(value, first):
    return value[first:] if isinstance(value, Tensor) else value


class StackedKAdam:
    """k-Adam for R runs whose parameters are the rows of one tensor.

    Args:
        params: float tensor of shape (R, width), stepped in place.
        stages: R lists of k pairs (beta1, beta2), floats; the paper's (γ, β). k may differ, but no run may have more stages
            than the one before it.
        lr: R floats above 0; weight_decay, eps: R floats ≥ 0, the decay decoupled.
        state_dtype: of the averages; the new parameter is rounded once from it.
        steps: how many steps will be taken; their bias corrections are computed beforehand, in float64 with C's ``pow``
            as torch's optimizer does (a device's own differs in the last bit), and a step waits for no transfer.
    """

    def __init__(self, params, *, stages, lr, weight_decay, eps, state_dtype, steps):
        self.params, self.count = params, 0
        lengths = [len(run) for run in stages]
        if lengths != sorted(lengths, reverse=True):
            raise ValueError("a run has more stages than the one before it")
        #: How many runs, the first ones, have a first, second, … stage.
        self._having = [sum(length > i for length in lengths) for i in range(lengths[0])]
        self.averages = [
            torch.zeros((2, count, *params.shape[1:]), dtype=state_dtype, device=params.device)
            for count in self._having
        ]
        lr, weight_decay = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (lr, weight_decay))
        self._decayed = bool((weight_decay != 0).any())
        # Numbers for one run: the kernels are faster, and no less exact.
        one = len(params) == 1

        def ready(value):
            return value[..., 0, 0].tolist() if one else value.to(params.device, state_dtype)

        self._keep = ready(1 - lr * weight_decay)
        self._eps = _common(eps, params.device, state_dtype)
        #: Of each stage: numbers that broadcast against its averages; those of a step behind an axis for the steps.
        self._values = []
        for i, count in enumerate(self._having):
            pairs = [run[i] for run in stages[:count]]
            decays = torch.tensor(pairs, dtype=torch.float64)[:, None]
            corrections = torch.tensor(
                [
                    [bias_corrections(n, beta1=beta1, beta2=beta2) for beta1, beta2 in pairs]
                    for n in range(1, steps + 1)
                ],
                dtype=torch.float64,
            )[:, :, None]
            values = {
                "weight1": 1 - decays[..., 0], "beta2": decays[..., 1], "weight2": 1 - decays[..., 1],
                "correction1": corrections[..., 0], "correction2": corrections[..., 1],
                # The update is applied as lr/correction · m/denominator, one factor less for each parameter.
                "minus_step_size": -lr[:count] / corrections[..., 0],
            }  # fmt: skip
            self._values.append({name: ready(value) for name, value in values.items()})

    def step(self, grad):
        """Take one step.

        Args:
            grad: gradients in the state's dtype, shape (R, width).

        Returns:
            −lr·u, shape (R, width), in the state's dtype: what the update added to the parameters. Yours to overwrite.
        """
        n, changes = self.count, []
        # Runs that have no further stage are the last ones.
        for (exp_avg, exp_avg_sq), v, further in zip(self.averages, self._values, [*self._having[1:], 0], strict=True):
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
            target.mul_(self._keep)
        target.add_(change)
        if target is not self.params:
            self.params.copy_(target)
        self.count += 1
        return change


class StackedUnsmoothed:
    """The variant of 2-Adam with the unsmoothed second normalization (`unsmoothed_update_`), β₂ of the second average being β.

    Args:
        params, lr, weight_decay, eps, state_dtype: as in `StackedKAdam`.
        betas: R pairs (beta1, beta2), floats.
    """

    def __init__(self, params, *, betas, lr, weight_decay, eps, state_dtype):
        self.params, self.count = params, 0
        self.eps = _common(eps, params.device, state_dtype)
        self.averages = torch.zeros((3, *params.shape), dtype=state_dtype, device=params.device)
        beta1, beta2 = torch.tensor(betas, dtype=torch.float64, device=params.device).T[..., None]
        self.decays = {"beta1": beta1, "beta2": beta2, "second_beta2": beta2}
        lr, weight_decay = (
            torch.tensor(x, dtype=torch.float64, device=params.device)[:, None] for x in (lr, weight_decay)
        )
        self.minus_lr, self.keep = -lr.to(state_dtype), (1 - lr * weight_decay).to(state_dtype)

    def step(self, grad):
        """As `StackedKAdam.step`."""
        self.count += 1
        change = unsmoothed_update_(grad, *self.averages, float(self.count), **self.decays, eps=self.eps)
        change.mul_(self.minus_lr)
        self.params.copy_(self.params.to(change.dtype) * self.keep + change)
        return change
