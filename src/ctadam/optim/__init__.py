"""k-Adam as a drop-in torch optimizer (arXiv 2411.05746): Adam's normalization applied k times.

`prefactor`, the update's bias correction at a step, is defined in `ctadam.theory.stability`, because the bounds need it, and
is part of the update's definition. Measurements, which may not use theory, divide by it.
"""

from ctadam.optim.arithmetic import kadam_update_, stage_, unsmoothed_update_
from ctadam.optim.kadam import KAdam, StabilityWarning
from ctadam.optim.stages import stage_betas
from ctadam.theory.stability import prefactor

__all__ = ["KAdam", "StabilityWarning", "kadam_update_", "prefactor", "stage_", "stage_betas", "unsmoothed_update_"]
