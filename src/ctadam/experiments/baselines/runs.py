"""2-Adam against tuned baselines, on images and on text (reviewers' questions on the paper's k-Adam).

Every contender is run with every learning rate and weight decay of one grid and with the same seeds. Weight decay is
decoupled for all. The contenders are 2-Adam with each strategy, the variant whose second normalization sees the unsmoothed
update, and those of torch's optimizers that are elementwise, step by step and not bound to full batches: not Adafactor
and Muon (they look at a whole matrix), Rprop (full batches), LBFGS (needs closures), ASGD (an average of SGD's iterates) and
Adadelta (Adagrad's and RMSprop's neighbour, without a learning rate of its own).
"""

import math

import pandas as pd

from ctadam.data.images import load_images
from ctadam.data.text import load_corpus
from ctadam.experiments.k_sweep.runs import RECORDS, thin
from ctadam.training import chunk_size, images, language, train

#: Contender -> what it changes in a point.
CONTENDERS = {
    "2-Adam inverse-exp": {"family": "2-Adam", "k": 2, "stages": "inverse-exp"},
    "2-Adam uniform": {"family": "2-Adam", "k": 2, "stages": "uniform"},
    "2-Adam exp": {"family": "2-Adam", "k": 2, "stages": "exp"},
    "2-Adam naive": {"family": "2-Adam", "k": 2, "stages": "naive"},
    "2-Adam unsmoothed": {"optimizer": "unsmoothed"},
    "AdamW": {"optimizer": "adamw"},
    "NAdam": {"optimizer": "nadam"},
    "RAdam": {"optimizer": "radam"},
    "Adamax": {"optimizer": "adamax"},
    "RMSprop": {"optimizer": "rmsprop", "beta2": 0.99},  # torch's own default
    "Adagrad": {"optimizer": "adagrad", "eps": 1e-10},  # likewise
    "SGD, momentum": {"optimizer": "sgd"},
}


def points(parameters):
    """The table of runs: a row a run, with the columns of `ctadam.training.train` and ``task`` (``images`` or ``text``),
    ``contender`` (key of `CONTENDERS`) and ``family`` (contenders of one family are one optimizer with several settings).

    Sorted so that shards get whole contenders: only runs of one optimizer are trained together.
    """
    base = {name: parameters[name] for name in ("beta1", "beta2", "eps")}
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


def _task(name, parameters, device):
    """``(task, test result of a guess, provenance of the data)``."""
    every = {"test_every": parameters["test_every"], "device": device}
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


def run(points, parameters, *, device, progress):
    """Train the given points.

    Args:
        points: rows of `points`.
        parameters: section ``baselines`` of the configuration.
        device: `torch.device`.
        progress: called with the steps done since the last call.

    Returns:
        ``(table, details)``: the points with `ctadam.experiments.k_sweep.runs.RECORDS` at the steps with a test (``test_score``:
        accuracy, for images only), and ``guess``: accuracy of always naming the commonest class, or loss of the uniform
        guess over the vocabulary; for the provenance the data's sha256, how many runs were trained at
        a time, and how many weights each model has.
    """
    tables, details = [], {"data": {}, "chunks": {}, "weights": {}}
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


def cost(points):
    """Units of work in these points, for the progress line: optimizer steps."""
    return int(points["steps"].sum()), "step"
