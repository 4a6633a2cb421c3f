"""k-Adam at work: a convolutional network with k = 1, 2, … and four strategies for the stages (paper, k-Adam).

Every run is made twice, with and without normalization layers in the network: they make weights scale-invariant, which is
already a second normalization under Adam (paper, on normalization layers), so a second stage might help less where they
are. The pairs that claim K1 compares, k = 1 and k = 2, have more seeds than the rest.
"""

import pandas as pd

from ctadam.data.images import load_images
from ctadam.errors import ArtifactError
from ctadam.optim import stage_betas
from ctadam.training import chunk_size, images, train

#: Columns that are kept of the trainer's table, beside the points.
RECORDS = ["step", "update_max", "param_norm", "train_loss", "test_loss", "test_score", "diverged_at"]
#: Up to this k a point has the seeds of claim K1.
PAIR = 2


def points(parameters):
    """The table of runs: a row a run, with the columns of `ctadam.training.train` and

    - ``norm``: whether the network has normalization layers;
    - ``k``, ``stages``: how many stages, and the strategy (``naive`` at k = 1, where all strategies are the same);
    - ``last_beta1``, ``last_beta2``: the pair of the last stage.

    Sorted so that shards get whole strategies: only runs with one k are trained together.

    Raises:
        ArtifactError: k = 1 or k = 2 is missing.
    """
    if not {1, PAIR} <= set(parameters["ks"]):
        raise ArtifactError(
            f"k_sweep.ks: {parameters['ks']} lacks 1 or {PAIR}, which are what the others are held against"
        )
    pair = (float(parameters["beta1"]), float(parameters["beta2"]))  # YAML gives 0 as an integer
    rows = [
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


def thin(table):
    """The rows with a test loss, and the last of a run that diverged."""
    return table[table["test_loss"].notna() | (table["step"] == table["diverged_at"])]


def run(points, parameters, *, device, progress):
    """Train the given points.

    Args:
        points: rows of `points`.
        parameters: section ``stages`` of the configuration.
        device: `torch.device`.
        progress: called with the steps done since the last call.

    Returns:
        ``(table, details)``: the points with `RECORDS` (``test_score`` is the test accuracy) at the steps with a test, and
        ``guess``, the accuracy of always naming the commonest class; for the provenance the sha256 of the images, how many
        there are, how many runs were trained at a time, and how many weights each model has.
    """
    data = load_images(**parameters["images"])
    tables, chunks, weights = [], {}, {}
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


def cost(points):
    """Units of work in these points, for the progress line: optimizer steps."""
    return int(points["steps"].sum()), "step"
