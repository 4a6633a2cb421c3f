"""The artifact as one HTML page: verdicts, figures with their claims, the explorer, and provenance."""

import base64
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from docutils.core import publish_doctree, publish_parts
from markupsafe import Markup
from PIL import Image

from ctadam import __version__
from ctadam.artifact import explain, history, report
from ctadam.artifact.figures import FIGURES, caption_path, caption_title, paths
from ctadam.artifact.ledger import CLAIMS, VERDICTS, Claim, levels_of, read_ledger
from ctadam.artifact.report import (
    ONLY_ABSTRACT,
    SOURCE,
    SOURCES,
    counts,
    directories,
    estimate_text,
    headline,
    holds,
    ledgers,
    level_lines,
    number,
    number_lines,
    overview,
    target_text,
    times,
    verdict_text,
    write_text,
)
from ctadam.artifact.report import explorer as exploring
from ctadam.artifact.report.html import records, render
from ctadam.errors import ArtifactError
from ctadam.storage.manifest import root

log = logging.getLogger("ctadam")

#: Largest size of the page in bytes. Figures of further scales are embedded while they fit, and linked otherwise.
LIMIT = 4_000_000
#: Who makes a claim, for the narrow column of the table.
_WHO = {"P": "paper", "D": "derived", "R": "reviewers"}
#: Settings under which docutils reads no files, and passes nothing through as HTML.
_SAFE = {"raw_enabled": False, "file_insertion_enabled": False, "report_level": 5}
#: Length in characters up to which an alternative text takes sentences of the caption.
_ALTERNATIVE = 300


def _own_ledgers(checkout: Path) -> dict[str, pd.DataFrame]:
    """Return ``{scale: ledger}`` of the reader's own judged runs. A damaged one must not cost the page."""
    found = {}
    for path in sorted((checkout / "results" / "fresh").glob("*/claims.csv")):
        try:
            ledger = read_ledger(path)
            levels_of(ledger)
        except (ArtifactError, KeyError, ValueError) as error:
            log.warning("ctadam: the page leaves out %s: %s", path, error)
            continue
        found[f"{path.parent.name} (yours)"] = ledger
    return found


def _picture(path: Path) -> str:
    """Return a PNG file as a data URI. Lossless WebP shows the same pixels in a third of the bytes."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "WEBP", lossless=True, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _caption(checkout: Path, figure: str) -> dict[str, Any]:
    """Return title, note, text as HTML, and alternative text of a figure, from its caption."""
    title = caption_title(checkout, figure)
    text = caption_path(checkout, figure).read_text(encoding="utf-8")
    match = re.match(r"\*\*.+?\*\*\s*(?:\(([^()]*)\))?[.:]?\s*(.*)", text, re.DOTALL)
    note, body = (match[1] or "", match[2]) if match else ("", text)
    html = publish_parts(body, writer="html5", settings_overrides=_SAFE)["fragment"]
    # Panels in bold; a sentence that begins with one begins a paragraph.
    html = re.sub(r"\(([a-z])\)", r"<b>(\1)</b>", html)
    html = re.sub(r"(?<=[.:])\s<b>", "</p>\n<p><b>", html)
    plain = " ".join(publish_doctree(body, settings_overrides=_SAFE).astext().split())
    alternative = f"Figure {figure.removeprefix('fig')}: {title}."
    for sentence in re.split(r"(?<=[.;:]) (?=\(?[a-zA-Z])", plain):
        if len(alternative) + len(sentence) > _ALTERNATIVE:
            break
        alternative += " " + sentence
    # docutils escapes the caption's text.
    return {"title": title, "note": note, "caption": Markup(html), "alt": alternative}


def _levels(ledger: pd.DataFrame, claim: Claim) -> dict[str, Any]:
    """Return the levels of a claim as text: all of them, and in summary where there are many."""
    return {
        "verdict": ledger.loc[ledger["id"] == claim.id, "verdict"].iloc[0],
        "verdict_text": verdict_text(ledger, claim.id),
        "levels": explain.level_rows(ledger[ledger["id"] == claim.id], claim),
        "summary": level_lines(ledger, claim.id),
        "numbers": number_lines(ledger, claim.id),
    }


def _measured(ledger: pd.DataFrame, claim: Claim) -> str:
    """Return the estimates of a claim with one level, and otherwise the number of levels that hold."""
    rows = levels_of(ledger[ledger["id"] == claim.id])
    held, total = holds(ledger, claim.id)
    if len(rows) == 1:
        return estimate_text(rows.iloc[0].to_dict(), claim.form)
    if total > 1:
        return f"holds at {held} of {total} levels"
    return ", ".join(f"{row['part']} {number(row['estimate'], claim.form)}" for row in rows.to_dict("records"))


def _claim(
    checkout: Path, base: str, claim: Claim, row: Mapping[Any, Any], every: Mapping[str, pd.DataFrame], rules: str
) -> dict[str, Any]:
    """Return what the page shows of one claim.

    Args:
        checkout: directory of the checkout.
        base: prefix of links to its files.
        claim: the claim.
        row: its row of the headline.
        every: ledgers by scale, shipped and own.
        rules: text of the ledger's history.
    """
    scale = row["scale"]
    dates = {id: date for id, date, _ in history.rules(rules)}
    results = Path("results/cached") / scale
    data = [
        {"href": f"{base}{results.as_posix()}/{claim.experiment}/" + ("" if "*" in file else file), "file": file}
        | {"columns": columns}
        for file, columns in explain.tables_of(checkout / results, claim).items()
    ]
    code = []
    for what, function in explain.functions(claim).items():
        file, _, line = explain.where(function).partition(":")
        code.append(
            {"what": what, "name": function.__name__, "href": f"{base}{file}#L{line}", "file": f"{file}:{line}"}
        )
    return {
        "id": claim.id,
        "text": claim.text,
        "source": claim.source,
        "who": _WHO[claim.source],
        "source_text": SOURCE[claim.source],
        "statistic": claim.statistic,
        "rule": claim.rule,
        "target": target_text(claim.id),
        "fixed": dates.get(claim.id),
        "changes": history.changes(rules, claim.id),
        "figure": claim.figure,
        "experiment": claim.experiment,
        "scale": scale,
        "trained_on": row.get("data") or "",
        "measured": _measured(every[scale], claim),
        "decides": _levels(every[scale], claim),
        "others": {
            name: _levels(ledger, claim)
            for name, ledger in every.items()
            if name != scale and claim.id in set(ledger["id"])
        },
        "data": data,
        "code": code,
    }


def _scales_of(figure: str, claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the scales in the order in which they show a figure: by the number of its claims that they decide."""
    decided = [claim["scale"] for claim in claims if claim["figure"] == figure]
    return sorted(report.HEADLINE_SCALES, key=lambda scale: -decided.count(scale))


def _figure(
    checkout: Path, base: str, figure: str, claims: Sequence[Mapping[str, Any]], tables: Sequence[pd.DataFrame]
) -> dict[str, Any]:
    """Return what the page shows of one figure."""
    pictures = []
    for scale in _scales_of(figure, claims):
        pdf, png = (Path("paper_figures/cached") / path for path in paths(figure, scale))
        if (checkout / png).exists():
            with Image.open(checkout / png) as image:
                width, height = image.size
            links = {"pdf": base + pdf.as_posix(), "png": base + png.as_posix()}
            pictures.append(
                {"scale": scale, "width": width, "height": height, "data": _picture(checkout / png)} | links
            )
    own = [t for t in tables if (t["scale"] == "laptop").all()] + [t for t in tables if (t["device"] != "cpu").any()]
    cpu, gpu, disk = times(own, FIGURES[figure])
    return _caption(checkout, figure) | {
        "key": figure,
        "number": figure.removeprefix("fig"),
        "pictures": pictures,
        "claims": [claim for claim in claims if claim["figure"] == figure],
        "cpu": cpu,
        "gpu": gpu,
        "disk": disk,
    }


def _tally(ledger: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the number of claims per verdict for each source."""
    rows = []
    for source, text in SOURCES.items():
        own = ledger.loc[ledger["source"] == source, "verdict"]
        if len(own):
            verdicts = [(verdict, int((own == verdict).sum())) for verdict in VERDICTS]
            rows.append({"source": source, "text": text, "count": len(own), "verdicts": verdicts})
    return rows


def page(checkout: str | Path, base: str = "") -> str:
    """Return the artifact's page.

    The same files give the same text.

    Args:
        checkout: directory of the checkout.
        base: prefix of links to files of the checkout, such as a path or a URL that ends in a slash.

    Raises:
        ArtifactError: if nothing is shipped, or shipped results are damaged.
    """
    checkout = Path(checkout)
    shown = headline(checkout)
    own = _own_ledgers(checkout)
    every = ledgers(checkout) | own
    rules = (checkout / history.PAGE).read_text(encoding="utf-8")
    rows = {row["id"]: row for row in shown.to_dict("records")}
    claims = [_claim(checkout, base, c, rows[c.id], every, rules) for c in CLAIMS if c.id in rows]
    for claim in claims:
        claim["yours"] = {name: claim["others"][name] for name in own if name in claim["others"]}
    scales = directories(checkout / "results" / "cached")
    tables = [overview(directory) for directory in scales]
    figures = [_figure(checkout, base, figure, claims, tables) for figure in FIGURES]
    context = {
        "version": __version__,
        "base": base,
        "claims": claims,
        "rest": [claim for claim in claims if claim["figure"] not in FIGURES],
        "figures": [figure for figure in figures if figure["pictures"] or figure["claims"]],
        "tally": _tally(shown),
        "total": counts(shown),
        "by_scale": list(shown["scale"].value_counts().items()),
        "verdicts": VERDICTS,
        "sources": _WHO,
        "only_abstract": ONLY_ABSTRACT,
        "explorer": exploring.data(checkout),
        "provenance": [
            {"scale": directory.name, "rows": table.to_dict("records"), "records": records(directory)}
            for directory, table in zip(scales, tables, strict=True)
        ],
        "own": list(own),
    }
    _keep_within_limit(context)
    return render("artifact.html", **context)


def _keep_within_limit(context: dict[str, Any]) -> None:
    """Remove the data of a figure's further pictures where the page would exceed `LIMIT`."""
    further = [picture for figure in context["figures"] for picture in figure["pictures"][1:]]
    data = [picture["data"] for picture in further]
    for picture in further:
        picture["data"] = ""
    size = len(render("artifact.html", **context).encode())
    for picture, text in zip(further, data, strict=True):
        # Image tags take a little more than their data.
        if size + len(text) + 1000 <= LIMIT:
            picture["data"] = text
            size += len(text) + 1000


def write(path: str | Path, base: str | None = None) -> Path:
    """Write the page of this checkout to a file, and return its path.

    Args:
        path: the file.
        base: prefix of links to files of the checkout; default: relative to the page.

    Raises:
        ArtifactError: if it cannot be written, nothing is shipped, or shipped results are damaged.
    """
    path, checkout = Path(path), root()
    if path.is_dir():
        raise ArtifactError(f"cannot write {path}: it is a directory")
    if base is None:
        relative = Path(os.path.relpath(checkout.resolve(), path.absolute().parent.resolve())).as_posix()
        base = "" if relative == "." else f"{relative}/"
    elif base and not base.endswith("/"):
        base += "/"
    write_text(path, page(checkout, base))
    return path
