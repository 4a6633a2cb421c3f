"""Explain a claim: from its verdict to estimates, tables, raw runs and code, for the terminal and as ``docs/claims.md``."""

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from ctadam.analysis.verdicts import INCONCLUSIVE, Claim
from ctadam.artifact import history, report
from ctadam.artifact.code import PACKAGE
from ctadam.artifact.figures import caption_title, paths
from ctadam.artifact.ledger import CLAIMS, data_of, find, judge, ledger_path, levels_of, read_ledger
from ctadam.errors import ArtifactError
from ctadam.experiments import load
from ctadam.storage.provenance import write_atomically
from ctadam.storage.store import DERIVED, checked_shards, read_csv, read_runs

#: Module and function that make each kind of table, in the order of the path from raw runs to the verdict.
_MAKERS = {
    "raw runs": ("runs", "run"),
    "measurements": ("measure", "measure"),
    "predictions": ("predict", "predict"),
}


def where(function: Callable[..., Any]) -> str:
    """Return file and line of a function, relative to the checkout."""
    path, line = inspect.getsourcefile(function), inspect.getsourcelines(function)[1]
    return f"src/ctadam/{Path(str(path)).relative_to(PACKAGE)}:{line}"


def functions(claim: Claim) -> dict[str, Callable[..., Any]]:
    """Return the functions that make the claim's numbers, ``{what they make: function}``."""
    makers = {what: getattr(load(claim.experiment, stage), name) for what, (stage, name) in _MAKERS.items()}
    return makers | {"verdict": inspect.unwrap(claim.measure)}


def tables_of(results: str | Path, claim: Claim) -> dict[str, list[str]]:
    """Return the columns that hold the claim's statistic, ``{file: columns}``.

    Raises:
        ArtifactError: if the results are missing or damaged, or have no such column.
    """
    known = {f"{name}.csv": list(read_csv(results, claim.experiment, name)) for name in DERIVED}
    known["shard-*.parquet"] = list(read_runs(results, claim.experiment))
    files_of: dict[str, list[str]] = {}
    for column in claim.columns:
        # Measurements first, because raw runs and predictions repeat their key columns.
        files = [name for name in ("measurements.csv", "predictions.csv", "shard-*.parquet") if column in known[name]]
        if not files:
            raise ArtifactError(f"{results}/{claim.experiment} has no column {column!r}, which claim {claim.id} needs")
        files_of.setdefault(files[0], []).append(column)
    return files_of


def _ledger_of(results: Path, claim: Claim) -> pd.DataFrame:
    """Return the row of the claim in the ledger of these results; judged now if the ledger lacks it."""
    if ledger_path(results).exists():
        ledger = read_ledger(ledger_path(results))
        if claim.id in set(ledger["id"]):
            return ledger[ledger["id"] == claim.id]
    return judge(results, which=claim.id)


def scales(root: str | Path, claim: Claim) -> dict[str, Path]:
    """Return ``{name: directory}`` of the shipped scales and of your own runs that hold the claim's experiment."""
    root = Path(root)
    directories = {path.name: path for path in report.directories(root / "results" / "cached")}
    # Your own runs count where they were judged: half-finished or outdated ones explain nothing.
    fresh = sorted(path.parent for path in (root / "results" / "fresh").glob("*/claims.csv"))
    directories |= {f"{path.name} (yours)": path for path in fresh}
    return {name: path for name, path in directories.items() if any((path / claim.experiment).glob("shard-*.parquet"))}


def explain(root: str | Path, id: str) -> str:
    """Return the explanation of one claim for the terminal.

    Args:
        root: directory of the checkout.
        id: id of the claim.

    Raises:
        ArtifactError: if there is no such claim, or results are missing or damaged.
    """
    claim, root = find(id), Path(root)
    dates = {rule: date for rule, date, _ in history.rules((root / history.PAGE).read_text(encoding="utf-8"))}
    fixed = f"fixed on {dates[id]}" if id in dates else f"not in {history.PAGE}"
    lines = [
        f"{claim.id}  {claim.text}",
        f"source     {claim.source}: {report.SOURCE[claim.source]}",
        f"statistic  {claim.statistic}",
        f"rule       {claim.rule} ({fixed})",
        f"target     {report.target_text(id)}",
    ]
    directories = scales(root, claim)
    for name, directory in directories.items():
        ledger = _ledger_of(directory, claim)
        data = data_of(directory, claim.experiment)
        lines += ["", f"{name}: {report.verdict_text(ledger, id)}" + (f" (data: {data})" if data else "")]
        table = tabulate(level_rows(ledger, claim), tablefmt="plain", disable_numparse=True)
        lines += [f"  {line}" for line in table.splitlines()]
        lines += [f"  {line}" for line in report.number_lines(ledger, id)]
    lines += ["", "Where the numbers come from", f"  figure     {_figure(root, claim)}"]
    for name, directory in directories.items():
        for file, columns in tables_of(directory, claim).items():
            lines.append(f"  {name:10} {_relative(directory, root)}/{claim.experiment}/{file}: {', '.join(columns)}")
        for path, record in checked_shards(directory, claim.experiment).items():
            made = f"{record['started'][:10]}, {record['device']}, {report.duration(record['wall_s'])}"
            lines.append(f"             {_relative(path, root)}: {made}, commit {str(record.get('commit'))[:9]}")
    lines += [f"  {what:14} {where(function)} {function.__name__}" for what, function in functions(claim).items()]
    lines += [
        "",
        f"Again from retrained runs:  snakemake {claim.id}",
        f"From the shipped runs:      snakemake cached_{claim.id}",
    ]
    return "\n".join(lines)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _figure(root: Path, claim: Claim) -> str:
    """Return name, title and file of the claim's figure."""
    if not claim.figure:
        return "none"
    file = paths(claim.figure, "paper_figures/cached/laptop")[0].as_posix()
    return f"{claim.figure}, {caption_title(root, claim.figure)} ({file})"


def level_rows(ledger: pd.DataFrame, claim: Claim) -> list[tuple[str, str, str, str]]:
    """Return all levels of a claim as text: level and part, estimate, verdict, detectable difference."""
    rows = []
    for row in levels_of(ledger).to_dict("records"):
        seen = f"detects ±{report.number(row['detectable'], '.2g')} (n = {row['n']})"
        name = ", ".join(filter(None, (row["level"], row["part"]))) or "all"
        estimate = report.estimate_text(row, claim.form)
        rows.append((name, estimate, str(row["verdict"]), "" if pd.isna(row["detectable"]) else seen))
    return rows


_HEADER = """\
# Claims

One section per claim: what was measured, the rule, the verdict by scale and level, and where the numbers come from.
This page is made by `ctadam docs`; `ctadam explain S3` prints the same for one claim, with lines of code and provenance.

{only_abstract}
The rules were fixed before the runs. The [history](ledger_history.md) lists every change, also changes of wording after
the runs.

Intervals have 95 % coverage. Unless a claim says otherwise they are Student's t over n seeds. "Detects" is the smallest
true difference that the shipped runs would distinguish from zero with 80 % power, in the unit of the estimate.
"""


def page(root: str | Path) -> str:
    """Return ``docs/claims.md``.

    Args:
        root: directory of the checkout.

    Raises:
        ArtifactError: if shipped results are missing or damaged.
    """
    root = Path(root)
    ledgers = report.ledgers(root)
    sections = [_HEADER.format(only_abstract="\n".join(textwrap.wrap(report.ONLY_ABSTRACT, 120)))]
    for claim in CLAIMS:
        lines = [f"## {claim.id}", "", f"**{claim.text}** (source: {report.SOURCE[claim.source]})", ""]
        lines += [f"- Statistic: {claim.statistic}.", f"- Rule: {claim.rule}. Target: {report.target_text(claim.id)}."]
        shown = {scale: ledger[ledger["id"] == claim.id] for scale, ledger in ledgers.items()}
        shown = {scale: ledger for scale, ledger in shown.items() if len(ledger)}
        # The levels of the scale that counts for the headline; of the others the verdict.
        decided = [scale for scale, ledger in shown.items() if ledger["verdict"].iloc[0] != INCONCLUSIVE]
        counts = (decided or list(shown)[-1:])[:1]
        for scale in sorted(shown, key=lambda scale: scale not in counts):
            lines += ["", f"At {scale} scale: **{report.verdict_text(shown[scale], claim.id)}**"]
            if scale in counts:
                lines += ["", *_level_table(shown[scale], claim)]
        lines += ["", *_sources(root, claim, counts)]
        sections.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(sections)


def _level_table(ledger: pd.DataFrame, claim: Claim) -> list[str]:
    """Return the levels and further numbers of a claim as lines of Markdown."""
    lines = ["| level | estimate | verdict | detects |", "|---|---|---|---|"]
    for cells in level_rows(ledger, claim):
        lines.append("| " + " | ".join(cell.removeprefix("detects ").replace("|", "\\|") for cell in cells) + " |")
    further = [f"- {line}" for line in report.number_lines(ledger, claim.id)]
    return [*lines, "", "Further numbers:", "", *further] if further else lines


def _sources(root: Path, claim: Claim, shown: list[str]) -> list[str]:
    """Return where the claim's numbers come from, as a Markdown list."""
    lines = []
    if claim.figure:
        file = paths(claim.figure, "../paper_figures/cached/laptop")[1].as_posix()
        lines.append(f"- Figure: [{claim.figure}]({file}), `snakemake {claim.figure}`.")
    if shown:
        directory = Path("results/cached") / shown[-1]
        files = tables_of(root / directory, claim)
        cells = [
            f"`{', '.join(columns)}` in `{directory}/{claim.experiment}/{file}`" for file, columns in files.items()
        ]
        lines.append(f"- Numbers: {'; '.join(cells)}.")
        if data := data_of(root / directory, claim.experiment):
            lines.append(f"- Data: {data}.")
    code = []
    for what, function in functions(claim).items():
        file = where(function).partition(":")[0]
        code.append(f"{what} by [`{function.__name__}`](../{file})")
    lines += [f"- Code: {', '.join(code)}.", f"- Again: `snakemake {claim.id}`."]
    return lines


def write_page(root: str | Path) -> Path:
    """Write ``docs/claims.md`` of a checkout, and return its path."""
    path = Path(root) / "docs" / "claims.md"
    text = page(root)
    write_atomically(path, lambda p: Path(p).write_text(text, encoding="utf-8"))
    return path
