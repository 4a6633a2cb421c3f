"""Train 2-Adam and tuned baselines on images and on text (reviewers' questions on the paper's k-Adam).

All contenders share one grid of learning rates and weight decays, and the same seeds. Weight decay is decoupled for all of
them. A part of the training set is held out, so that settings are chosen by it and judged on the test set.
"""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from ctadam.data.images import load_images
from ctadam.data.text import load_corpus
from ctadam.errors import ArtifactError
from ctadam.experiments.baselines.config import Config
from ctadam.experiments.baselines.contenders import CONTENDERS
from ctadam.experiments.k_sweep.runs import train_tested
from ctadam.training import Task, images, language


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    Runs of one optimizer are trained together, so the order gives whole contenders to each shard.

    Returns:
        DataFrame with the columns that `ctadam.experiments.k_sweep.runs.train_tested` needs and

        - ``task``: ``images`` or ``text``;
        - ``contender``: key of `CONTENDERS`;
        - ``family``: contenders of one family are the same optimizer with different settings;
        - ``averages``: number of averages that the optimizer keeps per parameter.

    Raises:
        ArtifactError: if a contender is unknown.
    """
    contenders = config.contenders or list(CONTENDERS)
    for i, name in enumerate(contenders):
        if name not in CONTENDERS:
            raise ArtifactError(f"baselines.contenders.{i}: {name!r} is not allowed (allowed: {', '.join(CONTENDERS)})")
    base = {"beta1": config.beta1, "beta2": config.beta2, "eps": config.eps, "k": 1, "strategy": "naive"}
    rows = [
        base
        | {"state_dtype": "float32", "task": task, "contender": name, "seed": seed, "lr": lr, "weight_decay": decay}
        | {"steps": steps}
        | CONTENDERS[name]
        for seed in config.seeds
        for lr in config.lrs
        for decay in config.weight_decays
        for task, steps in config.steps.model_dump(exclude_unset=True).items()
        for name in contenders
    ]
    table = pd.DataFrame(rows)
    table.insert(0, "run", range(len(table)))
    return table


def _task(name: str, config: Config, device: torch.device) -> tuple[Task, float, dict[str, str]]:
    """Return the task, its chance level, and the sha256 of the data by their source.

    The chance level is the accuracy of always predicting the most frequent class for images, and the loss of the uniform
    distribution over the vocabulary for text (nats per token).
    """
    common: dict[str, Any] = {
        "test_every": config.test_every,
        "device": device,
        "validation_fraction": config.validation_fraction,
    }
    if name == "images":
        data = load_images(**config.images.model_dump())
        task = images(data, norm=False, **config.network.model_dump(), **common)
        return task, data.chance, {data.name: data.sha256}
    text, model = config.text, config.text.model.model_dump()
    corpus = load_corpus(
        text.source,
        tokenization=text.tokenization,
        test_fraction=text.test_fraction,
        context=text.model.context,
    )
    task = language(corpus, **model, batch=text.batch, test_batches=text.test_batches, **common)
    return task, math.log(len(corpus.vocabulary)), {text.source: corpus.sha256}


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
        ``(table, details)``. ``table``: see `ctadam.experiments.k_sweep.runs.train_tested`. It also has ``chance_level``, an
        accuracy for images and a loss in nats per token for text. ``test_score`` and ``validation_score`` are accuracies, NaN
        for text. ``details`` belongs in the provenance: sha256 of the data, number of runs trained together, and number of
        weights of each model.
    """
    tables = []
    details: dict[str, dict[str, Any]] = {"data": {}, "chunks": {}, "weights": {}}
    name: Any
    for name, group in runs.groupby("task", sort=False):
        task, chance_level, data = _task(name, config, device)
        table, details["chunks"][name] = train_tested(group, task, device=device, progress=progress)
        details["data"] |= data
        details["weights"][name] = task.weights
        scores = {f"{part}_score": math.nan for part in ("test", "validation") if f"{part}_score" not in table}
        tables.append(table.assign(**scores, chance_level=chance_level))
    tables = [
        table[list(tables[0])].astype({"test_score": "float32", "validation_score": "float32"}) for table in tables
    ]
    return pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True), details
