"""The tables of docs/scales.md: they come from the shipped runs and the ledgers."""

from ctadam.artifact import report, scales
from ctadam.artifact.config import SCALES


def test_the_page_is_up_to_date(root):
    page = (root / "docs/scales.md").read_text(encoding="utf-8")
    assert page == report.with_table(page, scales.tables(root), scales.BEGIN, scales.END), "run `ctadam docs`"


def test_each_claim_rests_on_one_scale(root):
    rows = [line.split(" | ") for line in scales.tables(root).splitlines() if line.startswith("| `")]
    counts = [row[-1].removesuffix(" |").split(" of ") for row in rows if row[0].strip("| `") in SCALES]
    assert sum(int(count) for count, _ in counts) == int(counts[0][1]) == len(report.headline(root))
