"""Why does real training rarely explode? One unstable pair under everything that may hold it back, and long runs.

A small language model on word tokens, as in `ctadam.experiments.growth.runs`. Three variants share one table:

``epsilon``
    one unstable pair with every ε and every precision of the optimizer's state;
``protection``
    the same pair with clipped gradients, weight decay, a smaller learning rate, all that is usual together, stable
    pairs in its place, and gradients in mixed precision, one change at a time;
``long``
    some points of the normal curve (ε = 0, float64 state) for many steps, in which every token comes back.
"""

import itertools
import math

import numpy as np
import pandas as pd

from ctadam.data.text import load_corpus
from ctadam.errors import ArtifactError
from ctadam.theory.stability import normal_curve_points
from ctadam.training import chunk_size, language, train


def _held_back(parameters):
    """The runs of one unstable pair: what each changes of the bare one (ε = 0, float64 state, no clipping, no decay)."""
    protection = parameters["protection"]
    bare = {
        **parameters["pair"], "eps": 0.0, "state_dtype": "float64", "clip": math.inf, "weight_decay": 0.0,
        "lr": parameters["lr"], "precision": "float32",
    }  # fmt: skip
    clip, decay = {"clip": float(protection["clip"])}, {"weight_decay": float(protection["weight_decay"])}
    # What is usual: torch's ε and precision.
    usual = {"eps": float(max(parameters["eps"])), "state_dtype": "float32"}
    changes = [clip, decay, {"lr": parameters["lr"] * protection["lr_factor"]}]
    changes += [usual | clip, usual | decay, usual | clip | decay]
    changes += [{"beta1": pair["beta1"], "beta2": pair["beta2"]} for pair in protection["pairs"]]
    changes += [{"precision": precision} for precision in protection["precisions"]]
    epsilon = [
        {"eps": float(eps), "state_dtype": dtype}
        for dtype, eps in itertools.product(parameters["state_dtypes"], parameters["eps"])
    ]
    rows = [bare | change | {"variant": "epsilon"} for change in epsilon]
    return pd.DataFrame(rows + [bare | change | {"variant": "protection"} for change in changes])


def points(parameters):
    """The table of runs: a row a run, with the columns of `ctadam.training.train` and

    - ``variant``: see the module; ``point``: index along the curve from its stable end (−1 off the curve);
    - ``tokens``: tokenization, the same for all.
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


def run(points, parameters, *, device, progress):
    """Train the given points.

    Args:
        points: rows of `points`.
        parameters: section ``practice`` of the configuration.
        device: `torch.device`.
        progress: called with the steps done since the last call.

    Returns:
        ``(table, details)``: see `ctadam.training.train`, and a column ``token``, the word whose row holds the largest
        update (empty if it is no word's); for the provenance the text's sha256, how many words there are and how many
        of them are distinct, how many runs were trained at a time, and how many weights the model
        has.
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


def cost(points):
    """Units of work in these points, for the progress line: optimizer steps."""
    return int(points["steps"].sum()), "step"
