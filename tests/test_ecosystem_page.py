"""docs/ecosystem.md: its table is that of the tests with real partners and of the locked versions."""

import importlib.util

import pytest

from ctadam.artifact.report import with_table


@pytest.fixture
def maker(root):
    spec = importlib.util.spec_from_file_location("ecosystem_table", root / "tests/ecosystem/table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_not_stale(maker):
    page = maker.PAGE.read_text(encoding="utf-8")
    renewed = with_table(page, maker.table(), maker.BEGIN, maker.END)
    assert page == renewed, "run python tests/ecosystem/table.py"


def test_an_expected_failure_and_another_version_change_the_table(maker, tmp_path):
    """Otherwise the test above could not fail."""
    (tmp_path / "test_it.py").write_text(
        'PARTNER, PACKAGE = "It", "it"\n'
        '@pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.xfail(strict=True, reason="it is 2"))])\n'
        'def test_one(x):\n    """It\n    works."""\n'
        'def helper():\n    pass\ndef test_two():\n    """It ends."""\n'
    )
    (tmp_path / "lock").write_text("it==1.5 \\\n    --hash=0\nitem==3\n")
    assert maker.table(tmp_path, tmp_path / "lock").splitlines()[2:] == [
        "| It, it 1.5 | It works | fails: it is 2 | `test_it.py::test_one` |",
        "| It, it 1.5 | It ends | passes | `test_it.py::test_two` |",
    ]


def test_every_test_with_a_partner_is_in_the_group(maker):
    for path in maker.HERE.glob("test_*.py"):
        assert "pytest.mark.ecosystem" in path.read_text(encoding="utf-8").split("pytestmark = ")[1].splitlines()[0], (
            path
        )
