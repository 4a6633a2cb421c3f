"""Raw runs on disk: ``<results>/<experiment>/shard-<i>-of-<n>.parquet``, each with its provenance beside it.

Every later stage reads runs through here, so that no stage works on half of them or on damaged ones.
"""

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ctadam.errors import ArtifactError
from ctadam.provenance import read_provenance, sha256

_SHARD = re.compile(r"shard-(\d+)-of-(\d+)\.parquet")


def shard_path(directory, shard, shards):
    """Path of one shard's table, shards counted from 1."""
    return Path(directory) / f"shard-{shard}-of-{shards}.parquet"


def shard_paths(results, experiment):
    """The shards of one experiment, all there.

    Raises:
        ArtifactError: there is none, one is missing, or shards of different divisions lie together.
    """
    directory = Path(results) / experiment
    found = {}
    for path in directory.glob("shard-*.parquet"):
        match = _SHARD.fullmatch(path.name)
        if match:
            found.setdefault(int(match[2]), {})[int(match[1])] = path
    if not found:
        raise ArtifactError(f"no runs in {directory}: make them with `ctadam run {experiment} --out {results}`")
    if len(found) > 1:
        divisions = ", ".join(map(str, sorted(found)))
        raise ArtifactError(f"{directory} holds shards of several divisions ({divisions}): delete all but one of them")
    shards, paths = found.popitem()
    missing = [i for i in range(1, shards + 1) if i not in paths]
    if missing:
        raise ArtifactError(
            f"{shard_path(directory, missing[0], shards)} is missing: run `ctadam run {experiment} --out {results}` again"
        )
    return [paths[i] for i in range(1, shards + 1)]


def read_runs(results, experiment, columns=None):
    """All runs of one experiment, sorted by run.

    Args:
        results: directory of one scale, such as ``results/cached/laptop``.
        experiment: its name.
        columns: the columns wanted; all if None.

    Raises:
        ArtifactError: missing, damaged or mixed shards, or a table without a wanted column.
    """
    tables = []
    for path in shard_paths(results, experiment):
        recorded = read_provenance(path).get("sha256")
        if recorded != sha256(path):
            raise ArtifactError(f"{path} is damaged or was edited: its sha256 is not the one in its provenance")
        lacking = set(columns or ()) - set(pq.read_schema(path).names)
        if lacking:
            raise ArtifactError(f"{path} lacks the column(s) {', '.join(sorted(lacking))}: it was made by other code")
        tables.append(pd.read_parquet(path, columns=columns))
    table = pd.concat(tables, ignore_index=True)
    keys = [key for key in ("run", "step") if key in table]
    return table.sort_values(keys, ignore_index=True)


def read_csv(results, experiment, name):
    """A derived table (``predictions`` or ``measurements``) of one experiment."""
    path = Path(results) / experiment / f"{name}.csv"
    try:
        return pd.read_csv(path)
    except OSError as error:
        verb = {"predictions": "predict", "measurements": "measure"}[name]
        raise ArtifactError(f"{path} is missing: make it with `ctadam {verb} {experiment} {results}`") from error
