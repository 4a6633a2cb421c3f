"""Reproducibility artifact of *Continuous-Time Analysis of Adaptive Optimization and Normalization* (arXiv 2411.05746)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctadam.monitor import UpdateMonitor, check
    from ctadam.optim import KAdam, stage_betas

__version__ = "0.1.0"
__all__ = ["KAdam", "UpdateMonitor", "__version__", "check", "stage_betas"]


def __getattr__(name: str) -> Any:
    # Import on demand, so that `ctadam stability` does not wait for torch.
    if name in ("KAdam", "stage_betas"):
        from ctadam import optim

        return getattr(optim, name)
    if name in ("UpdateMonitor", "check"):
        from ctadam import monitor

        return getattr(monitor, name)
    raise AttributeError(f"module 'ctadam' has no attribute {name!r}")
