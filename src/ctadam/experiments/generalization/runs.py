"""Record test losses over pairs of betas, to test whether a larger C generalizes faster (arXiv 2411.05746, section 3).

The tasks are a small language model and a network on images of digits. Each is trained with every pair of betas and every
learning rate. One learning rate is the same for all pairs (``fixed``); the others allow a choice of the best one per pair. The
column ``curve`` says where a pair comes from:

``normal``
    the normal curve, from its stable end across the boundary;
``level``
    level curves of C, along which the paper expects a weak effect;
``usual``
    pairs in common use; the normal curve goes through the first of them.

Only the steps with a test loss are kept.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctadam.data.digits import load_digits
from ctadam.data.text import load_corpus
from ctadam.errors import ArtifactError
from ctadam.models.mlp import MLP
from ctadam.theory.stability import level_curve, normal_curve_points
from ctadam.training import Task, chunk_size, classification, language, train

#: Columns of the raw table that come from `ctadam.training.train`.
RECORDS = ["step", "test_loss", "train_loss", "update_max", "diverged_at"]


def _pairs(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the pairs of betas, one row per pair.

    Args:
        parameters: section ``generalization`` of the configuration.

    Returns:
        DataFrame with ``curve``; ``level``, the pair's C on a level curve, NaN elsewhere; ``point``, the index along the curve;
        ``beta1`` (paper's γ); ``beta2`` (paper's β).

    Raises:
        ArtifactError: if a level curve has no γ in [0, 1) for one of the configured β.
    """
    beta1, beta2 = normal_curve_points(count=parameters["points"], through=parameters["through"])
    parts = [pd.DataFrame({"curve": "normal", "level": np.nan, "beta1": beta1, "beta2": beta2})]
    levels = parameters["levels"]
    smallest, largest = levels["beta2"]
    beta2 = np.linspace(smallest, largest, levels["points"])
    for coefficient in levels["coefficients"]:
        beta1 = level_curve(coefficient=coefficient, beta2=beta2)
        if np.isnan(beta1).any():
            raise ArtifactError(
                f"generalization.levels: C = {coefficient:g} is not to be had with beta2 = {levels['beta2']}"
            )
        parts.append(pd.DataFrame({"curve": "level", "level": float(coefficient), "beta1": beta1, "beta2": beta2}))
    parts.append(pd.DataFrame([parameters["through"], *parameters["pairs"]]).assign(curve="usual", level=np.nan))
    return pd.concat([part.assign(point=range(len(part))) for part in parts], ignore_index=True)


def points(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    Args:
        parameters: section ``generalization`` of the configuration.

    Returns:
        DataFrame with the columns that `ctadam.training.train` needs and

        - ``task``: ``text`` or ``images``;
        - ``curve``: ``normal``, ``level`` or ``usual``, see the module;
        - ``level``: C of the level curve, NaN for the other curves;
        - ``point``: index along the curve, from the stable end of the normal curve and from the smallest β of a level curve;
        - ``fixed``: whether ``lr`` is the learning rate that is the same for all pairs.

    Raises:
        ArtifactError: if the fixed learning rate is not among the learning rates, or a level curve lacks a configured β.
    """
    parts = []
    for task in ("text", "images"):
        settings = parameters[task]
        if settings["lr"] not in settings["lrs"]:
            raise ArtifactError(f"generalization.{task}.lr: {settings['lr']:g} is not among generalization.{task}.lrs")
        part = _pairs(parameters).assign(task=task, steps=settings["steps"])
        part = part.merge(pd.DataFrame({"lr": settings["lrs"]}), how="cross")
        parts.append(part.assign(fixed=part["lr"] == settings["lr"]))
    table = pd.concat(parts, ignore_index=True).merge(pd.DataFrame({"seed": parameters["seeds"]}), how="cross")
    table = table.assign(weight_decay=0.0, eps=parameters["eps"], state_dtype="float32")
    table.insert(0, "run", range(len(table)))
    return table


def _text(settings: Mapping[str, Any], device: torch.device) -> tuple[Task, dict[str, str]]:
    """Return the language task and the sha256 of its text."""
    corpus = load_corpus(
        settings["text"],
        tokenization=settings["tokens"],
        test_fraction=settings["test_fraction"],
        context=settings["model"]["context"],
    )
    task = language(
        corpus, **settings["model"], **{x: settings[x] for x in ("batch", "test_batches", "test_every")}, device=device
    )
    return task, {settings["text"]: corpus.sha256}


def _images(settings: Mapping[str, Any], device: torch.device) -> tuple[Task, dict[str, str]]:
    """Return the task on images of digits and the sha256 of the images."""
    digits = load_digits()
    cut = len(digits.labels) - int(len(digits.labels) * settings["test_fraction"])
    images, labels = digits.images.float(), digits.labels
    task = classification(
        (images[:cut], labels[:cut]),
        (images[cut:], labels[cut:]),
        build=lambda generator: MLP(features=images.shape[1], classes=10, **settings["model"], generator=generator),
        batch=settings["batch"],
        test_every=settings["test_every"],
        device=device,
    )
    return task, {"digits": digits.sha256}


def run(
    points: pd.DataFrame, parameters: Mapping[str, Any], *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one model per row.

    Args:
        points: rows of the table that the function `points` returns.
        parameters: section ``generalization`` of the configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per run and tested step, and the last row of each run that diverged. It has
        the columns of ``points`` without ``steps``, and `RECORDS` (see `ctadam.training.train`). ``details`` belongs in the
        provenance: sha256 of the data, number of runs trained together, and number of weights of each model.
    """
    tables = []
    details: dict[str, dict[str, Any]] = {"data": {}, "chunks": {}, "weights": {}}
    name: Any
    for name, group in points.groupby("task", sort=False):
        task, data = {"text": _text, "images": _images}[name](parameters[name], device)
        details["data"] |= data
        details["weights"][name] = task.weights
        details["chunks"][name] = chunk = chunk_size(task, device)
        table = train(group, task=task, device=device, chunk=chunk, progress=progress)
        kept = table["test_loss"].notna() | (table["step"] == table["diverged_at"])
        tables.append(table.loc[kept, [*(c for c in points if c != "steps"), *RECORDS]])
    return pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True), details


def cost(points: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work for the progress line, and its unit: the optimizer steps of all runs."""
    return int(points["steps"].sum()), "step"
