"""Train a convolutional network by k-Adam with k = 1, 2, … stages and four strategies (arXiv 2411.05746, k-Adam).

Adam and 2-Adam are trained at several learning rates, because at one rate their steps differ in size: on independent gradients
of size 1, the updates of 2-Adam have three times the root mean square of Adam's. The networks with normalization layers answer
whether a second stage gains less there. These layers make weights scale-invariant, which acts as a second normalization under
Adam (paper, section on normalization). Further k are trained at one learning rate.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctadam.data.images import load_images
from ctadam.experiments.k_sweep.config import Config
from ctadam.optim import stage_betas
from ctadam.training import Task, chunk_size, images, train

#: Largest k that is trained at all learning rates.
PAIR = 2


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    Returns:
        DataFrame with the columns that `train_tested` needs and

        - ``norm``: whether the network has normalization layers;
        - ``last_beta1``, ``last_beta2``: γ and β of the last stage.
    """
    pair = (float(config.beta1), float(config.beta2))  # YAML reads 0 as an integer
    networks = [
        (False, config.lrs, config.adam_lrs, config.ks),
        (True, config.normalized.lrs, [], config.normalized.ks),
    ]
    rows: list[dict[str, Any]] = [
        {"norm": norm, "k": k, "strategy": strategy, "lr": float(lr), "seed": seed}
        for norm, lrs, adam_lrs, ks in networks
        for k in ks
        for lr in dict.fromkeys([*lrs, config.lr, *(adam_lrs if k == 1 else [])] if k <= PAIR else [config.lr])
        for strategy in (config.strategies if k > 1 else ["naive"])
        for seed in config.seeds
    ]
    table = pd.DataFrame(rows)
    last = [stage_betas(row["strategy"], row["k"], betas=pair)[-1] for row in rows]
    table[["last_beta1", "last_beta2"]] = pd.DataFrame(last, index=table.index)
    same = {name: getattr(config, name) for name in ("beta1", "beta2", "weight_decay", "eps", "steps")}
    table = table.assign(**same, state_dtype="float32")
    table.insert(0, "run", range(len(table)))
    return table


def train_tested(
    runs: pd.DataFrame, task: Task, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, int]:
    """Train one model per row, and keep the rows that hold a test or the end of a run.

    Args:
        runs: DataFrame with the columns that `ctadam.training.train` needs. ``strategy`` is the strategy for the betas of the
            stages: ``naive`` for k = 1, where all strategies agree.
        task: the learning problem.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, chunk)``. ``table`` has one row per run and tested step, and the last row of each run that diverged. It has the
        columns of ``runs`` without ``steps``, ``step``, ``update_rms`` (root mean square of the updates over all weights and
        all steps up to this one), `Task.tests` and ``diverged_at``. ``chunk`` is the number of runs trained together.
    """
    chunk = chunk_size(task, device)
    named = runs.rename(columns={"strategy": "stages"})
    table = train(named, task=task, device=device, chunk=chunk, progress=progress, update_rms=True)
    numbers = ["update_rms", *task.tests]
    with np.errstate(over="ignore"):  # of runs that diverge
        squares = (table["update_rms"] ** 2).groupby(table["run"]).cumsum()
        table["update_rms"] = np.sqrt(squares / (table["step"] + 1))
        table[numbers] = table[numbers].astype(np.float32)
    kept = table["test_loss"].notna() | (table["step"] == table["diverged_at"])
    columns = [*(name for name in named if name != "steps"), "step", *numbers, "diverged_at"]
    return table.loc[kept, columns].rename(columns={"stages": "strategy"}), chunk


def run(
    runs: pd.DataFrame, config: Config, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one network per row.

    Args:
        runs: rows of the table that `grid` returns.
        config: the experiment's configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table``: see `train_tested`; ``test_score`` is the test accuracy. It also has ``chance_level``,
        the accuracy of always predicting the most frequent class. ``details`` belongs in the provenance: sha256 of the images,
        their numbers and classes, number of runs trained together, and number of weights of each model.
    """
    data = load_images(**config.images.model_dump())
    tables = []
    chunks: dict[str, int] = {}
    weights: dict[str, int] = {}
    for norm, group in runs.groupby("norm", sort=False):
        network = config.network.model_dump()
        task = images(data, norm=bool(norm), **network, test_every=config.test_every, device=device)
        table, chunks[f"norm={norm}"] = train_tested(group, task, device=device, progress=progress)
        weights[f"norm={norm}"] = task.weights
        tables.append(table)
    details = {
        "data": {data.name: data.sha256},
        "images": {"train": len(data.train[1]), "test": len(data.test[1]), "classes": list(data.classes)},
        "chunks": chunks,
        "weights": weights,
    }
    table = pd.concat(tables, ignore_index=True).assign(chance_level=data.chance)
    return table.sort_values(["run", "step"], kind="stable", ignore_index=True), details
