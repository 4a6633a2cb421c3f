"""Stable region and exponential growth (paper, section 3): one small language model per pair of betas.

Two variants share one table:

``curve``
    the points equally spaced along the normal curve, word tokens, ε = 0, float64 optimizer state;
``characters``
    those of them well outside the stable region, with character tokens: every token comes back soon, which is the
    contrast that shows what carries the growth.

What ends the growth in practice (ε, precision, clipping, long runs) is `ctadam.experiments.practice.runs`.
"""

import pandas as pd

from ctadam.data.text import load_corpus
from ctadam.theory.stability import normal_curve_points, stability_coefficient
from ctadam.training import chunk_size, language, train


def points(parameters):
    """The table of runs: a row a run, with the columns of `ctadam.training.train` and

    - ``variant``: see the module; ``point``: index along the curve from its stable end;
    - ``tokens``: tokenization.
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


def run(points, parameters, *, device, progress):
    """Train the given points.

    Args:
        points: rows of `points`.
        parameters: section ``growth`` of the configuration.
        device: `torch.device`.
        progress: called with the steps done since the last call.

    Returns:
        ``(table, details)``: see `ctadam.training.train`; for the provenance the text's sha256, and with each tokenization
        how many runs were trained at a time and how many weights the model has.
    """
    settings = {name: parameters[name] for name in ("batch", "test_batches", "test_every")}
    tables, details = [], {"data": {}, "chunks": {}, "weights": {}}
    for tokens, group in points.groupby("tokens", sort=False):
        corpus = load_corpus(
            parameters["text"],
            tokenization=tokens,
            test_fraction=parameters["test_fraction"],
            context=parameters["model"]["context"],
        )
        task = language(corpus, **parameters["model"], **settings, device=device)
        chunk = chunk_size(task, device)
        details["data"][parameters["text"]], details["chunks"][tokens] = corpus.sha256, chunk
        details["weights"][tokens] = task.weights
        tables.append(train(group, task=task, device=device, chunk=chunk, progress=progress))
    return pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True), details


def cost(points):
    """Units of work in these points, for the progress line: optimizer steps."""
    return int(points["steps"].sum()), "step"
