"""docs/kadam.md: one screen, whose numbers are those of the shipped ledger.

python tests/test_kadam_page.py    renew its table
"""

import json
from pathlib import Path

import pytest

from ctadam.artifact.report import headline, with_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "kadam.md"
BEGIN, END = "<!-- table of tests/test_kadam_page.py -->", "<!-- end of table -->"


def _number(value, unit):
    """Format a difference: accuracies in points, losses in nats."""
    text = f"{100 * value:+.1f}" if unit == "points" else f"{value:+.2f}"
    return text.replace("-", "−")


def _range(levels, unit):
    """Return the lowest and the highest estimate of several levels."""
    estimates = sorted(level["estimate"] for level in levels)
    return f"{_number(estimates[0], unit)} to {_number(estimates[-1], unit)}"


def _claims(ledger):
    """Return a ledger's rows by claim, with levels and numbers as objects."""
    return {
        row["id"]: {**row, "levels": json.loads(row["levels"]), "numbers": json.loads(row["numbers"])}
        for row in ledger.to_dict("records")
    }


def table(ledger):
    """Return the verdict's table as Markdown, from a ledger with one row per claim."""
    claims = _claims(ledger)
    rows = []

    def add(what, claim, lead, unit, verdict=None):
        link = f"[{claim}](claims.md#{claim.lower()}), {claims[claim]['scale']}"
        rows.append(f"| {what} | {lead} {unit} | {verdict or claims[claim]['verdict']} | {link} |")

    for task, claim, unit in (("images", "K4", "points"), ("text", "K5", "nats")):
        for level in claims[claim]["levels"]:
            lead = "{} [{}, {}]".format(*(_number(level[key], unit) for key in ("estimate", "low", "high")))
            other = level["part"].removeprefix("to ").removeprefix("tuned ")
            add(f"{task}: 2-Adam beats {other}, both tuned", claim, lead, unit, level["verdict"])
    rates = [level["level"] for level in claims["K1"]["levels"]]
    for rate in (rates[0], rates[-1]):
        levels = [level for level in claims["K1"]["levels"] if level["level"] == rate]
        lead, gains = _range(levels, "points"), sum(level["verdict"] == "reproduced" for level in levels)
        add(
            f"images: 2-Adam beats Adam, both at {rate}",
            "K1",
            lead,
            "points",
            f"{gains} of {len(levels)} strategies gain",
        )
    add("images: that gain is step size; lead at equal steps", "K6", _range(claims["K6"]["levels"], "points"), "points")
    add("images: normalization layers lessen the gain", "K7", _range(claims["K7"]["levels"], "points"), "points")
    return "\n".join(["| claim | 2-Adam's lead | verdict | source |", "|---|---|---|---|", *rows])


def test_the_table_is_not_stale():
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, table(headline(ROOT)), BEGIN, END) == page, "run python tests/test_kadam_page.py"


@pytest.mark.parametrize("claim", ["K1", "K4", "K5", "K6", "K7"])
def test_another_ledger_makes_another_table(claim):
    """Otherwise the test above could not fail."""
    ledger = headline(ROOT)
    changed = ledger.set_index("id")
    levels = [{**level, "estimate": level["estimate"] + 0.5} for level in json.loads(changed.loc[claim, "levels"])]
    changed.loc[claim, "levels"] = json.dumps(levels)
    lines = zip(table(ledger).splitlines(), table(changed.reset_index()).splitlines(), strict=True)
    different = [old for old, new in lines if old != new]
    assert different and all(f"[{claim}]" in line for line in different)


def test_the_ratio_of_step_sizes_is_the_ledgers():
    numbers = _claims(headline(ROOT))["K1"]["numbers"]
    ratios = {f"{value:.1f}" for name, value in numbers.items() if "ratio of update r.m.s." in name}
    assert ratios == {"1.9"} and "1.9 times as large" in PAGE.read_text(encoding="utf-8")


def test_no_claim_is_in_2_adams_favor_at_tuned_rates():
    """The page says that our runs show no gain of 2-Adam at tuned learning rates."""
    claims = _claims(headline(ROOT))
    for claim in ("K4", "K5", "K6"):
        assert all(level["low"] <= 0 for level in claims[claim]["levels"]), claim


def test_the_page_is_one_screen():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60 and all(len(line) <= 130 or line.startswith("|") for line in lines)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(headline(ROOT)), BEGIN, END), encoding="utf-8")
