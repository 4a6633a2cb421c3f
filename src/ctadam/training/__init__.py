"""Training: a table of points in, a tidy table of what happened at every step out."""

from ctadam.training.ensemble import chunk_size, train
from ctadam.training.tasks import Task, classification, images, language

__all__ = ["Task", "chunk_size", "classification", "images", "language", "train"]
