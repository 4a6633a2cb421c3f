"""torch's own optimizers for many runs at once: one optimizer object with one parameter group per run.

The optimizers are elementwise, so a run's row of the stacked parameters is an ordinary parameter to them. Weight decay is
applied here, decoupled and in the same way for all (θ ← (1 − ηλ)θ before the step, as in AdamW), so that λ means the same in
every comparison. torch's own ``weight_decay`` of RMSprop, SGD and others is added to the gradient instead.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def _betas(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"betas": (run["beta1"], run["beta2"]), "eps": run["eps"]}


class TorchOptimizer(NamedTuple):
    """An elementwise optimizer of torch.

    An entry in `TORCH_OPTIMIZERS` is all that the trainer, and the comparison of figure 9, need to know about it.

    Args:
        name: its name in figures and tables.
        optimizer_class: torch's class.
        options: function from a run's columns to the options of the class.
        averages: number of averages that it keeps per parameter, such as 2 for Adam.
        settings: columns of a run in which the comparison follows torch's defaults instead of the experiment's, such as
            ``{"beta2": 0.99}``.
    """

    name: str
    optimizer_class: Callable[..., Optimizer]
    options: Callable[[Mapping[str, Any]], dict[str, Any]]
    averages: int
    settings: Mapping[str, Any] = {}


#: Optimizers by the name that a run's column ``optimizer`` holds.
TORCH_OPTIMIZERS = {
    "adamw": TorchOptimizer("AdamW", torch.optim.AdamW, _betas, averages=2),
    "nadam": TorchOptimizer("NAdam", torch.optim.NAdam, _betas, averages=2),
    "radam": TorchOptimizer("RAdam", torch.optim.RAdam, _betas, averages=2),
    "adamax": TorchOptimizer("Adamax", torch.optim.Adamax, _betas, averages=2),
    "rmsprop": TorchOptimizer(
        "RMSprop",
        torch.optim.RMSprop,
        lambda run: {"alpha": run["beta2"], "eps": run["eps"]},
        averages=1,
        settings={"beta2": 0.99},
    ),
    "adagrad": TorchOptimizer(
        "Adagrad", torch.optim.Adagrad, lambda run: {"eps": run["eps"]}, averages=1, settings={"eps": 1e-10}
    ),
    "sgd": TorchOptimizer("SGD, momentum", torch.optim.SGD, lambda run: {"momentum": run["beta1"]}, averages=1),
}


class StackedTorchOptimizer:
    """One of `TORCH_OPTIMIZERS` for R runs whose parameters are the rows of one tensor; same interface as `StackedKAdam`.

    Args:
        name: key of `TORCH_OPTIMIZERS`.
        params: float tensor of shape (R, width), updated in place.
        runs: R mappings with ``beta1``, ``beta2``, ``lr``, ``weight_decay``, ``eps``.
    """

    def __init__(self, name: str, params: Tensor, runs: Sequence[Mapping[str, Any]]) -> None:
        entry = TORCH_OPTIMIZERS[name]
        self.params = params
        self.rows = [nn.Parameter(row) for row in params]
        groups = [
            {"params": [row], "lr": run["lr"], **entry.options(run)} for row, run in zip(self.rows, runs, strict=True)
        ]
        self.optimizer = entry.optimizer_class(groups, lr=1.0, weight_decay=0.0)
        decay_factor = torch.tensor([1 - run["lr"] * run["weight_decay"] for run in runs], dtype=torch.float64)
        self.decay_factor = decay_factor[:, None].to(params) if (decay_factor != 1).any() else None

    def step(self, grad: Tensor) -> Tensor:
        """Perform one step and return the change of the parameters; arguments as in `StackedKAdam.step`."""
        if self.decay_factor is not None:
            self.params.mul_(self.decay_factor)
        before = self.params.clone()
        for row, row_grad in zip(self.rows, grad, strict=True):
            row.grad = row_grad
        self.optimizer.step()
        return self.params - before
