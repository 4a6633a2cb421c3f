"""The tables of ``docs/scales.md``: what each scale takes, what was run at it, and which verdicts rest on it."""

from pathlib import Path

import pandas as pd

from ctadam.artifact import report
from ctadam.artifact.config import SCALES
from ctadam.artifact.ledger import data_of
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.provenance import write_atomically

BEGIN, END = "<!-- scales: made by `ctadam docs` -->", "<!-- end of scales -->"


def tables(root: str | Path) -> str:
    """Return the two tables as Markdown: one row per shipped scale, and the time of each experiment by scale.

    Args:
        root: directory of the checkout.

    Raises:
        ArtifactError: if shipped results are missing or damaged.
    """
    cached, headline = Path(root) / "results" / "cached", report.headline(root)
    shipped = {path.name: report.overview(path) for path in report.directories(cached)}
    shipped = {scale: shipped[scale] for scale in SCALES if scale in shipped}
    lines = [
        "| scale | experiments shipped | runs | data | time on one core | raw runs | claims that rest on it |",
        "|---|---|---|---|---|---|---|",
    ]
    for scale, table in shipped.items():
        data = dict.fromkeys(
            name for e in table["experiment"] for name in data_of(cached / scale, e).split(", ") if name
        )
        count = int((headline["scale"] == scale).sum())
        cells = [
            f"`{scale}`",
            f"{len(table)} of {len(EXPERIMENTS)}",
            f"{table['runs'].sum():,}",
            ", ".join(data) or report.NOTHING,
            report.duration(table["seconds"].sum()),
            report.size(table["bytes"].sum()),
            f"{count} of {len(headline)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"| experiment | {' | '.join(shipped)} |", f"|---|{'---|' * len(shipped)}"]
    times = pd.DataFrame({scale: table.set_index("experiment")["seconds"] for scale, table in shipped.items()})
    for name in EXPERIMENTS:
        row = times.reindex([name]).iloc[0]
        cells = [report.NOTHING if pd.isna(seconds) else report.duration(seconds) for seconds in row]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def update_page(root: str | Path) -> Path:
    """Update the tables of ``docs/scales.md`` of a checkout, and return its path."""
    path = Path(root) / "docs" / "scales.md"
    text = report.with_table(path.read_text(encoding="utf-8"), tables(root), BEGIN, END)
    write_atomically(path, lambda p: Path(p).write_text(text, encoding="utf-8"))
    return path
