"""Raw runs on disk: ``<results>/<experiment>/shard-<i>-of-<n>.parquet``, each with its provenance beside it; and the tables
derived from them, each with a record of what it was made from.

Every later stage reads through here, so that no stage works on half of the runs, on damaged ones, or on a table that was
edited or belongs to other runs. In a shipped directory the manifest is asked too.
"""

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctadam.errors import ArtifactError
from ctadam.storage.manifest import MANIFEST, read_manifest, repair_hint, runs_directory
from ctadam.storage.provenance import provenance_path, read_provenance, sha256
from ctadam.storage.tables import sort_rows

#: Derived tables of an experiment, and the commands that make them.
DERIVED = {"predictions": "predict", "measurements": "measure"}
#: What identifies a row of a raw table: those of these columns that it has.
ROW_KEYS = ("run", "step", "record", "optimizer", "weight", "lag")
_SHARD = re.compile(r"shard-(\d+)-of-(\d+)\.parquet")


def _run(results, experiment):
    return f"`ctadam run {experiment} --out {results}`"


def shard_path(directory, shard, shards):
    """Path of one shard's table, shards counted from 1."""
    return Path(directory) / f"shard-{shard}-of-{shards}.parquet"


def shard_paths(results, experiment):
    """The shards of one experiment, all there.

    Raises:
        ArtifactError: there is none, one is missing, or shards of different divisions lie together.
    """
    directory = runs_directory(results) / experiment
    found = {}
    for path in directory.glob("shard-*.parquet"):
        match = _SHARD.fullmatch(path.name)
        if match:
            found.setdefault(int(match[2]), {})[int(match[1])] = path
    if not found:
        raise ArtifactError(
            f"no runs in {directory}: {repair_hint(directory, f'make them with {_run(results, experiment)}')}"
        )
    if len(found) > 1:
        divisions = ", ".join(map(str, sorted(found)))
        raise ArtifactError(f"{directory} holds shards of several divisions ({divisions}): delete all but one of them")
    shards, paths = found.popitem()
    missing = [i for i in range(1, shards + 1) if i not in paths]
    if missing:
        path = shard_path(directory, missing[0], shards)
        raise ArtifactError(f"{path} is missing: {repair_hint(path, f'run {_run(results, experiment)} again')}")
    return [paths[i] for i in range(1, shards + 1)]


def checked_shards(results, experiment):
    """``{path: provenance}`` of an experiment's shards, after all that can be wrong with their bytes was looked at.

    Raises:
        ArtifactError: a shard is missing, is not what its provenance or the manifest speaks of, was made for another
            place, or with other parameters than its neighbours.
    """
    results = runs_directory(results)
    manifest = read_manifest(results) if (results / MANIFEST).exists() else None
    records = {}
    for path in shard_paths(results, experiment):
        record = _checked_record(path, "provenance", repair_hint(provenance_path(path)), repair_hint(path))
        if manifest is not None:
            check_listed(results, path, manifest, record["sha256"])
            check_listed(results, provenance_path(path), manifest)
        # A file that was renamed or copied from elsewhere would be read as runs that it does not hold.
        for key, value in (("file", path.name), ("experiment", experiment)):
            if record.get(key, value) != value:
                raise ArtifactError(
                    f"{path} is out of place: its provenance says {key} {record[key]!r}; {repair_hint(path)}"
                )
        first = next(iter(records.values()), record)
        if record.get("parameters") != first.get("parameters"):
            raise ArtifactError(
                f"{path} and {next(iter(records)).name} were made with different parameters: {repair_hint(path)}"
            )
        records[path] = record
    return records


def _checked_record(path, what, unreadable, other):
    """The record beside a table, whose sha256 is the table's; the last two say what to do if it cannot be read, or is not."""
    try:
        record = read_provenance(path)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {unreadable}") from error
    if record["sha256"] != sha256(path):
        raise ArtifactError(f"{path} is damaged or was edited: its sha256 is not the one in its {what}; {other}")
    return record


def check_listed(results, path, manifest, digest=None):
    """Raise an `ArtifactError` if a file is not the one in the manifest; ``digest`` is its sha256 where that is known."""
    name = path.relative_to(results).as_posix()
    if name not in manifest:
        raise ArtifactError(f"{path} is not in {results / MANIFEST}: delete it, or ship it with `ctadam promote`")
    if not path.exists():
        raise ArtifactError(f"{path} is missing: {repair_hint(path)}")
    if manifest[name] != (digest or sha256(path)):
        raise ArtifactError(
            f"{path} is not the file that was shipped: its sha256 is not the one in {MANIFEST}; {repair_hint(path)}"
        )


def read_runs(results, experiment, columns=None):
    """All runs of one experiment, sorted by `ROW_KEYS`.

    Args:
        results: directory of one scale, such as ``results/cached/laptop``.
        experiment: its name.
        columns: the columns wanted; all if None.

    Raises:
        ArtifactError: missing, damaged or mixed shards, a table without a wanted column, or two rows with the same keys.
    """
    tables, known = [], None
    for path in checked_shards(results, experiment):
        try:
            names = pq.read_schema(path).names
            # Laid one under the other, a column that only some have would be empty for the rest, and nobody would see it.
            known = known or names
            lacking = (set(known) | set(columns or ())) - set(names)
            if lacking:
                raise ArtifactError(
                    f"{path} lacks the column(s) {', '.join(sorted(lacking))}: it was made by other code; {repair_hint(path)}"
                )
            if len(names) > len(known):
                raise ArtifactError(
                    f"{path} has column(s) that other shards lack ({', '.join(sorted(set(names) - set(known)))}): they "
                    f"were made by different code; {repair_hint(path)}"
                )
            keys = [key for key in ROW_KEYS if key in names]
            tables.append(
                pd.read_parquet(
                    path, columns=None if columns is None else list({**dict.fromkeys(columns), **dict.fromkeys(keys)})
                )
            )
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}; {repair_hint(path)}") from error
    try:
        table = sort_rows(pd.concat(tables, ignore_index=True), keys)
    except ValueError as error:
        raise ArtifactError(f"runs of {experiment} in {results} overlap: {error}; run it again") from error
    return table if columns is None else table[list(columns)]


def without_lists(table):
    """The table with its lists (columns of several pairs of betas, say) as text, so that they can be compared and counted."""

    def text(value):
        return value if isinstance(value, str) or not hasattr(value, "__len__") else repr([float(x) for x in value])

    lists = [name for name, values in table.items() if pd.api.types.is_object_dtype(values)]
    return table.assign(**{name: table[name].map(text) for name in lists})


def sources(results, experiment, *tables):
    """``{name: sha256}`` of an experiment's raw runs and of those of its derived tables that are named, all checked."""
    results = Path(results)
    raw = {
        f"{experiment}/{path.name}": record["sha256"] for path, record in checked_shards(results, experiment).items()
    }
    found = dict(raw)
    for table in tables:
        name = f"{experiment}/{table}.csv"
        found[name] = check_derived(results / name, raw, _how(results, experiment, table))
    return found


def _how(results, experiment, table):
    return f"`ctadam {DERIVED[table]} {experiment} {results}`"


def check_derived(path, made_from, how):
    """The sha256 of a derived table, after it was compared with its record, and the record with what is there now.

    Args:
        path: the table.
        made_from: ``{name: sha256}`` as it should be.
        how: the command that makes the table.

    Raises:
        ArtifactError: it is missing, was edited, or was made from something else.
    """
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path} is missing: {repair_hint(path, f'make it with {how}')}")
    again = repair_hint(path, f"make it again with {how}")
    record = _checked_record(path, "record", again, again)
    if record.get("made_from") != made_from:
        raise ArtifactError(f"{path} was made from other tables than those beside it: {again}")
    return record["sha256"]


def read_csv(results, experiment, name):
    """A derived table (``predictions`` or ``measurements``) of one experiment.

    Raises:
        ArtifactError: it is missing, was edited, or was made from other runs; or the runs are damaged.
    """
    path = Path(results) / experiment / f"{name}.csv"
    check_derived(path, sources(results, experiment), _how(results, experiment, name))
    return pd.read_csv(path)


def read_joined(results, experiment, table=None):
    """Return the measurements, or another table of an experiment's runs, with the predictions for the same runs beside them.

    Raises:
        ArtifactError: as `read_csv`; or there is a run that nothing is predicted for.
    """
    predictions = read_csv(results, experiment, "predictions")
    table = read_csv(results, experiment, "measurements") if table is None else table
    # Where many runs share a prediction there is one row for all of them.
    keys = ["run"] if "run" in predictions else [name for name in predictions if name in table]
    only = [name for name in predictions if name in keys or name not in table]
    table = table.merge(predictions[only], on=keys, how="left", validate="many_to_one", indicator="of")
    if (table["of"] != "both").any():
        raise ArtifactError(f"{results}: runs of {experiment} that nothing is predicted for: run predict again")
    return table.drop(columns="of")
