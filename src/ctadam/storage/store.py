"""Read raw runs and derived tables, and check them against their records.

Raw runs are ``<results>/<experiment>/shard-<i>-of-<n>.parquet``, each with its provenance beside it. Derived tables have a
record of what they were made from. Every later stage reads through this module, so none works on incomplete or damaged runs,
or on a table that was edited or belongs to other runs. In a shipped directory the manifest is checked too.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctadam.errors import ArtifactError
from ctadam.storage.manifest import MANIFEST, read_manifest, repair_hint, runs_directory
from ctadam.storage.provenance import provenance_path, read_provenance, sha256
from ctadam.storage.tables import sort_rows

#: The derived tables of an experiment and the commands that make them.
DERIVED = {"predictions": "predict", "measurements": "measure"}
#: Columns that identify a row of a raw table, as far as it has them.
ROW_KEYS = ("run", "step", "record", "optimizer", "weight", "lag")
_SHARD = re.compile(r"shard-(\d+)-of-(\d+)\.parquet")


def _run_command(results: str | Path, experiment: str) -> str:
    return f"`ctadam run {experiment} --out {results}`"


def shard_path(directory: str | Path, shard: int, shards: int) -> Path:
    """Return the path of one shard's table; shards are counted from 1."""
    return Path(directory) / f"shard-{shard}-of-{shards}.parquet"


def shard_paths(results: str | Path, experiment: str) -> list[Path]:
    """Return the paths of all shards of an experiment.

    Raises:
        ArtifactError: if there are none, one is missing, or shards of different divisions are mixed.
    """
    directory = runs_directory(results) / experiment
    by_division: dict[int, dict[int, Path]] = {}
    for path in directory.glob("shard-*.parquet"):
        match = _SHARD.fullmatch(path.name)
        if match:
            by_division.setdefault(int(match[2]), {})[int(match[1])] = path
    if not by_division:
        raise ArtifactError(
            f"no runs in {directory}: {repair_hint(directory, f'make them with {_run_command(results, experiment)}')}"
        )
    if len(by_division) > 1:
        divisions = ", ".join(map(str, sorted(by_division)))
        raise ArtifactError(f"{directory} holds shards of several divisions ({divisions}): delete all but one of them")
    shards, paths = by_division.popitem()
    missing = [i for i in range(1, shards + 1) if i not in paths]
    if missing:
        path = shard_path(directory, missing[0], shards)
        raise ArtifactError(f"{path} is missing: {repair_hint(path, f'run {_run_command(results, experiment)} again')}")
    return [paths[i] for i in range(1, shards + 1)]


def checked_shards(results: str | Path, experiment: str) -> dict[Path, dict[str, Any]]:
    """Return ``{path: provenance}`` of an experiment's shards after checking their bytes.

    Raises:
        ArtifactError: if a shard is missing, differs from its provenance or the manifest, belongs to another place, or was
            made with other parameters than the first shard.
    """
    results = runs_directory(results)
    manifest = read_manifest(results) if (results / MANIFEST).exists() else None
    records: dict[Path, dict[str, Any]] = {}
    for path in shard_paths(results, experiment):
        record = _checked_record(path, "provenance", repair_hint(provenance_path(path)), repair_hint(path))
        if manifest is not None:
            check_listed(results, path, manifest, record["sha256"])
            check_listed(results, provenance_path(path), manifest)
        # A renamed or copied file would be read as other runs than it holds.
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


def _checked_record(path: Path, what: str, unreadable: str, other: str) -> dict[str, Any]:
    """Return the record beside a table after comparing its sha256 with the table's.

    Args:
        path: the table.
        what: what the record is called in messages.
        unreadable: advice if the record cannot be read.
        other: advice if the sha256 differs.
    """
    try:
        record = read_provenance(path)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {unreadable}") from error
    if record["sha256"] != sha256(path):
        raise ArtifactError(f"{path} is damaged or was edited: its sha256 is not the one in its {what}; {other}")
    return record


def check_listed(results: Path, path: Path, manifest: Mapping[str, str], digest: str | None = None) -> None:
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


def read_runs(results: str | Path, experiment: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return all runs of an experiment, sorted by `ROW_KEYS`.

    Args:
        results: directory of one scale, such as ``results/cached/laptop``.
        experiment: name of the experiment.
        columns: columns to read; all if None.

    Raises:
        ArtifactError: if a shard is missing, damaged or mixed, a column is missing, or two rows have the same keys.
    """
    tables: list[pd.DataFrame] = []
    known: list[str] = []
    for path in checked_shards(results, experiment):
        try:
            names = pq.read_schema(path).names
            # `concat` would silently fill a column that some shards lack.
            known = known or names
            missing = (set(known) | set(columns or ())) - set(names)
            if missing:
                raise ArtifactError(
                    f"{path} lacks the column(s) {', '.join(sorted(missing))}: it was made by other code; {repair_hint(path)}"
                )
            if len(names) > len(known):
                raise ArtifactError(
                    f"{path} has column(s) that other shards lack ({', '.join(sorted(set(names) - set(known)))}): the "
                    f"shards were made by different code; {repair_hint(path)}"
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


def without_lists(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with lists (such as several pairs of betas) as text, so that they can be compared and counted."""

    def text(value: Any) -> str:
        return value if isinstance(value, str) or not hasattr(value, "__len__") else repr([float(x) for x in value])

    lists = [str(name) for name, values in table.items() if pd.api.types.is_object_dtype(values)]
    return table.assign(**{name: table[name].map(text) for name in lists})


def sources(results: str | Path, experiment: str, *tables: str) -> dict[str, str]:
    """Return ``{name: sha256}`` of an experiment's raw runs and of the named derived tables, after checking all of them."""
    results = Path(results)
    raw = {
        f"{experiment}/{path.name}": record["sha256"] for path, record in checked_shards(results, experiment).items()
    }
    derived = {}
    for table in tables:
        name = f"{experiment}/{table}.csv"
        derived[name] = check_derived(results / name, raw, _derive_command(results, experiment, table))
    return raw | derived


def _derive_command(results: str | Path, experiment: str, table: str) -> str:
    return f"`ctadam {DERIVED[table]} {experiment} {results}`"


def check_derived(path: str | Path, made_from: Mapping[str, str], how: str) -> str:
    """Return the sha256 of a derived table after comparing it with its record, and the record with the current sources.

    Args:
        path: the table.
        made_from: ``{name: sha256}`` of the current sources.
        how: the command that makes the table, for messages.

    Raises:
        ArtifactError: if the table is missing, was edited, or was made from other sources.
    """
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path} is missing: {repair_hint(path, f'make it with {how}')}")
    again = repair_hint(path, f"make it again with {how}")
    record = _checked_record(path, "record", again, again)
    if record.get("made_from") != made_from:
        raise ArtifactError(f"{path} was made from other tables than those beside it: {again}")
    return record["sha256"]


def read_csv(results: str | Path, experiment: str, name: str) -> pd.DataFrame:
    """Return a derived table (``predictions`` or ``measurements``) of an experiment.

    Raises:
        ArtifactError: if it is missing, was edited or was made from other runs, or if the runs are damaged.
    """
    path = Path(results) / experiment / f"{name}.csv"
    check_derived(path, sources(results, experiment), _derive_command(results, experiment, name))
    return pd.read_csv(path)


def read_joined(results: str | Path, experiment: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
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
