"""Why real training rarely explodes: one unstable pair under each common safeguard, and long runs.

The model is the small language model of `ctadam.experiments.growth.runs`, on word tokens. The table of runs has three
variants:

``epsilon``
    One unstable pair with every ε and every precision of the optimizer's state.
``protection``
    The same pair with one change per run: clipped gradients, weight decay, a smaller learning rate, combinations with
    torch's default ε and precision, a stable pair instead, or gradients in mixed precision.
``long``
    Some points of the normal curve (ε = 0, float64 state) for so many steps that every token recurs.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctadam.data.text import load_corpus
from ctadam.errors import ArtifactError
from ctadam.theory.stability import normal_curve_points
from ctadam.training import chunk_size, language, train


def _held_back(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the runs of the unstable pair, each with its changes to the bare run, without seeds and steps.

    The bare run has ε = 0, float64 state, no clipping and no weight decay.
    """
    protection = parameters["protection"]
    bare: dict[str, Any] = {
        **parameters["pair"], "eps": 0.0, "state_dtype": "float64", "clip": math.inf, "weight_decay": 0.0,
        "lr": parameters["lr"], "precision": "float32",
    }  # fmt: skip
    clip, decay = {"clip": float(protection["clip"])}, {"weight_decay": float(protection["weight_decay"])}
    # The usual setting has the largest ε, which is torch's default, and torch's default precision.
    usual: dict[str, Any] = {"eps": float(max(parameters["eps"])), "state_dtype": "float32"}
    changes: list[dict[str, Any]] = [clip, decay, {"lr": parameters["lr"] * protection["lr_factor"]}]
    changes += [usual | clip, usual | decay, usual | clip | decay]
    changes += [{"beta1": pair["beta1"], "beta2": pair["beta2"]} for pair in protection["pairs"]]
    changes += [{"precision": precision} for precision in protection["precisions"]]
    epsilon = [
        {"eps": float(eps), "state_dtype": dtype}
        for dtype, eps in itertools.product(parameters["state_dtypes"], parameters["eps"])
    ]
    rows = [bare | change | {"variant": "epsilon"} for change in epsilon]
    return pd.DataFrame(rows + [bare | change | {"variant": "protection"} for change in changes])


def points(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs.

    Args:
        parameters: section ``practice`` of the configuration.

    Returns:
        DataFrame with one row per run. It has the columns that `ctadam.training.train` reads and

        - ``variant``: ``"epsilon"``, ``"protection"`` or ``"long"``, see the module;
        - ``point``: index along the normal curve, counted from its stable end; −1 for pairs off the curve;
        - ``tokens``: tokenization, always ``"words"``.

    Raises:
        ArtifactError: if a point of the long runs is not on the curve.
    """
    one = _held_back(parameters).assign(point=-1, steps=parameters["steps"])
    one = one.merge(pd.DataFrame({"seed": parameters["seeds"]}), how="cross")
    long = parameters["long"]
    beta1, beta2 = normal_curve_points(count=long["of"], through=long["through"])
    wrong = [point for point in long["points"] if point >= long["of"]]
    if wrong:
        raise ArtifactError(f"practice.long.points: {wrong[0]} is not below practice.long.of, {long['of']}")
    curve = pd.DataFrame({"point": long["points"], "beta1": beta1[long["points"]], "beta2": beta2[long["points"]]})
    curve = curve.assign(
        variant="long", eps=0.0, state_dtype="float64", clip=math.inf, weight_decay=0.0, lr=parameters["lr"],
        precision="float32", steps=long["steps"],
    ).merge(pd.DataFrame({"seed": long["seeds"]}), how="cross")  # fmt: skip
    table = pd.concat([curve, one], ignore_index=True).assign(tokens="words")
    table.insert(0, "run", range(len(table)))
    return table


def run(
    points: pd.DataFrame, parameters: Mapping[str, Any], *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train the given runs.

    Args:
        points: rows of the table that `points` returns.
        parameters: section ``practice`` of the configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per step, as returned by `ctadam.training.train`, and a column ``token``
        with the word whose row has the largest update (empty if the row belongs to no word). ``details`` goes into the
        provenance: the sha256 of the text, the number of training words and of distinct words, the number of runs
        trained together, and the number of weights of the model.
    """
    corpus = load_corpus(
        parameters["text"],
        tokenization="words",
        test_fraction=parameters["test_fraction"],
        context=parameters["model"]["context"],
        limit=parameters["words"],
    )
    settings = {name: parameters[name] for name in ("batch", "test_batches", "test_every")}
    task = language(corpus, **parameters["model"], **settings, device=device)
    chunk = chunk_size(task, device)
    table = train(points, task=task, device=device, chunk=chunk, progress=progress)
    watched = table["update_tensor"].isin([name.removesuffix(".weight") for name in task.watch])
    words = np.array(corpus.vocabulary, dtype=object)
    table["token"] = np.where(watched, words[table["update_row"].where(watched, 0)], "")
    details = {
        "data": {parameters["text"]: corpus.sha256},
        "train_words": len(corpus.train),
        "vocabulary": len(corpus.vocabulary),
        "chunk": chunk,
        "weights": {"words": task.weights},
    }
    return table, details


def cost(points: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work in these runs and its unit, for the progress line; here optimizer steps."""
    return int(points["steps"].sum()), "step"
