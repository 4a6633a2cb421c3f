"""Train many runs at once: a table with one row per run in, a tidy table with one row per step out."""

from ctadam.training.ensemble import chunk_size, train, train_tasks
from ctadam.training.tasks import Task, classification, images, language

__all__ = ["Task", "chunk_size", "classification", "images", "language", "train", "train_tasks"]
