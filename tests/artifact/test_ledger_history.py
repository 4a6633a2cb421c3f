"""The history page lists the rules in force with their dates, and a rule cannot change without an entry."""

import dataclasses
import datetime

import pytest

from ctadam.artifact import history
from ctadam.artifact.ledger import CLAIMS
from ctadam.errors import ArtifactError

LATER = "2027-01-02"


@pytest.fixture(scope="module")
def page(root):
    return (root / history.PAGE).read_text(encoding="utf-8")


def changed(claim):
    return dataclasses.replace(claim, rule=f"{claim.rule}, more or less")


def with_entry(page, date, claims):
    row = f"| {date} | {claims} | another rule | a reason | reproduced |"
    return page.replace("\n\n## Rules in force", f"\n{row}\n\n## Rules in force")


def test_every_claim_has_one_row_that_matches_the_code(page):
    assert history.problems(page) == []
    assert [id for id, _, _ in history.rules(page)] == [claim.id for claim in CLAIMS]


def test_the_first_entries_are_listed(page):
    found = history.entries(page)
    assert {("2026-11-24", "G3"), ("2026-11-25", "S3"), ("2026-11-25", "N2"), ("2026-11-25", "N7")} <= found
    assert len([date for date, _ in found if date == "2026-11-24"]) == 4


@pytest.mark.parametrize(
    "field, value", [("rule", "any"), ("statistic", "another"), ("text", "the opposite"), ("needed", 1)]
)
def test_a_changed_rule_is_detected(page, field, value):
    claims = [dataclasses.replace(CLAIMS[0], **{field: value}), *CLAIMS[1:]]
    assert len(history.problems(page, claims)) == 1


def test_a_changed_target_is_detected(page):
    from ctadam.analysis.verdicts import at_most

    claims = [dataclasses.replace(CLAIMS[0], targets={"": at_most(12345)}), *CLAIMS[1:]]
    assert len(history.problems(page, claims)) == 1


def test_the_message_holds_the_new_row_and_asks_for_an_entry(page):
    today, claim = datetime.date.today().isoformat(), changed(CLAIMS[0])
    (message,) = history.problems(page, [claim, *CLAIMS[1:]])
    assert f"| {claim.id} | {today} | {claim.digest(today)} |" in message
    assert f"entry of {today} for {claim.id}" in message and "reason" in message


def test_a_new_row_needs_an_entry_of_the_same_date_and_claim(page):
    claim = changed(CLAIMS[0])
    claims = [claim, *CLAIMS[1:]]
    old = next(row for row in page.splitlines() if row.startswith(f"| {claim.id} | {history.FIXED} |"))
    new = page.replace(old, f"| {claim.id} | {LATER} | {claim.digest(LATER)} |")
    assert len(history.problems(new, claims)) == 1
    assert len(history.problems(with_entry(new, "2027-01-03", claim.id), claims)) == 1
    assert len(history.problems(with_entry(new, LATER, CLAIMS[1].id), claims)) == 1
    assert history.problems(with_entry(new, LATER, f"{claim.id}, {CLAIMS[1].id}"), claims) == []


def test_a_date_cannot_be_changed_alone(page):
    claim = CLAIMS[0]
    moved = page.replace(f"| {claim.id} | {history.FIXED} |", f"| {claim.id} | 2026-11-20 |")
    assert len(history.problems(moved)) == 1


def test_rows_without_a_claim_missing_rows_and_doubled_rows_are_detected(page):
    assert len(history.problems(page, CLAIMS[1:])) == 1
    row = next(row for row in page.splitlines() if row.startswith(f"| {CLAIMS[0].id} | {history.FIXED} |"))
    assert len(history.problems(page.replace(f"{row}\n", ""))) == 1
    assert len(history.problems(page.replace(row, f"{row}\n{row}"))) == 1


def test_pages_without_the_tables_are_refused(page):
    with pytest.raises(ArtifactError, match="lacks the heading '## Rules in force'"):
        history.rules(page.replace("## Rules in force", "## Rules"))
    with pytest.raises(ArtifactError, match="not a row"):
        history.rules(f"{page}| S1 | today | 0 |\n")
