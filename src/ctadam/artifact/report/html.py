"""Jinja2 templates of the HTML pages, and the pages of Snakemake's report: ledger and provenance."""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ctadam.artifact.ledger import check_ledger, ledger_path, read_ledger
from ctadam.artifact.report import (
    ONLY_ABSTRACT,
    counts,
    counts_by_source,
    duration,
    experiments,
    level_lines,
    number_lines,
    overview,
    size,
    target_text,
    verdict_text,
    write_text,
)
from ctadam.storage.store import checked_shards

#: Directory of the templates, style sheets and scripts.
TEMPLATES = Path(__file__).parent / "templates"
#: Keys of an experiment's first record that the pages show.
_SHOWN = ("platform", "python", "packages", "determinism", "data", "code", "parameters")


def asset(name: str) -> Markup:
    """Return a style sheet or script as it is: Jinja2 must not read its braces."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


_ENVIRONMENT = Environment(
    loader=PackageLoader("ctadam.artifact.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters |= {"duration": duration, "size": size}
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
_ENVIRONMENT.globals |= {"asset": asset}


def render(template: str, **context: Any) -> str:
    """Return a template filled with values, which are escaped."""
    return _ENVIRONMENT.get_template(template).render(context)


def records(results: str | Path) -> list[tuple[str, list[dict[str, Any]], str]]:
    """Return the provenance of each experiment with raw runs: name, records of the shards, and what they share as YAML.

    Raises:
        ArtifactError: if runs are missing or damaged.
    """
    found: list[tuple[str, list[dict[str, Any]], str]] = []
    for name in experiments(results):
        shards = list(checked_shards(results, name).values())
        shown = {key: shards[0].get(key) for key in _SHOWN}
        found.append((name, shards, yaml.safe_dump(shown, sort_keys=False, default_flow_style=None)))
    return found


def ledger_page(results: str | Path) -> str:
    """Return the ledger of a scale's results as HTML.

    Raises:
        ArtifactError: if the ledger is missing, was edited, or was made from other tables.
    """
    check_ledger(results)
    ledger = read_ledger(ledger_path(results))
    rows = [
        row
        | {"lines": level_lines(ledger, row["id"]), "numbers": number_lines(ledger, row["id"])}
        | {"verdict_text": verdict_text(ledger, row["id"]), "target": target_text(row["id"])}
        | {"shipped_verdict": row.get("shipped_verdict", "")}
        for row in ledger.to_dict("records")
    ]
    return render(
        "snakemake_claims.html",
        title=f"Ledger of claims: {Path(results).name} scale",
        rows=rows,
        total=f"{len(ledger)} claims: {counts(ledger)}",
        sources=counts_by_source(ledger),
        only_abstract=ONLY_ABSTRACT,
    )


def provenance_page(results: str | Path) -> str:
    """Return the provenance and run times of a scale's results as HTML.

    Raises:
        ArtifactError: if runs are missing or damaged.
    """
    return render(
        "snakemake_provenance.html",
        title=f"Provenance and run times: {Path(results).name} scale",
        rows=overview(results).to_dict("records"),
        records=records(results),
    )


def write_report_pages(results: str | Path) -> list[Path]:
    """Write the report's HTML pages to the directory of the results, and return their paths."""
    pages = {"claims": ledger_page, "provenance": provenance_page}
    paths = [Path(results) / f"{name}.html" for name in pages]
    for path, page in zip(paths, pages.values(), strict=True):
        write_text(path, page(results))
    return paths
