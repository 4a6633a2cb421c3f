"""What is generated from results for people to read: the README's table of figures, and the pages of the report."""

import html
from pathlib import Path

from ctadam.artifact import shipped
from ctadam.artifact.figures import FIGURES, caption_title
from ctadam.artifact.ledger import CONTRADICTED, INCONCLUSIVE, REPRODUCED, check_ledger, ledger_path, read_ledger
from ctadam.errors import ArtifactError
from ctadam.storage.provenance import write_atomically
from ctadam.storage.store import checked_shards

BEGIN, END = "<!-- figures: made by `ctadam readme` -->", "<!-- end of figures -->"
NOTHING = "—"


def _range(ids):
    """Ids of claims with neighbours drawn together: S1 S2 S3 S6 as S1–S3, S6."""
    groups = []
    for id in ids:
        letter, number = id[0], int(id[1:])
        if groups and groups[-1][0] == letter and groups[-1][2] == number - 1:
            groups[-1][2] = number
        else:
            groups.append([letter, number, number])
    words = []
    for letter, first, last in groups:
        between = "–" if last > first + 1 else ", "
        words.append(f"{letter}{first}" if first == last else f"{letter}{first}{between}{letter}{last}")
    return ", ".join(words)


def _verdicts(ledger):
    found = []
    for verdict in (REPRODUCED, CONTRADICTED, INCONCLUSIVE):
        ids = ledger.loc[ledger["verdict"] == verdict, "id"].tolist()
        if ids:
            found.append(f"{verdict}: {_range(ids)}")
    return "; ".join(found) or NOTHING


def _times(overviews, needs):
    """Seconds of the experiments a figure needs, on CPUs and on GPUs, and bytes on disk of the former; None where not run."""
    found = []
    for on_cpu in (True, False):
        some = [table[(table["device"] == "cpu") == on_cpu].set_index("experiment") for table in overviews]
        some = [table for table in some if set(needs) <= set(table.index)]
        found.append(some[-1].loc[list(needs)] if some else None)
    cpu, gpu = found
    return (
        NOTHING if cpu is None else shipped.duration(cpu["seconds"].sum()),
        NOTHING if gpu is None else shipped.duration(gpu["seconds"].sum()),
        NOTHING if cpu is None else shipped.size(cpu["bytes"].sum()),
    )


def figure_table(root, scale="laptop"):
    """The table of figures, as Markdown: from the shipped ledger of a scale, and from the provenance of all shipped runs.

    The time on a CPU and the size are that scale's; the time on a GPU is that of any shipped runs that were made on one.

    Raises:
        ArtifactError: shipped results are missing or damaged, or the ledger is not of these runs.
    """
    root = Path(root)
    cached = root / "results" / "cached"
    check_ledger(cached / scale)
    ledger = read_ledger(ledger_path(cached / scale))
    tables = [shipped.overview([d]) for d in shipped.directories(cached)]
    own = [t for t in tables if (t["scale"] == scale).all()] + [t for t in tables if (t["device"] != "cpu").any()]
    lines = [
        "| figure | shows | claims, and what the shipped runs say | command | CPU | GPU | disk |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure, needs in FIGURES.items():
        cpu, gpu, disk = _times(own, needs)
        lines.append(
            f"| `{figure}` | {caption_title(root, figure)} | {_verdicts(ledger[ledger['figure'] == figure])} "
            f"| `snakemake {figure}` | {cpu} | {gpu} | {disk} |"
        )
    rest = ledger[ledger["figure"] == ""]
    lines.append(f"| – | claims without a figure | {_verdicts(rest)} | `snakemake claims` | | | |")
    counts = ledger["verdict"].value_counts()
    total = ", ".join(f"{counts.get(v, 0)} {v}" for v in (REPRODUCED, CONTRADICTED, INCONCLUSIVE))
    return "\n".join([*lines, "", f"{len(ledger)} claims at {scale} scale: {total}."])


def with_table(page, table):
    """A Markdown page with the table between its marks replaced.

    Raises:
        ArtifactError: the page has no such marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ArtifactError(f"the page lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def update_readme(root):
    """Renew the table in the README; gives its path."""
    path = Path(root) / "README.md"
    text = with_table(path.read_text(encoding="utf-8"), figure_table(root))
    write_atomically(path, lambda p: Path(p).write_text(text, encoding="utf-8"))
    return path


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 1.5rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 1.6rem; }
table { border-collapse: collapse; } td, th { padding: .35rem .7rem; vertical-align: top; }
th { text-align: left; }
th { border-bottom: 2px solid #888; white-space: nowrap; } code span { white-space: nowrap; }
td { border-bottom: 1px solid #ddd; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.reproduced, .contradicted, .inconclusive { font-weight: 600; white-space: nowrap; }
.reproduced { color: #00663d; } .contradicted { color: #a3320b; } .inconclusive { color: #555; }
code, pre { font-size: .85em; } pre { background: #f6f6f6; padding: .7rem; } small { color: #555; }
"""


def _page(title, body):
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}</body></html>\n"
    )


def _table(head, rows):
    """Cells are HTML already; a pair (class, HTML) is a cell of that class."""

    def cell(content):
        kind, content = content if isinstance(content, tuple) else ("", content)
        return f'<td class="{kind}">{content}</td>' if kind else f"<td>{content}</td>"

    body = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return (
        f"<table><thead><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr></thead>\n<tbody>\n{body}\n</tbody></table>\n"
    )


_SOURCES = {"P": "the paper", "D": "derived here", "R": "a reviewer"}


def ledger_page(results):
    """The ledger of a scale's results as a page of HTML.

    Raises:
        ArtifactError: it is missing, was edited, or judges other tables than lie there.
    """
    check_ledger(results)
    ledger = read_ledger(ledger_path(results))
    yours = "shipped" in ledger
    head = ["", "claim", "verdict", "prediction", *(["shipped"] if yours else []), "yours" if yours else "value"]
    head += ["rule", "source", "figure, command"]
    rows = []
    for row in ledger.to_dict("records"):
        row = {key: html.escape(value) for key, value in row.items()}
        # No break within an option, which would no longer look like what is to be typed.
        command = " ".join(f"<span>{word}</span>" for word in row["command"].split())
        cells = [
            f"<b>{row['id']}</b>",
            f"{row['claim']}<br><small>{row['statistic']}</small>",
            (row["verdict"], row["verdict"]),
            row["prediction"],
        ]
        if yours:
            cells.append(f"{row['shipped']}<br><small>{row['shipped_verdict']}</small>")
        cells += [
            row["value"] + (f"<br><small>{row['note']}</small>" if row["note"] else ""),
            row["rule"],
            _SOURCES.get(row["source"], row["source"]),
            f"{row['figure']}<br><code>{command}</code>",
        ]
        rows.append(cells)
    counts = ledger["verdict"].value_counts()
    total = ", ".join(f"{counts.get(v, 0)} {v}" for v in (REPRODUCED, CONTRADICTED, INCONCLUSIVE))
    text = f"<p>{len(ledger)} claims: {total}. Rules were fixed before the runs. A contradicted claim is a result.</p>"
    return _page(f"Ledger of claims: {Path(results).name} scale", text + _table(head, rows))


def provenance_page(results):
    """Where the runs of a scale's results came from, and how long they took, as a page of HTML.

    Raises:
        ArtifactError: runs are missing or damaged.
    """
    import yaml

    names = shipped.experiments(results)
    table = shipped.overview([results])
    rows = [
        [
            f"<b>{row['experiment']}</b>", ("number", f"{row['runs']:,}"), ("number", f"{row['rows']:,}"), row["device"],
            row["date"], f"<code>{row['commit']}</code>", ("number", shipped.duration(row["seconds"])),
            ("number", shipped.size(row["bytes"])), row["claims"],
        ]
        for row in table.to_dict("records")
    ]  # fmt: skip
    body = _table(["experiment", "runs", "rows", "device", "date", "commit", "run time", "size", "claims"], rows)
    body += (
        f"<p>In all {shipped.duration(table['seconds'].sum())} on one device, {shipped.size(table['bytes'].sum())}.</p>"
    )
    for name in names:
        shards = checked_shards(results, name)
        record = next(iter(shards.values()))
        parts = [
            [
                part["file"], ("number", f"{part['rows']:,}"), part["started"], ("number", shipped.duration(part["wall_s"])),
                f"<code>{part['sha256'][:16]}…</code>",
            ]
            for part in shards.values()
        ]  # fmt: skip
        rest = {key: record.get(key) for key in ("platform", "python", "packages", "determinism", "data", "code")}
        body += f"<h2>{name}</h2>" + _table(["file", "rows", "started", "run time", "sha256"], parts)
        text = yaml.safe_dump({**rest, "parameters": record["parameters"]}, sort_keys=False, default_flow_style=None)
        body += f"<details><summary>versions, data, parameters</summary><pre>{html.escape(text)}</pre></details>"
    return _page(f"Provenance and run times: {Path(results).name} scale", body)


def write_report_pages(results):
    """Write the pages that the report shows beside the figures; gives their paths."""
    found = []
    for name, page in (("claims", ledger_page), ("provenance", provenance_page)):
        path, text = Path(results) / f"{name}.html", page(results)
        write_atomically(path, lambda p, text=text: Path(p).write_text(text, encoding="utf-8"))
        found.append(path)
    return found
