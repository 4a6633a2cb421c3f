"""Test the pages on KAdam: examples run, numbers are the measured ones, and the conformance table names existing tests."""

import ast
import hashlib
import importlib.util
import json
import re
import warnings
from pathlib import Path

import pytest

from ctadam import stage_betas

ROOT = Path(__file__).parents[2]
EXAMPLES = (ROOT / "docs" / "kadam.md").read_text()
PAGE = (ROOT / "docs" / "kadam_reference.md").read_text()


@pytest.fixture
def step_time():
    spec = importlib.util.spec_from_file_location("step_time", ROOT / "benchmarks" / "step_time.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(title):
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings():
        for block in re.findall(r"```python\n(.*?)```", EXAMPLES + PAGE, re.DOTALL):
            exec(block, names)
    assert names["losses"][-1] < names["losses"][0] / 2
    assert (tmp_path / "optimizer.pt").exists()


def test_the_table_of_step_times_is_not_stale(step_time):
    assert step_time.page_with(step_time.table(), PAGE) == PAGE, "run python benchmarks/step_time.py --table"


def test_the_measured_times_are_the_ones_that_were_written(step_time):
    files = sorted(step_time.RESULTS.glob("step_time_*.csv"))
    assert files
    for file in files:
        provenance = json.loads(file.with_suffix(".json").read_text())
        assert provenance["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        repetitions = {len(times) for case in step_time.load(file).values() for times in case.values()}
        assert repetitions == {provenance["repetitions"]}


def test_other_times_make_another_table(step_time, tmp_path):
    """Otherwise the test above could not fail."""
    for file in step_time.RESULTS.glob("step_time_*"):
        (tmp_path / file.name).write_text(file.read_text())
    [csv] = tmp_path.glob("*.csv")
    lines = csv.read_text().splitlines()
    doubled = [line.rsplit(",", 1) for line in lines]
    csv.write_text("\n".join(f"{a},{float(b) * 2}" if "KAdam fused" in a else f"{a},{b}" for a, b in doubled) + "\n")
    assert step_time.page_with(step_time.table(tmp_path), PAGE) != PAGE


def test_the_conformance_table_names_tests_that_exist():
    defined = {
        f"{file.name}::{node.name}"
        for file in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    rows = _rows("Conformance")
    assert {row[0] for row in rows} >= {str(number) for number in range(1, 10)}
    for number, what, tests in rows:
        named = re.findall(r"`([^`]+)`", tests)
        assert named, (number, what)
        assert set(named) <= defined, set(named) - defined


def test_the_table_of_stages_shows_what_stage_betas_gives():
    shown = {row[0].split('"')[1]: row[3] for row in _rows("Stages") if '"' in row[0]}
    assert set(shown) == {"inverse-exp", "uniform", "exp", "naive"}
    for name, pair in shown.items():
        assert pair == "({:.3g}, {:.3g})".format(*stage_betas(name, 2)[0])


def test_the_table_of_bytes_is_its_formula():
    for row in _rows("Memory and traffic"):
        k = int(row[0].split()[0])
        assert [int(cell) for cell in row[1:]] == [8 * k, 12 + 16 * k]
