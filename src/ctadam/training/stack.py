"""k-Adam on the parameters of many runs at once, each with its own decays, learning rate and weight decay.

The parameters of a run are one row. The arithmetic is that of `ctadam.optim.arithmetic`, in the order of
``torch.optim.AdamW(foreach=False)``, so that a row is bit for bit what the optimizer makes of that run alone.
"""

import torch

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


class StackedKAdam:
    """k-Adam for R runs whose parameters are the rows of one tensor.

    Args:
        params: float tensor of shape (R, width), stepped in place.
        stages: R lists of k pairs (beta1, beta2), floats; the paper's (γ, β).
        lr: R floats above 0; weight_decay: R floats ≥ 0, decoupled.
        eps: float, common to the runs.
        state_dtype: of the averages; the new parameter is rounded once from it.
        steps: how many steps will be taken; their bias corrections are computed beforehand, in float64 with C's ``pow``
            as torch's optimizer does (a device's own differs in the last bit), and a step waits for no transfer.
    """

    def __init__(self, params, *, stages, lr, weight_decay, eps, state_dtype, steps):
        self.params, self.eps, self.count = params, eps, 0
        self.averages = [torch.zeros((2, *params.shape), dtype=state_dtype, device=params.device) for _ in stages[0]]
        corrections = [
            [[bias_corrections(n, beta1=beta1, beta2=beta2) for beta1, beta2 in run] for run in stages]
            for n in range(1, steps + 1)
        ]
        # γ_i, β_i of shape (k, R, 1, 2); their corrections of shape (steps, k, R, 1, 2).
        decays = torch.tensor(stages, dtype=torch.float64).movedim(1, 0).unsqueeze(-2)
        corrections = torch.tensor(corrections, dtype=torch.float64).movedim(2, 1).unsqueeze(-2)
        lr, weight_decay = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (lr, weight_decay))
        # The update is applied as lr/correction · m/denominator, one factor less for each parameter.
        step_size = lr / corrections[:, -1, ..., 0]
        self._decayed = bool((weight_decay != 0).any())
        values = {
            "weight1": 1 - decays[..., 0], "beta2": decays[..., 1], "weight2": 1 - decays[..., 1],
            "correction1": corrections[..., 0], "correction2": corrections[..., 1],
            "minus_step_size": -step_size, "keep": 1 - lr * weight_decay,
        }  # fmt: skip
        if len(params) == 1:
            # Numbers for one run: the kernels are faster, and no less exact.
            self._values = {name: value[..., 0, 0].tolist() for name, value in values.items()}
        else:
            self._values = {name: value.to(params.device, state_dtype) for name, value in values.items()}

    def step(self, grad):
        """Take one step.

        Args:
            grad: gradients in the state's dtype, shape (R, width).

        Returns:
            −lr·u, shape (R, width), in the state's dtype: what the update added to the parameters. Yours to overwrite.
        """
        v, n = self._values, self.count
        for i, (exp_avg, exp_avg_sq) in enumerate(self.averages):
            average_(grad, exp_avg, exp_avg_sq, weight1=v["weight1"][i], beta2=v["beta2"][i], weight2=v["weight2"][i])
            denom = denominator(exp_avg_sq, v["correction2"][n][i], eps=self.eps)
            if i + 1 < len(self.averages):
                grad = stage_update(exp_avg, denom, v["correction1"][n][i])
        change = (exp_avg * v["minus_step_size"][n]).div_(denom)
        target = self.params.to(change.dtype)
        if self._decayed:
            target.mul_(v["keep"])
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
        self.params, self.eps, self.count = params, eps, 0
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
