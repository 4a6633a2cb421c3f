"""docs/ensemble.md: its example runs, and its numbers are the ones that were measured."""

import hashlib
import json
import re
import shutil

import pytest


@pytest.fixture
def page(root):
    return (root / "docs" / "ensemble.md").read_text(encoding="utf-8")


@pytest.fixture
def throughput(benchmark_script):
    return benchmark_script("throughput")


def test_the_example_runs(page):
    names = {}
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(block.replace('"steps": 200', '"steps": 3'), names)
    assert len(names["table"]) == 9


def test_the_table_is_not_stale(page, throughput):
    assert throughput.page_with(throughput.table(), page, throughput.BEGIN, throughput.END) == page, (
        "run python benchmarks/throughput.py --table"
    )


def test_the_measured_times_are_the_ones_that_were_written(throughput):
    files = sorted(throughput.RESULTS.glob("throughput_*.csv"))
    assert files
    for file in files:
        provenance = json.loads(file.with_suffix(".json").read_text())
        assert provenance["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        lengths = {len(times) for case in throughput.load(file).values() for _, times in case.values()}
        assert lengths == {provenance["repetitions"]}


def test_other_times_make_another_table(page, throughput, tmp_path):
    """Or the test above could not fail."""
    for file in throughput.RESULTS.glob("throughput_*"):
        shutil.copy(file, tmp_path)
    (csv,) = tmp_path.glob("*.csv")
    csv.write_text(csv.read_text().replace("e-", "e+"))
    assert throughput.page_with(throughput.table(tmp_path), page, throughput.BEGIN, throughput.END) != page
