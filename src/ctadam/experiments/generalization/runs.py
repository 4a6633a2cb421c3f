"""Does a larger C generalize faster? (paper, section 3: an observation) Test losses over the pairs of betas.

Two tasks, a small language model and a network on images of digits, each trained with every pair and every learning rate:
one learning rate is the same for all (``fixed``), and the others allow to choose the best for each pair. The pairs lie on

- ``normal``: the normal curve, from the stable end, across the boundary;
- ``level``: level curves of C, along which the paper expects little;
- ``usual``: the pairs people use, the one that the normal curve goes through first.

Only the steps with a test loss are kept.
"""

import numpy as np
import pandas as pd

from ctadam.data.digits import load_digits
from ctadam.data.text import load_corpus
from ctadam.errors import ArtifactError
from ctadam.models.mlp import MLP
from ctadam.theory.stability import level_curve, normal_curve_points
from ctadam.training import chunk_size, classification, language, train

#: Columns of the raw table that are the trainer's.
RECORDS = ["step", "test_loss", "train_loss", "update_max", "diverged_at"]


def _pairs(parameters):
    """Every pair once: ``curve``, ``level`` (its C on a level curve, else NaN), ``point`` along it, ``beta1``, ``beta2``."""
    beta1, beta2 = normal_curve_points(count=parameters["points"], through=parameters["through"])
    parts = [pd.DataFrame({"curve": "normal", "level": np.nan, "beta1": beta1, "beta2": beta2})]
    levels = parameters["levels"]
    beta2 = np.linspace(*levels["beta2"], levels["points"])
    for coefficient in levels["coefficients"]:
        beta1 = level_curve(coefficient=coefficient, beta2=beta2)
        if np.isnan(beta1).any():
            raise ArtifactError(
                f"generalization.levels: C = {coefficient:g} is not to be had with beta2 = {levels['beta2']}"
            )
        parts.append(pd.DataFrame({"curve": "level", "level": float(coefficient), "beta1": beta1, "beta2": beta2}))
    parts.append(pd.DataFrame([parameters["through"], *parameters["pairs"]]).assign(curve="usual", level=np.nan))
    return pd.concat([part.assign(point=range(len(part))) for part in parts], ignore_index=True)


def points(parameters):
    """The table of runs: a row a run, with the columns of `ctadam.training.train` and

    - ``task``: ``text`` or ``images``;
    - ``curve``, ``level``, ``point``: see the module; index along the curve from its stable end or its smaller β;
    - ``fixed``: whether ``lr`` is the one that is the same for all pairs.
    """
    parts = []
    for task in ("text", "images"):
        settings = parameters[task]
        if settings["lr"] not in settings["lrs"]:
            raise ArtifactError(f"generalization.{task}.lr: {settings['lr']:g} is not among generalization.{task}.lrs")
        part = _pairs(parameters).assign(task=task, steps=settings["steps"])
        part = part.merge(pd.DataFrame({"lr": settings["lrs"]}), how="cross")
        parts.append(part.assign(fixed=part["lr"] == settings["lr"]))
    table = pd.concat(parts, ignore_index=True).merge(pd.DataFrame({"seed": parameters["seeds"]}), how="cross")
    table = table.assign(weight_decay=0.0, eps=parameters["eps"], state_dtype="float32")
    table.insert(0, "run", range(len(table)))
    return table


def _text(settings, device):
    corpus = load_corpus(
        settings["text"],
        tokenization=settings["tokens"],
        test_fraction=settings["test_fraction"],
        context=settings["model"]["context"],
    )
    task = language(
        corpus, **settings["model"], **{x: settings[x] for x in ("batch", "test_batches", "test_every")}, device=device
    )
    return task, {settings["text"]: corpus.sha256}


def _images(settings, device):
    digits = load_digits()
    cut = len(digits.labels) - int(len(digits.labels) * settings["test_fraction"])
    images, labels = digits.images.float(), digits.labels
    task = classification(
        (images[:cut], labels[:cut]),
        (images[cut:], labels[cut:]),
        build=lambda generator: MLP(features=images.shape[1], classes=10, **settings["model"], generator=generator),
        batch=settings["batch"],
        test_every=settings["test_every"],
        device=device,
    )
    return task, {"digits": digits.sha256}


def run(points, parameters, *, device, progress):
    """Train the given points.

    Args:
        points: rows of `points`.
        parameters: section ``generalization`` of the configuration.
        device: `torch.device`.
        progress: called with the steps done since the last call.

    Returns:
        ``(table, details)``: the points' columns and `RECORDS` (see `ctadam.training.train`) at every step with a test
        loss, and at the step at which a run diverged; for the provenance the sha256 of the data, and how many runs were
        trained at a time and how many weights each model has.
    """
    tables, details = [], {"data": {}, "chunks": {}, "weights": {}}
    for name, group in points.groupby("task", sort=False):
        task, data = {"text": _text, "images": _images}[name](parameters[name], device)
        details["data"] |= data
        details["weights"][name] = task.weights
        details["chunks"][name] = chunk = chunk_size(task, device)
        table = train(group, task=task, device=device, chunk=chunk, progress=progress)
        kept = table["test_loss"].notna() | (table["step"] == table["diverged_at"])
        tables.append(table.loc[kept, [*(c for c in points if c != "steps"), *RECORDS]])
    return pd.concat(tables, ignore_index=True).sort_values(["run", "step"], kind="stable", ignore_index=True), details


def cost(points):
    """Units of work in these points, for the progress line: optimizer steps."""
    return int(points["steps"].sum()), "step"
