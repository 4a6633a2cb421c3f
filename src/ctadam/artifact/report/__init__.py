"""Render results as text (ledger and lists for the terminal, the README's table) and, in the modules here, as HTML pages."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from tabulate import tabulate

from ctadam.analysis.verdicts import Claim
from ctadam.artifact.figures import FIGURES, caption_title
from ctadam.artifact.ledger import (
    CLAIMS,
    IN_PART,
    INCONCLUSIVE,
    REPRODUCED,
    VERDICTS,
    by_level,
    check_ledger,
    ledger_path,
    levels_of,
    numbers_of,
    read_ledger,
)
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.manifest import MANIFEST, runs_directory
from ctadam.storage.provenance import provenance_path, write_atomically
from ctadam.storage.store import DERIVED, checked_shards, read_runs, without_lists

#: Lines that enclose the table in the README.
BEGIN, END = "<!-- figures: made by `ctadam docs` -->", "<!-- end of figures -->"
#: Text of an empty cell.
NOTHING = "—"
#: Who makes the claims of each source, in words.
SOURCES = {
    "P": "the paper's claims",
    "D": "derived for this artifact",
    "R": "questions of the paper's reviewers and of practice",
}
#: Who makes a single claim of each source.
SOURCE = {"P": "the paper", "D": "derived here", "R": "the paper's reviewers or practice"}
#: Statement that accompanies every count of verdicts.
ONLY_ABSTRACT = (
    "Only the abstract, the findings and the reviews of the paper were available, not its full text or settings. Models, "
    "sizes, k-Adam's four strategies and the rules are ours."
)
#: Scales from the one that decides a claim for the headline to the one that decides if none of them does.
HEADLINE_SCALES = ("paper", "desk", "laptop")
#: Number of levels above which a claim's levels are summarized.
_MANY_LEVELS = 12


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Format a number of bytes in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def _aligned(table: pd.DataFrame) -> str:
    """Format a DataFrame for a terminal, one row per line."""
    # Pass the header as a row, because tabulate pads columns with a header by two spaces.
    return tabulate([list(table), *table.astype(str).to_numpy()], tablefmt="plain", disable_numparse=True)


def counts(ledger: pd.DataFrame) -> str:
    """Return the number of claims per verdict as text."""
    counts = ledger["verdict"].value_counts()
    texts = {verdict: f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts}
    # Levels that contradict a claim differ from undecided ones, too.
    nowhere = sum(row["verdict"] == IN_PART and holds(ledger, row["id"])[0] == 0 for _, row in ledger.iterrows())
    if nowhere:
        texts[IN_PART] += f" ({nowhere} of them at no level, with some undecided)"
    return ", ".join(texts.values())


def holds(ledger: pd.DataFrame, id: str) -> tuple[int, int]:
    """Return the number of levels at which a claim is reproduced, and the number of its levels."""
    verdicts = list(by_level(ledger[ledger["id"] == id]).values())
    return verdicts.count(REPRODUCED), len(verdicts)


def verdict_text(ledger: pd.DataFrame, id: str) -> str:
    """Return the verdict of one claim, with the number of levels per verdict where they differ."""
    rows = ledger[ledger["id"] == id]
    verdicts = list(by_level(rows).values())
    if rows["verdict"].iloc[0] != IN_PART:
        return str(rows["verdict"].iloc[0])
    counts = [f"{verdict} at {verdicts.count(verdict)}" for verdict in VERDICTS if verdict in verdicts]
    return f"{IN_PART}: {', '.join(counts)} of {len(verdicts)} levels"


def counts_by_source(ledger: pd.DataFrame) -> list[str]:
    """Return one line per source of claims with its number of claims per verdict."""
    groups = ((source, ledger[ledger["source"] == source]) for source in SOURCES)
    return [f"{SOURCES[source]} ({len(rows)}): {counts(rows)}" for source, rows in groups if len(rows)]


def number(value: float, form: str = ".3g") -> str:
    """Format a number, or return a dash if it is NaN."""
    return NOTHING if pd.isna(value) else f"{value:{form}}".replace("-", "−")


def with_interval(value: float, low: float, high: float, form: str = ".3g") -> str:
    """Format a number and its interval: ``value [low, high]``.

    Args:
        value: the estimate.
        low: lower end of its interval; NaN or infinite if there is none.
        high: upper end of its interval, likewise.
        form: format specification of all three.
    """
    text = number(value, form)
    if pd.isna(value) or (low == value and high == value):
        return text
    known = np.isfinite(low) and np.isfinite(high)
    return f"{text} [{number(low, form)}, {number(high, form)}]" if known else f"{text} (no interval)"


def _claim(id: str) -> Claim | None:
    """Return a registered claim. A ledger may hold a claim that this version no longer has."""
    return next((claim for claim in CLAIMS if claim.id == id), None)


def estimate_text(row: Mapping[Any, Any], form: str = ".3g") -> str:
    """Format the estimate of one row of `ctadam.artifact.ledger.levels_of`, with the reason if it is undecided.

    Args:
        row: the row as a dict.
        form: format specification of the numbers.
    """
    text = "" if pd.isna(row["estimate"]) else with_interval(row["estimate"], row["low"], row["high"], form)
    lost = f"no finite value in {row['lost']} run{'s' * (row['lost'] != 1)}" if row["lost"] else ""
    return "; ".join(part for part in (text, row["undecided"], lost) if part)


def level_lines(ledger: pd.DataFrame, id: str) -> list[tuple[str, str, str]]:
    """Return the levels of one claim as text.

    Args:
        ledger: ledger with this claim.
        id: id of the claim.

    Returns:
        List of ``(level and part, estimate, verdict)``. If there are many levels, they are summarized, one entry per verdict.
    """
    claim, levels = _claim(id), levels_of(ledger[ledger["id"] == id])
    form = claim.form if claim else ".3g"
    if len(levels) <= _MANY_LEVELS:
        return [
            (", ".join(filter(None, (row["level"], row["part"]))), estimate_text(row, form), row["verdict"])
            for row in levels.to_dict("records")
        ]
    verdicts = {name: verdict for (_, name), verdict in by_level(ledger[ledger["id"] == id]).items()}
    lines = []
    for verdict in (v for v in VERDICTS if v in verdicts.values()):
        names = [name for name, own in verdicts.items() if own == verdict]
        rows = levels[levels["level"].isin(names)]
        shown = ", ".join(f"({name})" if "," in name else name for name in names[:6]) + (
            ", …" if len(names) > 6 else ""
        )
        ranges = [
            f"{part} {number(values.min(), form)} to {number(values.max(), form)}".strip()
            for part, values in rows.groupby("part", sort=False)["estimate"]
            if values.notna().any()
        ]
        why = "" if verdict != INCONCLUSIVE else "; ".join(filter(None, dict.fromkeys(rows["undecided"])))
        lines.append(
            (f"{len(names)} of {len(verdicts)} levels: {shown}", "; ".join([*ranges, *filter(None, [why])]), verdict)
        )
    return lines


def number_lines(ledger: pd.DataFrame, id: str) -> list[str]:
    """Return the further numbers of one claim as text."""
    values = numbers_of(ledger[ledger["id"] == id])[id]
    forms = {
        name: ",.0f" if float(value).is_integer() and abs(value) < 1e7 else ".3g" for name, value in values.items()
    }
    return [f"{name}: {number(value, forms[name])}" for name, value in values.items()]


def target_text(id: str) -> str:
    """Return the targets of a claim as text."""
    claim = _claim(id)
    parts = {part: str(target) for part, target in claim.targets.items()} if claim else {}
    return "; ".join(f"{part} {target}".strip() for part, target in parts.items())


def ledger_text(ledger: pd.DataFrame) -> str:
    """Format a ledger for a terminal, with a few lines per claim.

    Args:
        ledger: from `ctadam.artifact.ledger.judge`, optionally with the columns of
            `ctadam.artifact.ledger.add_shipped_columns`.
    """
    shipped: dict[str, dict[str, str]] = {}
    if "shipped_levels" in ledger:
        known = ledger[ledger["shipped_levels"] != ""]
        known = known.assign(levels=known["shipped_levels"])
        shipped = {id: {name: text for name, text, _ in level_lines(known, id)} for id in known["id"]}
    lines: list[str] = []
    for row in ledger.to_dict("records"):
        before = f"   (shipped: {row['shipped_verdict']})" if row.get("shipped_verdict") else ""
        lines.append(f"{row['id']:<4} {row['verdict']:<13} [{row['source']}] {row['claim']}{before}")
        cells = []
        for name, text, verdict in level_lines(ledger, row["id"]):
            theirs = shipped.get(row["id"], {}).get(name)
            cells.append((name or "measured", text, verdict, f"shipped {theirs}" if theirs else ""))
        table = tabulate(cells, tablefmt="plain", disable_numparse=True)
        lines += [f"{'':18} {line}" for line in (f"target {target_text(row['id'])}", *table.splitlines())]
    total = f"{len(ledger)} claim{'s' * (len(ledger) != 1)}: {counts(ledger)}"
    data = ", ".join(dict.fromkeys(name for cell in ledger["data"] for name in cell.split(", ") if name))
    return "\n".join([*lines, total, *counts_by_source(ledger), f"data: {data or 'none'}", ONLY_ABSTRACT])


def experiments(directory: str | Path) -> list[str]:
    """Return the names of the experiments with raw runs in a directory of one scale."""
    return [name for name in EXPERIMENTS if any((runs_directory(directory) / name).glob("shard-*.parquet"))]


def directories(cached: str | Path) -> list[Path]:
    """Return the directories of the shipped scales, sorted by name."""
    return sorted(path.parent for path in Path(cached).glob(f"*/{MANIFEST}"))


def _common(records: Iterable[dict[str, Any]], key: str) -> str:
    """Return the distinct values of a key in provenance records, as text."""
    return ", ".join(dict.fromkeys(str(record.get(key)) for record in records))


def _short(commit: str | None) -> str:
    """Return the abbreviated hash of a commit, followed by ``-dirty`` if the checkout was."""
    digest, dirty, _ = (commit or "unknown").partition("-dirty")
    return digest[:9] + dirty


def seconds(record: Mapping[str, Any]) -> float:
    """Return the time that a shard took on one device: CPU time on a CPU where it was recorded, else wall time."""
    return float(record["wall_s"] if record["device"] != "cpu" else record.get("cpu_s", record["wall_s"]))


def describe(directory: str | Path, experiment: str) -> dict[str, Any]:
    """Return a summary of one experiment's runs.

    Args:
        directory: directory of one scale.
        experiment: name of the experiment.

    Returns:
        dict with one entry per column of `overview`. ``seconds`` is the run time on one device, summed over shards. ``bytes`` is
        the size of raw runs and provenance.

    Raises:
        ArtifactError: if the runs are missing or damaged.
    """
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
        "seconds": sum(seconds(record) for record in records),
        "bytes": sum(p.stat().st_size for path in shards for p in (path, provenance_path(path))),
        "claims": " ".join(claim.id for claim in CLAIMS if claim.experiment == experiment),
    }


def overview(directory: str | Path) -> pd.DataFrame:
    """Return `describe` of every experiment in a directory of one scale, one row per experiment."""
    return pd.DataFrame([describe(directory, name) for name in experiments(directory)])


def listing(cached: str | Path, scale: str | None = None) -> str:
    """Format a list of the shipped runs for a terminal.

    Args:
        cached: directory that holds the shipped scales.
        scale: list only this scale; all if None.

    Raises:
        ArtifactError: if nothing is shipped, the scale is not shipped, or files are damaged.
    """
    scales = directories(cached)
    if not scales:
        raise ArtifactError(f"no shipped results in {cached}")
    if scale is not None:
        known = [directory.name for directory in scales]
        if scale not in known:
            raise ArtifactError(
                f"{scale!r} is not SCALE/EXPERIMENT, such as laptop/growth, nor a scale with shipped results "
                f"(there are: {', '.join(known)})"
            )
        scales = [directory for directory in scales if directory.name == scale]
    table = pd.concat([overview(directory) for directory in scales], ignore_index=True)
    shown = table.assign(seconds=table["seconds"].map(duration), bytes=table["bytes"].map(size))
    shown = shown.rename(columns={"seconds": "time", "bytes": "size"})
    total = f"{len(table)} sets of runs, {table['runs'].sum():,} runs, {size(table['bytes'].sum())}"
    return f"{_aligned(shown)}\n{total}; more of one: ctadam results SCALE/EXPERIMENT"


def details(cached: str | Path, scale: str, experiment: str) -> str:
    """Format the provenance and a summary of one experiment's shipped runs for a terminal.

    Args:
        cached: directory that holds the shipped scales.
        scale: name of the scale.
        experiment: name of the experiment.

    Raises:
        ArtifactError: if the runs are not shipped or are damaged.
    """
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
        *("  " + line for line in _aligned(_summary(without_lists(read_runs(directory, experiment)))).splitlines()),
    ]
    return "\n".join(lines)


def _summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per column: type, number of distinct and of missing values, and range or first values."""
    rows = []
    for name, values in runs.items():
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            spread = f"{values.min():.6g} to {values.max():.6g}" if values.notna().any() else ""
        else:
            known = values.dropna().unique()
            spread = ", ".join(map(str, known[:4])) + (", …" if len(known) > 4 else "")
        rows.append((name, values.dtype, values.nunique(), int(values.isna().sum()), spread))
    return pd.DataFrame(rows, columns=["column", "type", "distinct", "empty", "values"])


def _link(id: str) -> str:
    """Return an id as a Markdown link to its section of ``docs/claims.md``."""
    return f"[{id}](docs/claims.md#{id.lower()})"


def _verdicts(ledger: pd.DataFrame) -> str:
    """Return the ids of the claims per verdict as Markdown, with the number of levels that hold where levels differ."""
    ids: dict[str, str] = {}
    for verdict in VERDICTS:
        claims = ledger.loc[ledger["verdict"] == verdict, "id"]
        shares = (f" {'/'.join(map(str, holds(ledger, id)))}" if verdict == IN_PART else "" for id in claims)
        ids[verdict] = (", " if verdict == IN_PART else " ").join(map(str.__add__, map(_link, claims), shares))
    return "; ".join(f"{verdict}: {text}" for verdict, text in ids.items() if text) or NOTHING


def ledgers(root: str | Path) -> dict[str, pd.DataFrame]:
    """Return ``{scale: ledger}`` of the shipped scales that count for the headline, the deciding scale first.

    Raises:
        ArtifactError: if a ledger is damaged or was made from other tables.
    """
    shipped: dict[str, pd.DataFrame] = {}
    for scale in HEADLINE_SCALES:
        directory = Path(root) / "results" / "cached" / scale
        if (directory / MANIFEST).exists():
            check_ledger(directory)
            shipped[scale] = read_ledger(ledger_path(directory))
    return shipped


def headline(root: str | Path) -> pd.DataFrame:
    """Return the ledger of the headline: each claim at the largest scale that decides it.

    Args:
        root: directory of the checkout.

    Returns:
        DataFrame like a ledger, with a further column ``scale``, in the order of `CLAIMS`.

    Raises:
        ArtifactError: if a ledger is missing or damaged.
    """
    every = ledgers(root)
    if not every:
        raise ArtifactError(f"no shipped results in {Path(root) / 'results' / 'cached'}")
    table = pd.concat([ledger.assign(scale=scale) for scale, ledger in every.items()], ignore_index=True)
    # Decided ones first, and among them the largest scale; an undecided claim is shown at the smallest.
    undecided = table["verdict"] == INCONCLUSIVE
    table = pd.concat([table[~undecided], table[undecided].iloc[::-1]]).drop_duplicates("id").set_index("id")
    ids = [claim.id for claim in CLAIMS if claim.id in table.index]
    return table.loc[ids].reset_index()


def times(overviews: Sequence[pd.DataFrame], needs: Sequence[str]) -> tuple[str, str, str]:
    """Return CPU time, GPU time and size on disk of a figure's experiments, as text.

    Args:
        overviews: tables from `overview`. The last one that holds all experiments for a kind of device counts.
        needs: names of the experiments.
    """
    totals: list[pd.Series | None] = []
    for on_cpu in (True, False):
        tables = [table[(table["device"] == "cpu") == on_cpu].set_index("experiment") for table in overviews]
        tables = [table for table in tables if set(needs) <= set(table.index)]
        totals.append(tables[-1].loc[list(needs), ["seconds", "bytes"]].sum() if tables else None)
    cpu, gpu = totals
    return (
        NOTHING if cpu is None else duration(cpu["seconds"]),
        NOTHING if gpu is None else duration(gpu["seconds"]),
        NOTHING if cpu is None else size(cpu["bytes"]),
    )


def figure_table(root: str | Path, scale: str = "laptop") -> str:
    """Return the README's table of figures and the counts of verdicts as Markdown.

    CPU time and size are those of the given scale. GPU time is that of any shipped runs made on a GPU.

    Args:
        root: directory of the checkout.
        scale: scale whose times and sizes are shown.

    Raises:
        ArtifactError: if shipped results are missing or damaged, or the ledger belongs to other runs.
    """
    root = Path(root)
    ledger = headline(root)
    tables = [overview(directory) for directory in directories(root / "results" / "cached")]
    own = [t for t in tables if (t["scale"] == scale).all()] + [t for t in tables if (t["device"] != "cpu").any()]
    lines = [
        "| figure | shows | claims, and what the shipped runs say | command | CPU | GPU | disk |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure, needs in FIGURES.items():
        cpu, gpu, disk = times(own, needs)
        lines.append(
            f"| `{figure}` | {caption_title(root, figure)} | {_verdicts(ledger[ledger['figure'] == figure])} "
            f"| `snakemake {figure}` | {cpu} | {gpu} | {disk} |"
        )
    rest = ledger[ledger["figure"] == ""]
    if len(rest):
        lines.append(f"| – | claims without a figure | {_verdicts(rest)} | `snakemake claims` | | | |")
    scales = [f"{count} at {name} scale" for name, count in ledger["scale"].value_counts().items()]
    lines += ["", f"{len(ledger)} claims, each at the largest scale that decides it ({', '.join(scales)}):", ""]
    lines += [f"- {line}" for line in counts_by_source(ledger)]
    return "\n".join([*lines, "", f"2/5: reproduced at two of five levels. {ONLY_ABSTRACT}"])


def with_table(page: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """Return a Markdown page with the table between two marker lines replaced.

    Args:
        page: text of the page.
        table: the new table.
        begin: marker line before the table.
        end: marker line after the table.

    Raises:
        ArtifactError: if the page lacks a marker.
    """
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ArtifactError(f"the page lacks the lines {begin!r} and {end!r}")
    return f"{before}{begin}\n\n{table.rstrip()}\n\n{end}{after}"


def update_readme(root: str | Path) -> Path:
    """Update the table of figures in the README of a checkout, and return the README's path."""
    path = Path(root) / "README.md"
    write_text(path, with_table(path.read_text(encoding="utf-8"), figure_table(root)))
    return path


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
