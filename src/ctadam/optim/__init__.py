"""k-Adam as a drop-in torch optimizer (arXiv 2411.05746): Adam's normalization applied k times."""

from ctadam.optim.arithmetic import kadam_update_, stage_, unsmoothed_update_
from ctadam.optim.kadam import KAdam, StabilityWarning
from ctadam.optim.stages import stage_betas

__all__ = ["KAdam", "StabilityWarning", "kadam_update_", "stage_", "stage_betas", "unsmoothed_update_"]
