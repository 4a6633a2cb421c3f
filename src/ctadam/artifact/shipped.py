"""What is shipped, and where it came from: for ``ctadam results``, the README's table of figures and the report."""

from pathlib import Path

import pandas as pd

from ctadam.artifact.figures import FIGURES
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.manifest import MANIFEST, runs_directory
from ctadam.storage.provenance import provenance_path
from ctadam.storage.store import DERIVED, checked_shards, read_runs, without_lists

COLUMNS = ["experiment", "scale", "runs", "rows", "device", "date", "commit", "seconds", "bytes", "claims"]


def experiments(directory):
    """Experiments with raw runs in a directory of one scale, in the order of the paper."""
    return [name for name in EXPERIMENTS if any((runs_directory(directory) / name).glob("shard-*.parquet"))]


def _common(records, key):
    """The one value of a key in all provenances, or all of its values."""
    return ", ".join(dict.fromkeys(str(record.get(key)) for record in records))


def describe(directory, experiment):
    """One row of `overview`."""
    # Not at the top: what asks for no claims should not wait for scipy.
    from ctadam.artifact.ledger import CLAIMS

    shards = checked_shards(directory, experiment)
    records = list(shards.values())
    runs = pd.concat([pd.read_parquet(path, columns=["run"]) for path in shards])["run"]
    return {
        "experiment": experiment,
        "scale": _common(records, "scale"),
        "runs": runs.nunique(),
        "rows": len(runs),
        "device": _common(records, "device"),
        "date": max(record["started"] for record in records)[:10],
        "commit": ", ".join(dict.fromkeys(_short(record.get("commit")) for record in records)),
        "seconds": sum(record["wall_s"] for record in records),
        "bytes": sum(p.stat().st_size for path in shards for p in (path, provenance_path(path))),
        "claims": " ".join(claim.id for claim in CLAIMS if claim.experiment == experiment),
    }


def _short(commit):
    if not commit:
        return "unknown"
    digest, dirty, _ = commit.partition("-dirty")
    return digest[:9] + dirty


def overview(directories):
    """A row an experiment of each directory, with `COLUMNS`: ``seconds`` on one device, summed over the shards; ``bytes``
    of raw runs and provenance."""
    return pd.DataFrame(
        [describe(directory, name) for directory in directories for name in experiments(directory)], columns=COLUMNS
    )


def directories(cached):
    """Directories of the scales that are shipped."""
    return sorted(path.parent for path in Path(cached).glob(f"*/{MANIFEST}"))


def duration(seconds):
    """A time for people."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count):
    """A number of bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def listing(cached, scale=None):
    """What is shipped, of all scales or of one, as a table for a terminal.

    Raises:
        ArtifactError: nothing is, or something of it is damaged.
    """
    found = directories(cached)
    if not found:
        raise ArtifactError(f"no shipped results in {cached}")
    if scale is not None:
        known = [directory.name for directory in found]
        if scale not in known:
            raise ArtifactError(
                f"{scale!r} is not SCALE/EXPERIMENT, such as laptop/growth, nor a scale with shipped results "
                f"(there are: {', '.join(known)})"
            )
        found = [directory for directory in found if directory.name == scale]
    table = overview(found)
    shown = table.assign(seconds=table["seconds"].map(duration), bytes=table["bytes"].map(size))
    shown = shown.rename(columns={"seconds": "time", "bytes": "size"})
    total = f"{len(table)} sets of runs, {table['runs'].sum():,} runs, {size(table['bytes'].sum())}"
    return f"{aligned(shown)}\n{total}; more of one: ctadam results SCALE/EXPERIMENT"


def aligned(table):
    """A table for a terminal: columns of text, two spaces apart."""
    rows = [list(table.columns), *table.astype(str).to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def details(cached, scale, experiment):
    """Provenance and summary of one experiment's shipped runs, as text.

    Raises:
        ArtifactError: it is not shipped, or damaged.
    """
    import yaml

    directory = Path(cached) / scale
    if directory not in directories(cached) or experiment not in experiments(directory):
        have = [f"{d.name}/{name}" for d in directories(cached) for name in experiments(d)]
        raise ArtifactError(f"no shipped runs {scale}/{experiment} (there are: {', '.join(have) or 'none'})")
    row = describe(directory, experiment)
    shards = checked_shards(directory, experiment)
    records = list(shards.values())
    packages = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record["packages"].items()) for record in records
    )
    data = {name: digest for record in records for name, digest in record["data"].items()}
    lines = [
        f"{scale}/{experiment}: {row['runs']:,} runs, {row['rows']:,} rows, {size(row['bytes'])}",
        f"claims      {row['claims'] or 'none'}",
        f"figures     {' '.join(f for f, needs in FIGURES.items() if experiment in needs) or 'none'}",
        f"device      {row['device']}",
        f"run         {row['date']}, {duration(row['seconds'])}",
        f"commit      {_common(records, 'commit')}",
        f"code        {_common(records, 'code')}",
        f"platform    {_common(records, 'platform')}, Python {_common(records, 'python')}",
        f"packages    {'; '.join(packages)}",
        *(f"data        {name}, sha256 {digest}" for name, digest in data.items()),
        "parameters  (the same in all shards)",
        *("  " + line for line in yaml.safe_dump(records[0]["parameters"], sort_keys=False, width=100).splitlines()),
        "files",
        *(
            f"  {path.name}  {size(path.stat().st_size)}  {record['rows']:,} rows  {duration(record['wall_s'])}"
            f"  sha256 {record['sha256']}"
            for path, record in shards.items()
        ),
        *(f"  {name}.csv" for name in DERIVED if (directory / experiment / f"{name}.csv").exists()),
        "columns     (meaning: results/README.md)",
        *("  " + line for line in aligned(_summary(without_lists(read_runs(directory, experiment)))).splitlines()),
    ]
    return "\n".join(lines)


def _summary(runs):
    """A row a column: type, how many values it has and lacks, and its range or first values."""
    rows = []
    for name, values in runs.items():
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            spread = f"{values.min():.6g} to {values.max():.6g}" if values.notna().any() else ""
        else:
            known = values.dropna().unique()
            spread = ", ".join(map(str, known[:4])) + (", …" if len(known) > 4 else "")
        rows.append((name, values.dtype, values.nunique(), int(values.isna().sum()), spread))
    return pd.DataFrame(rows, columns=["column", "type", "distinct", "empty", "values"])
