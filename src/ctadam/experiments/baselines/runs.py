"""Train 2-Adam and tuned baselines on images and on text (reviewers' questions on the paper's k-Adam).

All contenders share one grid of learning rates and weight decays, and the same seeds. Weight decay is decoupled for all of
them. The contenders are 2-Adam with each strategy, the variant whose second normalization sees the unsmoothed update, and
torch's elementwise optimizers for minibatches. These optimizers of torch are left out:

- Adafactor and Muon, which use whole matrices;
- Rprop, which needs full batches;
- LBFGS, which needs a closure;
- ASGD, which averages the iterates of SGD;
- Adadelta, which is close to Adagrad and RMSprop and needs no learning rate.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch

from ctadam.data.images import load_images
from ctadam.data.text import load_corpus
from ctadam.experiments.k_sweep.runs import RECORDS, thin
from ctadam.training import Task, chunk_size, images, language, train

#: Contender -> settings in which it differs from the defaults of `points`.
CONTENDERS: dict[str, dict[str, Any]] = {
    "2-Adam inverse-exp": {"family": "2-Adam", "k": 2, "stages": "inverse-exp"},
    "2-Adam uniform": {"family": "2-Adam", "k": 2, "stages": "uniform"},
    "2-Adam exp": {"family": "2-Adam", "k": 2, "stages": "exp"},
    "2-Adam naive": {"family": "2-Adam", "k": 2, "stages": "naive"},
    "2-Adam unsmoothed": {"optimizer": "unsmoothed"},
    "AdamW": {"optimizer": "adamw"},
    "NAdam": {"optimizer": "nadam"},
    "RAdam": {"optimizer": "radam"},
    "Adamax": {"optimizer": "adamax"},
    "RMSprop": {"optimizer": "rmsprop", "beta2": 0.99},  # torch's default
    "Adagrad": {"optimizer": "adagrad", "eps": 1e-10},  # torch's default
    "SGD, momentum": {"optimizer": "sgd"},
}


def points(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    Runs of one optimizer are trained together, so the order gives whole contenders to each shard.

    Args:
        parameters: section ``baselines`` of the configuration.

    Returns:
        DataFrame with the columns that `ctadam.training.train` needs and

        - ``task``: ``images`` or ``text``;
        - ``contender``: key of `CONTENDERS`;
        - ``family``: contenders of one family are the same optimizer with different settings.
    """
    base: dict[str, Any] = {name: parameters[name] for name in ("beta1", "beta2", "eps")}
    base |= {"optimizer": "kadam", "k": 1, "stages": "naive", "state_dtype": "float32"}
    rows = [
        base
        | {"family": name, "task": task, "contender": name, "seed": seed, "lr": lr, "weight_decay": decay}
        | {"steps": parameters["steps"][task]}
        | CONTENDERS[name]
        for seed in parameters["seeds"]
        for lr in parameters["lrs"]
        for decay in parameters["weight_decays"]
        for task in parameters["steps"]
        for name in parameters["contenders"]
    ]
    table = pd.DataFrame(rows)
    table.insert(0, "run", range(len(table)))
    return table


def _task(name: str, parameters: Mapping[str, Any], device: torch.device) -> tuple[Task, float, dict[str, str]]:
    """Return the task, the test result of a guess, and the sha256 of the data by their source.

    The guess is the accuracy of always predicting the most frequent class for images, and the loss of the uniform distribution
    over the vocabulary for text (nats per token).
    """
    every: dict[str, Any] = {"test_every": parameters["test_every"], "device": device}
    if name == "images":
        data = load_images(**parameters["images"])
        source = parameters["images"]["source"]
        return images(data, norm=False, **parameters["network"], **every), data.chance, {source: data.sha256}
    text = parameters["text"]
    corpus = load_corpus(
        text["source"],
        tokenization=text["tokenization"],
        test_fraction=text["test_fraction"],
        context=text["model"]["context"],
    )
    task = language(corpus, **text["model"], batch=text["batch"], test_batches=text["test_batches"], **every)
    return task, math.log(len(corpus.vocabulary)), {text["source"]: corpus.sha256}


def run(
    points: pd.DataFrame, parameters: Mapping[str, Any], *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one model per row.

    Args:
        points: rows of the table that the function `points` returns.
        parameters: section ``baselines`` of the configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per run and tested step, and the last row of each run that diverged. It has
        the columns of ``points`` without ``steps``, `ctadam.experiments.k_sweep.runs.RECORDS` and ``guess``, the test result of
        a guess: an accuracy for images, a loss in nats per token for text. ``test_score`` is the test accuracy, NaN for text.
        ``details`` belongs in the provenance: sha256 of the data, number of runs trained together, and number of weights of
        each model.
    """
    tables = []
    details: dict[str, dict[str, Any]] = {"data": {}, "chunks": {}, "weights": {}}
    name: Any
    for name, group in points.groupby("task", sort=False):
        task, guess, data = _task(name, parameters, device)
        chunk = chunk_size(task, device)
        details["data"] |= data
        details["chunks"][name] = chunk
        details["weights"][name] = task.weights
        table = thin(train(group, task=task, device=device, chunk=chunk, progress=progress)).assign(guess=guess)
        if "test_score" not in table:
            table = table.assign(test_score=math.nan)
        tables.append(table[[*(c for c in points if c != "steps"), *RECORDS, "guess"]])
    return pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True), details


def cost(points: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work for the progress line, and its unit: the optimizer steps of all runs."""
    return int(points["steps"].sum()), "step"
