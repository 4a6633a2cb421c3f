"""Stable region and exponential growth (paper, section 3): one small language model per pair of betas.

The table of runs has five variants:

``curve``
    Points equally spaced along the normal curve, with word tokens, ε = 0 and float64 optimizer state.
``pair``
    Further pairs, trained like the points of the curve.
``characters``
    The points well outside the stable region again, with character tokens. Every character recurs within few steps, so
    these runs have no rare coordinates and test whether those carry the growth.
``rule``
    A published recipe that lowers β with the batch size: word tokens, the recipe's γ and ε, float32 optimizer state. The
    batch size enters through β only.
``floor``
    The recipe's γ, with the β at which C = 0 in place of any smaller one.

`ctadam.experiments.practice.runs` covers what ends the growth in practice: ε, precision, clipping and long runs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctadam.data.text import load_corpus
from ctadam.experiments.growth.config import Config
from ctadam.theory.stability import boundary_beta2, normal_curve_points, stability_coefficient
from ctadam.training import Task, language, train_tasks

#: Columns of the raw table that no claim or figure reads.
_UNUSED = ["param_norm", "train_loss"]
#: Columns that are recorded every ``record_every`` steps.
_THINNED = ["param_max", "displacement_max"]


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs.

    Returns:
        DataFrame with one row per run. It has the columns that `ctadam.training.train` requires and

        - ``variant``: see the module;
        - ``point``: index along the normal curve, counted from its stable end; −1 for pairs off the curve;
        - ``batch_size``: batch size for which the recipe sets β; 0 for the other variants, and for ``floor``, where β is
          the same for all batch sizes;
        - ``tokenization``: ``"words"`` or ``"characters"``.
    """
    beta1, beta2 = normal_curve_points(count=config.n_points, through=config.through.model_dump())
    points = pd.DataFrame({"point": range(len(beta1)), "beta1": beta1, "beta2": beta2})
    c = stability_coefficient(beta1=beta1, beta2=beta2)
    # C falls along the curve. The points that decide S2 to S6 have every seed.
    every_seed = points["point"] >= int((c >= 0).sum()) - config.across // 2
    seeds = pd.DataFrame({"seed": config.seeds})
    pairs = pd.DataFrame([pair.model_dump() for pair in config.pairs], columns=["beta1", "beta2"])
    plain = pd.concat(
        [
            points[~every_seed].merge(seeds.head(1), how="cross").assign(variant="curve"),
            points[every_seed].merge(seeds, how="cross").assign(variant="curve"),
            pairs.merge(seeds, how="cross").assign(variant="pair", point=-1),
            points[c < config.characters_below].merge(seeds, how="cross").assign(variant="characters"),
        ]
    ).assign(batch_size=0, eps=0.0, state_dtype="float64", steps=config.steps)
    table = pd.concat([plain, _rule(config)], ignore_index=True)
    table["tokenization"] = np.where(table["variant"] == "characters", "characters", "words")
    table = table.assign(lr=config.lr, weight_decay=config.weight_decay)
    table.insert(0, "run", range(len(table)))
    return table


def _rule(config: Config) -> pd.DataFrame:
    """Return the runs of the recipe and of its repair, without learning rate and decay."""
    rule = config.batch_rule
    rows: list[dict[str, Any]] = []
    for eps in rule.eps:
        # ε other than the recipe's only matter for the repair.
        for size in rule.batch_sizes if eps == rule.eps[0] else rule.repaired:
            beta2 = rule.beta2_at_reference ** (size / rule.reference)
            rows.append({"variant": "rule", "batch_size": size, "beta2": beta2, "eps": float(eps)})
        rows.append(
            {"variant": "floor", "batch_size": 0, "beta2": float(boundary_beta2(beta1=rule.beta1)), "eps": float(eps)}
        )
    table = pd.DataFrame(rows).assign(beta1=rule.beta1, point=-1, state_dtype="float32", steps=rule.steps)
    return table.merge(pd.DataFrame({"seed": rule.seeds}), how="cross")


def run(
    runs: pd.DataFrame, config: Config, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train the given runs.

    Args:
        runs: rows of the table that `grid` returns.
        config: parameters.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per step, as returned by `ctadam.training.train`, without columns that
        no claim or figure reads. ``param_max`` and ``displacement_max`` are float32, and recorded every ``record_every``
        steps. ``details`` goes into the provenance: the sha256 of the text, and per tokenization the number of runs
        trained together and the number of weights of the model.
    """

    def prepare(tokenization: str) -> tuple[Task, dict[str, str]]:
        corpus = load_corpus(
            config.text.source,
            tokenization=tokenization,
            test_fraction=config.text.test_fraction,
            context=config.model.context,
            limit=config.text.words if tokenization == "words" else None,
        )
        task = language(
            corpus,
            **config.model.model_dump(),
            batch=config.batch,
            test_batches=config.test_batches,
            test_every=config.test_every,
            device=device,
        )
        return task, {config.text.source: corpus.sha256}

    def select(table: pd.DataFrame) -> pd.DataFrame:
        return _thinned(table, config.record_every)

    return train_tasks(runs, "tokenization", prepare, device=device, progress=progress, select=select)


def _thinned(table: pd.DataFrame, every: int) -> pd.DataFrame:
    """Return the raw table without what no claim or figure reads."""
    # Independent of the number of steps, so that a shortened run has the same rows.
    recorded = (table["step"] + 1) % every == 0
    sizes = {name: table[name].where(recorded).astype(np.float32) for name in _THINNED}
    return table.drop(columns=_UNUSED).assign(**sizes)
