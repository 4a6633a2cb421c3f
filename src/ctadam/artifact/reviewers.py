"""Write ``ARTIFACT.md`` for reviewers: minimal example, requirements, the authors' runs, and every claim with its cost."""

import csv
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ctadam.analysis.verdicts import REPRODUCED
from ctadam.artifact import report
from ctadam.storage.provenance import write_atomically
from ctadam.storage.store import checked_shards

#: The page, relative to the checkout.
PAGE = "ARTIFACT.md"
#: Peak memory measured by ``benchmarks/memory.py``, relative to the checkout.
MEMORY = "results/cached/benchmarks/memory_cpu.csv"

_TOP = """\
# Artifact description

This page is for reviewers. It shows a minimal example, what the artifact needs, how the authors ran it, and for every claim
the command, the expected value, the tolerance and the cost. It is made by `ctadam docs` from the shipped ledgers and
provenance.

## Minimal example

    make cached                      # every figure and verdict from the shipped runs, compared with what is shipped
    .venv/bin/snakemake {claim:<13}# retrain what claim {claim} needs ({seconds} of training on one core), and judge it

Both end with verdicts. The first also creates `.venv` from the locked, hashed requirements. `make reproduce` retrains
everything at laptop scale.

The optimizer and `ctadam stability` need only NumPy and PyTorch:

    pip install .
    ctadam stability --betas 0.9 0.95

## Requirements

- **Hardware:** no GPU; one processor core, and {memory} of memory per core in use. Snakemake runs as
  many shards at a time as there are cores.
- **Disk:** 6 GB for `.venv`, most of it PyTorch, and {disk} for all runs at laptop scale.
- **Software:** Python 3.11 or newer, make and git; everything else is locked in `requirements.txt`. The shipped runs were
  made on Linux, x86-64, with the versions below.
- **Container:** `docker build -t ctadam . && docker run --rm ctadam` installs the same versions and derives everything
  from the shipped runs. Tests check the Dockerfile's syntax and versions; the shipped runs were made outside it.
- **Network:** at laptop scale only for the installation. Data sets of larger scales are downloaded once
  ([files](docs/scales.md#data)).

## The authors' runs

The full record of a shard lies beside it: `results/cached/<scale>/<experiment>/shard-*.json`.
"""

_TOLERANCE = """\
## Tolerances

| runs | what agrees |
|---|---|
| shipped, derived again (`make cached`) | verdicts; numbers within 1e-6 relative; pictures up to a few pixels |
| retrained on the same machine with the same versions (`snakemake verify` for a sample) | every byte |
| retrained elsewhere (`make reproduce`) | verdicts; last digits of a run differ, so values differ within their intervals |

"Reproduced if" is the target to which the rule of a claim holds its intervals. Targets and [rules](docs/claims.md) were
fixed before the runs. See also [what bytes and digits depend on](docs/reproducibility.md).
"""

_CLAIMS = """\
## Claims

Values are estimates with 95 % intervals. Many levels are summarized; [claims.md](docs/claims.md) and `ctadam explain S3`
show all of them. Minutes are those of the shipped runs on one core, without the start of the programs. Disk is the size of
raw runs and provenance. Claims of one experiment share its runs, so after the first one the others cost only the judging.
"""
_RECORDED = "Memory is the largest resident memory of a process that ran a shard (`max_rss` in the provenance)."
_AFTERWARDS = """\
Memory is the largest resident memory of a process that runs one shard. The shipped runs are older than that record, so it
was measured afterwards at {scales} scale (`python benchmarks/memory.py`, `results/cached/benchmarks/memory_cpu.csv`)."""


def _row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _distinct(values: Iterable[object]) -> str:
    """Return distinct values as text, in order of appearance."""
    return ", ".join(dict.fromkeys(map(str, values)))


def _gigabytes(count: float | None) -> str:
    """Format a number of bytes of memory in GB."""
    return report.NOTHING if count is None else f"{count / 1e9:.1f} GB"


def measured_memory(root: str | Path) -> dict[str, Mapping[str, str]]:
    """Return the rows of the table that ``benchmarks/memory.py`` made, ``{experiment: row}``; empty if there is none."""
    path = Path(root) / MEMORY
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["experiment"]: row for row in csv.DictReader(file)}


def recorded_memory(directory: str | Path) -> dict[str, int]:
    """Return the largest resident memory in bytes of a process that ran shards, ``{experiment: bytes}``.

    Args:
        directory: directory of one scale. An experiment is left out if the record of one of its shards lacks this number.

    Raises:
        ArtifactError: if runs are damaged.
    """
    memory: dict[str, int] = {}
    for name in report.experiments(directory):
        records = checked_shards(directory, name).values()
        peaks = [record["max_rss"] for record in records if record.get("max_rss") is not None]
        if len(peaks) == len(records):
            memory[name] = max(peaks)
    return memory


def _machine(record: Mapping[str, Any]) -> str:
    """Return the machine of a provenance record as text."""
    machine = record.get("machine")
    if machine is None:
        return "not recorded"
    return f"{machine['processor']}, {machine['cores']} cores, {_gigabytes(machine['memory'])}"


def _runs_table(root: Path) -> list[str]:
    """Return hardware and software of the shipped runs as a Markdown table, one column per scale."""
    columns: list[dict[str, str]] = []
    for directory in report.directories(root / "results" / "cached"):
        names = report.experiments(directory)
        records = [record for name in names for record in checked_shards(directory, name).values()]
        columns.append(
            {
                "scale": directory.name,
                "experiments": ", ".join(names),
                "device": _distinct(record["device"] for record in records),
                "machine": _distinct(map(_machine, records)),
                "system": _distinct(record["platform"] for record in records),
                "Python": _distinct(record["python"] for record in records),
                "packages": _distinct(f"{k} {v}" for record in records for k, v in record["packages"].items()),
                "threads per shard": _distinct(record["determinism"]["threads"] for record in records),
                "data": _distinct(name for record in records for name in record["data"]) or "none",
                "date": _distinct(sorted(record["started"][:10] for record in records)),
                "commit": _distinct(str(record.get("commit"))[:9] for record in records),
                "time on one core": report.duration(sum(report.seconds(record) for record in records)),
            }
        )
    header, *rows = ([key, *(column[key] for column in columns)] for key in columns[0])
    return [_row(header), _row(["---"] * len(header)), *map(_row, rows)]


def _expected(ledger: pd.DataFrame, id: str) -> str:
    """Return verdict and estimates of a claim; of many levels those of the first ones per verdict."""
    lines = [f"{name}: {text}" if name else text for name, text, _ in report.level_lines(ledger, id)]
    return "<br>".join([f"**{report.verdict_text(ledger, id)}**", *filter(None, lines)])


def _claims_table(directory: Path, ledger: pd.DataFrame, memory: Mapping[str, int]) -> list[str]:
    """Return the claims of one scale as a Markdown table, one row per claim."""
    costs = report.overview(directory).set_index("experiment")
    option = "" if directory.name == "laptop" else f" --config scale={directory.name}"
    lines = [
        _row(["claim", "command", "expected", "reproduced if", "minutes", "memory", "disk"]),
        _row(["---", "---", "---", "---", "--:", "--:", "--:"]),
    ]
    for row in ledger.to_dict("records"):
        id, cost = row["id"], costs.loc[row["experiment"]]
        lines.append(
            _row(
                [
                    f"[{id}](docs/claims.md#{id.lower()}) {row['claim']}",
                    f"`{row['command']}{option}`",
                    _expected(ledger, id),
                    report.target_text(id),
                    f"{cost['seconds'] / 60:.1f}",
                    _gigabytes(memory.get(row["experiment"])),
                    report.size(cost["bytes"]),
                ]
            )
        )
    return lines


def page(root: str | Path, scale: str = "laptop") -> str:
    """Return ``ARTIFACT.md``.

    Args:
        root: directory of the checkout.
        scale: scale of the minimal example and of the requirements.

    Raises:
        ArtifactError: if shipped results are missing or damaged.
    """
    root = Path(root)
    cached, ledgers, measured = root / "results" / "cached", report.ledgers(root), measured_memory(root)
    recorded = {name: recorded_memory(cached / name) for name in ledgers}
    overview = report.overview(cached / scale).set_index("experiment")
    # What was measured afterwards, at any scale, stands in only where it is needed most.
    memory = recorded | {scale: {name: int(row["max_rss"]) for name, row in measured.items()} | recorded[scale]}
    note = _RECORDED
    if set(overview.index) - set(recorded[scale]):
        scales = _distinct(row["scale"] for row in measured.values())
        note = _AFTERWARDS.format(scales=scales) if measured else "Memory was not recorded."
    # The cheapest claim that is reproduced: another verdict would need an explanation first.
    reproduced = ledgers[scale][ledgers[scale]["verdict"] == REPRODUCED].set_index("id")
    seconds = reproduced["experiment"].map(overview["seconds"])
    top = _TOP.format(
        claim=seconds.idxmin(),
        seconds=report.duration(seconds.min()),
        memory=_gigabytes(max(memory[scale].values(), default=None)),
        disk=report.size(overview["bytes"].sum()),
    )
    parts = [top, "\n".join(_runs_table(root)) + "\n", _TOLERANCE, _CLAIMS + note + "\n"]
    for name in sorted(ledgers, key=lambda name: name != scale):
        parts += [f"### At {name} scale\n", "\n".join(_claims_table(cached / name, ledgers[name], memory[name])) + "\n"]
    parts.append("\n".join(textwrap.wrap(report.ONLY_ABSTRACT, 120)) + "\n")
    return "\n".join(parts)


def write_page(root: str | Path) -> Path:
    """Write ``ARTIFACT.md`` of a checkout, and return its path."""
    path, text = Path(root) / PAGE, page(root)
    write_atomically(path, lambda p: Path(p).write_text(text, encoding="utf-8"))
    return path
