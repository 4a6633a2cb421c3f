"""Apply the stability theory to a training run: `check` an optimizer's betas, and watch its updates with `UpdateMonitor`."""

from ctadam.monitor.groups import GroupStability, StabilityReport, check
from ctadam.monitor.logs import to_csv, to_tensorboard, to_wandb
from ctadam.monitor.updates import LargeUpdate, UpdateMonitor, UpdateSample, UpdateWarning

__all__ = [
    "GroupStability",
    "LargeUpdate",
    "StabilityReport",
    "UpdateMonitor",
    "UpdateSample",
    "UpdateWarning",
    "check",
    "to_csv",
    "to_tensorboard",
    "to_wandb",
]
