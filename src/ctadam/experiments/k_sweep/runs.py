"""Train a convolutional network by k-Adam with k = 1, 2, … stages and four strategies (arXiv 2411.05746, k-Adam).

Every setting is trained with and without normalization layers. These layers make weights scale-invariant, which already acts
as a second normalization under Adam (paper, section on normalization), so a second stage might help less in such a network. The
runs that claim K1 compares, k = 1 and k = 2, have more seeds than the others.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch

from ctadam.data.images import load_images
from ctadam.errors import ArtifactError
from ctadam.optim import stage_betas
from ctadam.training import chunk_size, images, train

#: Columns that are kept from the table of `ctadam.training.train`, in addition to those of the runs.
RECORDS = ["step", "update_max", "param_norm", "train_loss", "test_loss", "test_score", "diverged_at"]
#: Runs up to this k have the seeds of claim K1.
PAIR = 2


def points(parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs, one row per run.

    Runs with the same k are trained together, so the order gives whole strategies to each shard.

    Args:
        parameters: section ``k_sweep`` of the configuration.

    Returns:
        DataFrame with the columns that `ctadam.training.train` needs and

        - ``norm``: whether the network has normalization layers;
        - ``k``: number of stages;
        - ``stages``: strategy for the betas of the stages (``naive`` for k = 1, where all strategies agree);
        - ``last_beta1``, ``last_beta2``: γ and β of the last stage.

    Raises:
        ArtifactError: if k = 1 or k = 2 is missing.
    """
    if not {1, PAIR} <= set(parameters["ks"]):
        raise ArtifactError(f"k_sweep.ks: {parameters['ks']} lacks 1 or {PAIR}, the reference values for the others")
    pair = (float(parameters["beta1"]), float(parameters["beta2"]))  # YAML reads 0 as an integer
    rows: list[dict[str, Any]] = [
        {"norm": norm, "k": k, "seed": seed, "stages": stages}
        for norm in parameters["norms"]
        for k in parameters["ks"]
        for seed in parameters["pair_seeds" if k <= PAIR else "seeds"]
        for stages in (parameters["strategies"] if k > 1 else ["naive"])
    ]
    table = pd.DataFrame(rows)
    last = [stage_betas(row["stages"], row["k"], betas=pair)[-1] for row in rows]
    table[["last_beta1", "last_beta2"]] = pd.DataFrame(last, index=table.index)
    same = {name: parameters[name] for name in ("beta1", "beta2", "lr", "weight_decay", "eps", "steps")}
    table = table.assign(**same, state_dtype="float32")
    table.insert(0, "run", range(len(table)))
    return table


def thin(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a test loss and, if a run diverged, its last row."""
    return table[table["test_loss"].notna() | (table["step"] == table["diverged_at"])]


def run(
    points: pd.DataFrame, parameters: Mapping[str, Any], *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one network per row.

    Args:
        points: rows of the table that the function `points` returns.
        parameters: section ``k_sweep`` of the configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per run and tested step, and the last row of each run that diverged. It has
        the columns of ``points`` without ``steps``, `RECORDS` (``test_score`` is the test accuracy) and ``guess``, the accuracy
        of always predicting the most frequent class. ``details`` belongs in the provenance: sha256 of the images, their
        numbers and classes, number of runs trained together, and number of weights of each model.
    """
    data = load_images(**parameters["images"])
    tables = []
    chunks: dict[str, int] = {}
    weights: dict[str, int] = {}
    for norm, group in points.groupby("norm", sort=False):
        task = images(
            data, norm=bool(norm), **parameters["network"], test_every=parameters["test_every"], device=device
        )
        chunks[f"norm={norm}"] = chunk = chunk_size(task, device)
        weights[f"norm={norm}"] = task.weights
        table = thin(train(group, task=task, device=device, chunk=chunk, progress=progress))
        tables.append(table[[*(c for c in points if c != "steps"), *RECORDS]])
    details = {
        "data": {parameters["images"]["source"]: data.sha256},
        "images": {"train": len(data.train[1]), "test": len(data.test[1]), "classes": list(data.classes)},
        "chunks": chunks,
        "weights": weights,
    }
    table = pd.concat(tables, ignore_index=True).assign(guess=data.chance)
    return table.sort_values(["run", "step"], kind="stable", ignore_index=True), details


def cost(points: pd.DataFrame) -> tuple[int, str]:
    """Return the amount of work for the progress line, and its unit: the optimizer steps of all runs."""
    return int(points["steps"].sum()), "step"
