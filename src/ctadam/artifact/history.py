"""Check ``docs/ledger_history.md``: when each rule of the ledger was fixed, and why rules changed.

The page has a table of entries, one per change, and a table of the rules in force, one row per claim with the date on which
its rule was fixed and `ctadam.analysis.verdicts.Claim.digest`. A rule that changes in the code therefore no longer matches
its row, and a new row needs an entry with the reason.
"""

import datetime
import re
from collections.abc import Sequence

from ctadam.analysis.verdicts import Claim
from ctadam.artifact.ledger import CLAIMS
from ctadam.errors import ArtifactError

#: The page, relative to the checkout.
PAGE = "docs/ledger_history.md"
#: Date on which the rules of the second edition were fixed. Rules with a later date need an entry.
FIXED = "2026-11-25"
_ENTRIES, _RULES = "## Entries", "## Rules in force"


def _rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without header.

    Raises:
        ArtifactError: if the page lacks the heading.
    """
    section = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    if section is None:
        raise ArtifactError(f"{PAGE} lacks the heading {heading!r}")
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def rules(page: str) -> list[tuple[str, str, str]]:
    """Return ``(id, date, digest)`` of the rows of the rules in force.

    Args:
        page: text of the page.

    Raises:
        ArtifactError: if the page lacks the table, or a row has another form.
    """
    rows: list[tuple[str, str, str]] = []
    for row in _rows(page, _RULES):
        if len(row) != 3 or not re.fullmatch(r"\d{4}-\d\d-\d\d", row[1]):
            raise ArtifactError(f"{PAGE}: not a row of claim, date and digest: | {' | '.join(row)} |")
        rows.append((row[0], row[1], row[2]))
    return rows


def _ids(text: str) -> set[str]:
    """Return the ids in a text such as ``G1–G4, K1``."""
    ids: set[str] = set()
    for letter, first, last in re.findall(r"\b([A-Z])(\d+)(?:–[A-Z](\d+))?", text):
        ids |= {f"{letter}{number}" for number in range(int(first), int(last or first) + 1)}
    return ids


def entries(page: str) -> set[tuple[str, str]]:
    """Return ``(date, id)`` for each claim of each entry."""
    return {(row[0], id) for row in _rows(page, _ENTRIES) for id in _ids(row[1])}


def changes(page: str, id: str) -> list[tuple[str, str, str, str]]:
    """Return the entries on one claim: date, change, reason, and verdict under the old rule, without Markdown's marks."""
    rows = ([re.sub(r"\*\*|`", "", cell) for cell in row] for row in _rows(page, _ENTRIES) if id in _ids(row[1]))
    return [(date, change, reason, verdict) for date, _, change, reason, verdict in rows]


def _row(claim: Claim, date: str) -> str:
    return f"| {claim.id} | {date} | {claim.digest(date)} |"


def problems(page: str, claims: Sequence[Claim] = CLAIMS) -> list[str]:
    """Return what is wrong with the page, one message per claim.

    Args:
        page: text of the page.
        claims: all claims.

    Returns:
        Messages for a claim without a row or with several, a row that does not match the code's rule, a row dated after `FIXED`
        without an entry of that date, and a row without a claim. Empty if there are none.
    """
    today = datetime.date.today().isoformat()
    listed: dict[str, list[tuple[str, str]]] = {}
    for id, date, digest in rules(page):
        listed.setdefault(id, []).append((date, digest))
    explained = entries(page)
    messages = []
    for claim in claims:
        rows = listed.pop(claim.id, [])
        if len(rows) != 1:
            messages.append(f"{claim.id} has {len(rows)} rows under {_RULES!r}, not one")
        elif claim.digest(rows[0][0]) != rows[0][1]:
            messages.append(f"the rule of {claim.id} is not the one that was fixed on {rows[0][0]}")
        elif rows[0][0] > FIXED and (rows[0][0], claim.id) not in explained:
            messages.append(f"{claim.id} has no entry of {rows[0][0]} under {_ENTRIES!r}")
            continue
        else:
            continue
        messages[-1] += (
            f": write {_row(claim, today)}, and add an entry of {today} for {claim.id} with the change, its reason and the "
            f"verdict under the old rule"
        )
    return messages + [f"{id} is under {_RULES!r}, but there is no such claim" for id in listed]
