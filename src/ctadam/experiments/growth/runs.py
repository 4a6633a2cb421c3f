"""Stable region and exponential growth (paper, section 3): one small language model per pair of betas.

The table of runs has two variants:

``curve``
    Points equally spaced along the normal curve, with word tokens, ε = 0 and float64 optimizer state.
``characters``
    The points well outside the stable region again, with character tokens. Every character recurs within few steps, so
    these runs have no rare coordinates and test whether those carry the growth.

`ctadam.experiments.practice.runs` covers what ends the growth in practice: ε, precision, clipping and long runs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch

from ctadam.data.text import load_corpus
from ctadam.theory.stability import normal_curve_points, stability_coefficient
from ctadam.training import chunk_size, language, train


def points(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs.

    Args:
        parameters: section ``growth`` of the configuration.

    Returns:
        DataFrame with one row per run. It has the columns that `ctadam.training.train` requires and

        - ``variant``: ``"curve"`` or ``"characters"``, see the module;
        - ``point``: index along the normal curve, counted from its stable end;
        - ``tokens``: tokenization, ``"words"`` or ``"characters"``.
    """
    beta1, beta2 = normal_curve_points(count=parameters["points"], through=parameters["through"])
    curve = pd.DataFrame({"variant": "curve", "point": range(len(beta1)), "beta1": beta1, "beta2": beta2})
    curve = curve.assign(tokens="words", eps=0.0, state_dtype="float64", steps=parameters["steps"])
    unstable = stability_coefficient(beta1=beta1, beta2=beta2) < parameters["characters_below"]
    characters = curve[unstable].assign(variant="characters", tokens="characters")
    table = pd.concat([curve, characters], ignore_index=True)
    table = table.merge(pd.DataFrame({"seed": parameters["seeds"]}), how="cross")
    table = table.assign(lr=parameters["lr"], weight_decay=parameters["weight_decay"])
    table.insert(0, "run", range(len(table)))
    return table


def run(
    points: pd.DataFrame, parameters: Mapping[str, Any], *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train the given runs.

    Args:
        points: rows of the table that `points` returns.
        parameters: section ``growth`` of the configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per step, as returned by `ctadam.training.train`. ``details`` goes into
        the provenance: the sha256 of the text, and per tokenization the number of runs trained together and the number
        of weights of the model.
    """
    settings = {name: parameters[name] for name in ("batch", "test_batches", "test_every")}
    tables: list[pd.DataFrame] = []
    details: dict[str, Any] = {"data": {}, "chunks": {}, "weights": {}}
    for tokens, group in points.groupby("tokens", sort=False):
        corpus = load_corpus(
            parameters["text"],
            tokenization=str(tokens),
            test_fraction=parameters["test_fraction"],
            context=parameters["model"]["context"],
        )
        task = language(corpus, **parameters["model"], **settings, device=device)
        chunk = chunk_size(task, device)
        details["data"][parameters["text"]], details["chunks"][tokens] = corpus.sha256, chunk
        details["weights"][tokens] = task.weights
        tables.append(train(group, task=task, device=device, chunk=chunk, progress=progress))
    return pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True), details


def cost(points: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work in these runs and its unit, for the progress line; here optimizer steps."""
    return int(points["steps"].sum()), "step"
