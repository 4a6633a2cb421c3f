"""ARTIFACT.md: it is not stale, and every number on it is that of the ledger, the provenance or a measurement."""

import json
import re
import shutil

import pytest

from ctadam import cli
from ctadam.artifact import report, reviewers, scales
from ctadam.artifact.ledger import CLAIMS, read_ledger
from ctadam.storage.provenance import sha256
from ctadam.storage.store import checked_shards


def test_the_page_is_not_stale(root):
    assert (root / "ARTIFACT.md").read_text(encoding="utf-8") == reviewers.page(root), "run `ctadam docs`"


def rows(page, heading):
    """The cells of the table below a heading, one list per row, without the header."""
    lines = page.split(heading)[1].splitlines()
    table = [line for line in lines[: next((i for i, x in enumerate(lines) if x.startswith("#")), None)] if "|" in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[2:]]


def test_each_shipped_claim_has_command_value_tolerance_and_cost(root):
    page = (root / "ARTIFACT.md").read_text(encoding="utf-8")
    for scale, ledger in report.ledgers(root).items():
        table = rows(page, f"### At {scale} scale")
        assert [re.match(r"\[(\w+)\]", row[0])[1] for row in table] == list(ledger["id"])
        for (claim, command, expected, target, minutes, memory, disk), id in zip(table, ledger["id"], strict=True):
            assert command == (f"`snakemake {id}`" if scale == "laptop" else f"`snakemake {id} --config scale={scale}`")
            assert expected.startswith(f"**{report.verdict_text(ledger, id)}**") and target and claim
            assert float(minutes) > 0 and re.fullmatch(r"[\d.]+ [kM]B", disk)
            assert scale != "laptop" or re.fullmatch(r"[\d.]+ GB", memory)
    assert {claim.id for claim in CLAIMS} == {
        re.match(r"\[(\w+)\]", r[0])[1] for r in rows(page, "### At laptop scale")
    }


def test_the_minimal_example_is_the_cheapest_reproduced_claim(root):
    page = (root / "ARTIFACT.md").read_text(encoding="utf-8")
    id = re.search(r"\.venv/bin/snakemake (\w+)", page)[1]
    cost = report.overview(root / "results/cached/laptop").set_index("experiment")["seconds"]
    ledger = report.ledgers(root)["laptop"].set_index("id")
    good = ledger[ledger["verdict"] == "reproduced"]
    assert cost[good.loc[id, "experiment"]] == cost[good["experiment"]].min()


@pytest.fixture
def checkout(root, shipped, tmp_path, monkeypatch):
    """A directory that looks like a checkout, with smoke runs shipped."""
    shutil.copytree(shipped, tmp_path / "results/cached/smoke")
    (tmp_path / "workflow").symlink_to(root / "workflow")
    monkeypatch.setattr(report, "HEADLINE_SCALES", ("smoke",))
    return tmp_path


def change_records(monkeypatch, change):
    """Have every provenance record changed as it is read."""
    changed = lambda directory, name: {p: change(r) for p, r in checked_shards(directory, name).items()}  # noqa: E731
    monkeypatch.setattr(report, "checked_shards", changed)
    monkeypatch.setattr(reviewers, "checked_shards", changed)


def test_memory_and_machine_are_those_of_the_provenance(checkout, monkeypatch):
    machine = {"processor": "A 1", "cores": 3, "memory": 8 * 10**9}
    change_records(monkeypatch, lambda record: record | {"max_rss": 2_340_000_000, "machine": machine, "cpu_s": 90.0})
    page = reviewers.page(checkout, "smoke")
    assert "| machine | A 1, 3 cores, 8.0 GB |" in page and "`max_rss` in the provenance" in page
    assert "2.3 GB of memory per core" in page
    shards = {name: len(checked_shards(checkout / "results/cached/smoke", name)) for name in ("growth", "tightness")}
    cells = {re.match(r"\[(\w+)\]", row[0])[1]: row[4:6] for row in rows(page, "### At smoke scale")}
    assert cells["S1"] == [f"{1.5 * shards['growth']:.1f}", "2.3 GB"]
    assert cells["S7"] == [f"{1.5 * shards['tightness']:.1f}", "2.3 GB"]


def test_memory_of_older_runs_was_measured_afterwards(checkout, monkeypatch):
    change_records(monkeypatch, lambda record: {k: v for k, v in record.items() if k not in ("max_rss", "machine")})
    page = reviewers.page(checkout, "smoke")
    assert "Memory was not recorded." in page and "| machine | not recorded |" in page
    table = checkout / reviewers.MEMORY
    table.parent.mkdir()
    table.write_text("experiment,scale,shard,shards,wall_s,max_rss\ngrowth,toy,1,2,3.0,1500000000\n")
    page = reviewers.page(checkout, "smoke")
    assert "measured afterwards at toy scale" in page
    cells = {re.match(r"\[(\w+)\]", row[0])[1]: row[5] for row in rows(page, "### At smoke scale")}
    assert cells["S1"] == "1.5 GB" and cells["S7"] == report.NOTHING


def test_the_command_writes_the_page(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(reviewers, "page", lambda root: "new")
    (checkout / "README.md").write_text(f"{report.BEGIN}\n{report.END}\n")
    monkeypatch.setattr(report, "figure_table", lambda root: "new")
    (checkout / "docs").mkdir()
    (checkout / "docs/scales.md").write_text(f"{scales.BEGIN}\n{scales.END}\n")
    assert cli.main(["docs"]) == 0 and (checkout / "ARTIFACT.md").read_text() == "new"


def test_the_measured_memory_is_the_committed_table_s(root):
    record = json.loads((root / reviewers.MEMORY).with_suffix(".json").read_text(encoding="utf-8"))
    measured = reviewers.measured_memory(root)
    laptop = read_ledger(root / "results/cached/laptop/claims.csv")
    assert set(laptop["experiment"]) <= set(measured) and record["sha256"] == sha256(root / reviewers.MEMORY)
    assert all(100e6 < int(row["max_rss"]) < record["machine"]["memory"] for row in measured.values())


@pytest.mark.slow
def test_the_script_measures_and_the_page_reads_it(benchmark_script, monkeypatch, tmp_path):
    script, out = benchmark_script("memory"), tmp_path / "results/cached/benchmarks"
    monkeypatch.setattr(script, "EXPERIMENTS", ("quadratic",))
    script.main(["--scale", "smoke", "--out", str(out)])
    (row,) = reviewers.measured_memory(tmp_path).values()
    assert row["scale"] == "smoke" and 100e6 < int(row["max_rss"]) < 4e9
    record = json.loads((out / "memory_cpu.json").read_text())
    assert record["sha256"] == sha256(out / "memory_cpu.csv") and record["machine"]["cores"]
