"""Why real training rarely explodes: one unstable pair under each common safeguard, and long runs.

The model is a small language model on word tokens. The table of runs has three variants:

``epsilon``
    One unstable pair with every ε and every precision of the optimizer's state.
``protection``
    The same pair with one change per run: clipped gradients, weight decay, a smaller learning rate, combinations with
    torch's default ε and precision, a stable pair instead, or gradients in mixed precision.
``long``
    Some points of the normal curve (ε = 0, float64 state) for many steps. These runs read each window of the text at most
    once, so that a rare word can stay away for most of the run.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctadam.data.text import Corpus, load_corpus
from ctadam.experiments.practice.config import Config
from ctadam.theory.stability import Law, normal_curve_points, update_bound
from ctadam.training import Task, chunk_size, language, train

#: Records of `ctadam.training.train` that no claim and no panel of the figure reads.
_UNUSED = ["param_max", "param_norm", "displacement_max", "train_loss"]


def _held_back(config: Config) -> pd.DataFrame:
    """Return the runs of the unstable pair, each with its changes to the bare run, without steps.

    The bare run has ε = 0, float64 state, no clipping and no weight decay.
    """
    protection = config.protection
    bare: dict[str, Any] = {
        "beta1": config.pair.beta1,
        "beta2": config.pair.beta2,
        "eps": 0.0,
        "state_dtype": "float64",
        "clip": math.inf,
        "weight_decay": 0.0,
        "lr": config.lr,
        "precision": "float32",
    }
    clip, decay = {"clip": float(protection.clip)}, {"weight_decay": float(protection.weight_decay)}
    # The usual setting has the largest ε, which is torch's default, and torch's default precision.
    usual: dict[str, Any] = {"eps": float(max(config.eps)), "state_dtype": "float32"}
    changes: list[dict[str, Any]] = [clip, decay, {"lr": config.lr * protection.lr_factor}]
    changes += [usual | clip, usual | decay, usual | clip | decay]
    changes += [{"beta1": pair.beta1, "beta2": pair.beta2} for pair in protection.pairs]
    epsilon = [
        {"eps": float(eps), "state_dtype": dtype} for dtype, eps in itertools.product(config.state_dtypes, config.eps)
    ]
    groups: list[tuple[str, list[dict[str, Any]]]] = [
        ("epsilon", epsilon),
        ("protection", [{"precision": precision} for precision in protection.precisions] + changes),
    ]
    rows = [bare | change | {"variant": variant} for variant, group in groups for change in group]
    return pd.DataFrame([row | {"seed": seed} for row in rows for seed in _seeds(row, config)])


def _seeds(run: Mapping[str, Any], config: Config) -> list[int]:
    """Return the seeds of a run: all if E1 or E2 need an interval over them, else a few."""
    capped = run["variant"] == "epsilon" and (run["eps"] == 0 or run["state_dtype"] == "float64")
    return config.seeds if capped or run["precision"] != "float32" else config.protection.seeds


def grid(config: Config) -> pd.DataFrame:
    """Return the table of runs.

    Args:
        config: the experiment's configuration.

    Returns:
        DataFrame with one row per run. It has the columns that `ctadam.training.train` reads and

        - ``variant``: ``"epsilon"``, ``"protection"`` or ``"long"``, see the module;
        - ``point``: index along the normal curve, counted from its stable end; −1 for pairs off the curve.
    """
    long = config.long
    beta1, beta2 = normal_curve_points(count=long.n_points, through=long.through.model_dump())
    curve = pd.DataFrame({"point": long.points, "beta1": beta1[long.points], "beta2": beta2[long.points]})
    curve = curve.assign(
        variant="long",
        eps=0.0,
        state_dtype="float64",
        clip=math.inf,
        weight_decay=0.0,
        lr=config.lr,
        precision="float32",
        steps=long.steps,
    ).merge(pd.DataFrame({"seed": long.seeds}), how="cross")
    table = pd.concat([curve, _held_back(config).assign(point=-1, steps=config.steps)], ignore_index=True)
    table.insert(0, "run", range(len(table)))
    return table


def run(
    runs: pd.DataFrame, config: Config, *, device: torch.device, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train the given runs.

    Args:
        runs: rows of the table that `grid` returns.
        config: the experiment's configuration.
        device: where to train.
        progress: called with the number of steps since the last call, summed over runs.

    Returns:
        ``(table, details)``. ``table`` has one row per recorded step, with the columns of ``runs`` without ``steps``, those of
        `ctadam.training.train` that claims or figure need, and

        - ``token``: word whose row has the largest update; empty if the row belongs to no word;
        - ``ratio_paper``, ``ratio_exact``: largest ‖u_n‖_∞ over its bound by each law, over all steps of the run;
        - ``train_loss_max``: largest training loss, over all steps;
        - ``text_passes``: tokens that the run reads, over the tokens of the training text.

        Recorded are every ``record_every``-th step and its successor, the largest update, all test losses and the last
        step. ``details`` goes into the provenance: the sha256 of the text, and per kind of runs the numbers of training
        words, distinct words, weights, and runs trained together.
    """
    tables: list[pd.DataFrame] = []
    details: dict[str, Any] = {"data": {}, "train_words": {}, "vocabulary": {}, "weights": {}, "chunks": {}}
    for long, group in runs.groupby(runs["variant"] == "long", sort=True):
        corpus, task = _learning(config, long=bool(long), device=device)
        chunk = chunk_size(task, device)
        table = train(group, task=task, device=device, chunk=chunk, progress=progress)
        table["token"] = _tokens(table, task, corpus)
        context = (config.long if long else config).model.context
        length = table["run"].map(group.set_index("run")["steps"])
        table["text_passes"] = length * task.batch * context / len(corpus.train)
        tables.append(_thinned(table, config.record_every))
        name = "long" if long else "short"
        details["data"][config.text.source] = corpus.sha256
        details["train_words"][name], details["vocabulary"][name] = len(corpus.train), len(corpus.vocabulary)
        details["weights"][name], details["chunks"][name] = task.weights, chunk
    return pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True), details


def _learning(config: Config, *, long: bool, device: torch.device) -> tuple[Corpus, Task]:
    """Return the text and the task of the long runs or of the others."""
    part = config.long if long else config
    corpus = load_corpus(
        config.text.source,
        tokenization="words",
        test_fraction=config.text.test_fraction,
        context=part.model.context,
        limit=config.long.words if long else config.text.words,
    )
    shape, tests = part.model.model_dump(), {"test_batches": config.test_batches, "test_every": config.test_every}
    return corpus, language(corpus, **shape, batch=part.batch, **tests, device=device, once=long)


def _tokens(table: pd.DataFrame, task: Task, corpus: Corpus) -> np.ndarray:
    """Return the word whose row has the largest update, per step; empty if the row belongs to no word."""
    watched = table["update_tensor"].isin([name.removesuffix(".weight") for name in task.watch])
    words = np.array(corpus.vocabulary, dtype=object)
    return np.where(watched, words[table["update_row"].where(watched, 0)], "")


def _thinned(table: pd.DataFrame, every: int) -> pd.DataFrame:
    """Return the recorded steps, with the columns that summarize all steps; see `run`."""
    good = table[table["step"] != table["diverged_at"]]
    laws: tuple[Law, ...] = ("paper", "exact")
    for law in laws:
        bound = update_bound(beta1=good["beta1"], beta2=good["beta2"], step=good["step"], law=law)
        # The maximum is NaN for a run that was not finite at its first step.
        table[f"ratio_{law}"] = table["run"].map((good["update_max"] / bound).groupby(good["run"]).max())
    table["train_loss_max"] = table["run"].map(good.groupby("run")["train_loss"].max())
    last = table["step"] == table.groupby("run")["step"].transform("max")
    peak = table.index.isin(good.groupby("run")["update_max"].idxmax())
    recorded = (table["step"] % every < 2) | peak | last | table["test_loss"].notna()
    return table[recorded].drop(columns=_UNUSED)
