"""Record test losses over pairs of betas, to test whether a larger C generalizes faster (arXiv 2411.05746, section 3).

The tasks are a small language model, and a network on images: a perceptron on digits, or a convolutional network. Each is
trained with every pair, learning rate and seed. The column ``curve`` says where a pair comes from:

``normal``
    the normal curve through the usual pair, from its stable end across the boundary;
``level``
    the level curve of C that ends at the usual pair, along which the paper expects a weak effect;
``usual``
    the usual pair, at which both curves cross.

Only the steps with a test loss are kept.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctadam.data.digits import load_digits
from ctadam.data.images import load_images
from ctadam.data.text import load_corpus
from ctadam.experiments.generalization.config import Config, Digits, Language, Photographs
from ctadam.models.mlp import MLP
from ctadam.theory.stability import level_curve, normal_curve_points, stability_coefficient
from ctadam.training import Task, classification, images, language, train_tasks

#: Columns of the raw table, in this order.
COLUMNS = ["run", "task", "curve", "point", "beta1", "beta2", "lr", "seed", "step", "test_loss", "diverged_at"]


def _pairs(config: Config) -> pd.DataFrame:
    """Return the pairs of betas, one row per pair, with the columns ``curve``, ``point``, ``beta1`` and ``beta2``."""
    usual = config.through.model_dump()
    normal = dict(zip(("beta1", "beta2"), normal_curve_points(count=config.n_points, through=usual), strict=True))
    beta2 = np.linspace(config.level.beta2, usual["beta2"], config.level.n_points)[
        :-1
    ]  # the last one is the usual pair
    level = {"beta1": level_curve(coefficient=stability_coefficient(**usual), beta2=beta2), "beta2": beta2}
    parts = {"normal": pd.DataFrame(normal), "level": pd.DataFrame(level), "usual": pd.DataFrame([usual])}
    return pd.concat([part.assign(curve=curve, point=range(len(part))) for curve, part in parts.items()])


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    Args:
        config: the experiment's configuration.

    Returns:
        DataFrame with the columns that `ctadam.training.train` needs and

        - ``task``: ``text`` or ``images``;
        - ``curve``: ``normal``, ``level`` or ``usual``, see the module;
        - ``point``: index along the curve, from the stable end of the normal curve and from the smallest β of the level curve.
    """
    pairs, seeds = _pairs(config), pd.DataFrame({"seed": config.seeds})
    parts = [
        pairs.assign(task=name, steps=task.steps).merge(pd.DataFrame({"lr": task.lrs}), how="cross")
        for name, task in (("text", config.text), ("images", config.images or config.photographs))
    ]
    runs = pd.concat(parts, ignore_index=True).merge(seeds, how="cross")
    runs = runs.assign(weight_decay=0.0, eps=config.eps, state_dtype="float32")
    runs.insert(0, "run", range(len(runs)))
    return runs


def _text(settings: Language, device: torch.device) -> tuple[Task, dict[str, str]]:
    """Return the language task and the sha256 of its text."""
    corpus = load_corpus(
        settings.source,
        tokenization=settings.tokenization,
        test_fraction=settings.test_fraction,
        context=settings.model.context,
    )
    sizes = settings.model_dump(include={"batch", "test_batches", "test_every"})
    task = language(corpus, **settings.model.model_dump(), **sizes, device=device)
    return task, {settings.source: corpus.sha256}


def _photographs(settings: Photographs, device: torch.device) -> tuple[Task, dict[str, str]]:
    """Return the task on an image data set and the sha256 of the images."""
    data = load_images(**settings.data.model_dump())
    task = images(data, norm=False, **settings.network.model_dump(), test_every=settings.test_every, device=device)
    return task, {data.name: data.sha256}


def _digits(settings: Digits, device: torch.device) -> tuple[Task, dict[str, str]]:
    """Return the task on images of digits and the sha256 of the images."""
    digits = load_digits()
    cut = len(digits.labels) - int(len(digits.labels) * settings.test_fraction)
    pixels, labels, size = digits.images.float(), digits.labels, settings.model.model_dump()
    task = classification(
        (pixels[:cut], labels[:cut]),
        (pixels[cut:], labels[cut:]),
        build=lambda generator: MLP(features=pixels.shape[1], classes=10, **size, generator=generator),
        batch=settings.batch,
        test_every=settings.test_every,
        device=device,
    )
    return task, {"digits": digits.sha256}


def run(
    runs: pd.DataFrame, config: Config, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one model per row.

    Args:
        runs: rows of the table that `grid` returns.
        config: the experiment's configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per run and tested step, and the last row of each run that diverged. It has
        `COLUMNS`; see `grid` and `ctadam.training.train`. ``details`` belongs in the provenance: sha256 of the data, number of
        runs trained together, and number of weights of each model.
    """

    def prepare(name: str) -> tuple[Task, dict[str, str]]:
        if name == "text":
            return _text(config.text, device)
        return _digits(config.images, device) if config.images else _photographs(config.photographs, device)

    def select(table: pd.DataFrame) -> pd.DataFrame:
        tested = table["test_loss"].notna() | (table["step"] == table["diverged_at"])
        return table.loc[tested, COLUMNS].astype({"test_loss": "float32"})

    return train_tasks(runs, "task", prepare, device=device, progress=progress, select=select)
