"""Training: a table of points in, a tidy table of what happened at every step out."""

from ctadam.training.trainer import Settings, train

__all__ = ["Settings", "train"]
