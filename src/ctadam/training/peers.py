"""torch's own optimizers for many runs at once: one optimizer object, a group a run, each group a row of the stack.

They are elementwise, so a row is for them a parameter like any other. Weight decay is applied here, decoupled and in the
same way for all of them (θ ← (1 − ηλ)θ before the step, as AdamW does), so that λ means the same in every comparison;
torch's own ``weight_decay`` of RMSprop, SGD and others is added to the gradient instead.
"""

import torch
from torch import nn


def _betas(point):
    return {"betas": (point["beta1"], point["beta2"]), "eps": point["eps"]}


#: Name -> (torch's class, the options that a run's columns give it).
PEERS = {
    "adamw": (torch.optim.AdamW, _betas),
    "nadam": (torch.optim.NAdam, _betas),
    "radam": (torch.optim.RAdam, _betas),
    "adamax": (torch.optim.Adamax, _betas),
    "rmsprop": (torch.optim.RMSprop, lambda point: {"alpha": point["beta2"], "eps": point["eps"]}),
    "adagrad": (torch.optim.Adagrad, lambda point: {"eps": point["eps"]}),
    "sgd": (torch.optim.SGD, lambda point: {"momentum": point["beta1"]}),
}


class StackedPeer:
    """One of `PEERS` for R runs whose parameters are the rows of one tensor; the interface of `StackedKAdam`.

    Args:
        name: key of `PEERS`.
        params: float tensor of shape (R, width), stepped in place.
        points: R dicts with ``beta1``, ``beta2``, ``lr``, ``weight_decay``, ``eps``.
    """

    def __init__(self, name, params, points):
        kind, options = PEERS[name]
        self.params = params
        self.rows = [nn.Parameter(row) for row in params]
        groups = [
            {"params": [row], "lr": point["lr"], **options(point)} for row, point in zip(self.rows, points, strict=True)
        ]
        self.optimizer = kind(groups, lr=1.0, weight_decay=0.0)
        keep = torch.tensor([1 - point["lr"] * point["weight_decay"] for point in points], dtype=torch.float64)
        self.keep = keep[:, None].to(params) if (keep != 1).any() else None

    def step(self, grad):
        """Take one step; `grad` and result as in `StackedKAdam.step`, the result being what the parameters show."""
        if self.keep is not None:
            self.params.mul_(self.keep)
        before = self.params.clone()
        for row, own in zip(self.rows, grad, strict=True):
            row.grad = own
        self.optimizer.step()
        return self.params - before
