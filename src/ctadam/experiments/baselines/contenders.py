"""Contenders of the comparison: 2-Adam with each strategy, a variant, and every optimizer in torch's registry.

These optimizers of torch are not in the registry:

- Adafactor and Muon, which use whole matrices;
- Rprop, which needs full batches;
- LBFGS, which needs a closure;
- ASGD, which averages the iterates of SGD;
- Adadelta, which is close to Adagrad and RMSprop and needs no learning rate.
"""

from typing import Any

from ctadam.training.torch_optimizers import TORCH_OPTIMIZERS

#: Contender -> columns of its runs: ``optimizer`` and ``averages`` (per parameter), and settings that differ from the
#: experiment's. Contenders of one family are the same optimizer with different settings.
CONTENDERS: dict[str, dict[str, Any]] = {
    **{
        f"2-Adam {strategy}": {"family": "2-Adam", "optimizer": "kadam", "k": 2, "strategy": strategy, "averages": 4}
        for strategy in ("inverse-exp", "uniform", "exp", "naive")
    },
    "2-Adam unsmoothed": {"family": "2-Adam unsmoothed", "optimizer": "unsmoothed", "averages": 3},
    **{
        entry.name: {"family": entry.name, "optimizer": key, "averages": entry.averages, **entry.settings}
        for key, entry in TORCH_OPTIMIZERS.items()
    },
}
#: Families, in the order of legends.
FAMILIES = tuple(dict.fromkeys(columns["family"] for columns in CONTENDERS.values()))
