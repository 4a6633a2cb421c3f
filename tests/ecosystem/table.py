"""The table of docs/ecosystem.md, made from the tests and the lock.

python tests/ecosystem/table.py    renew the table

A test that is not marked as an expected failure must pass in `make test-ecosystem`, which CI runs. An expected failure must
fail there (`strict=True`). So the marks are the results.
"""

import ast
import re
from pathlib import Path

from ctadam.artifact.report import with_table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "ecosystem.md"
BEGIN, END = "<!-- table of tests/ecosystem/table.py -->", "<!-- end of table -->"


def _constants(tree):
    """Return PARTNER and PACKAGE of a test module."""
    (assigned,) = (node.value for node in tree.body
                   if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "(PARTNER, PACKAGE)")  # fmt: skip
    return ast.literal_eval(assigned)


def _failures(test):
    """Return the reasons of a test's expected failures."""
    calls = [node for decorator in test.decorator_list for node in ast.walk(decorator)
             if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.xfail"]  # fmt: skip
    return [{key.arg: ast.literal_eval(key.value) for key in call.keywords}["reason"] for call in calls]


def table(directory=HERE, lock=ROOT / "requirements.txt"):
    """Return the table as Markdown: one row per test function."""
    versions = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    lines = ["| partner | what is checked | result | test |", "|---|---|---|---|"]
    for path in sorted(directory.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        partner, package = _constants(tree)
        for test in tree.body:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                checked = " ".join(ast.get_docstring(test).split()).rstrip(".")
                result = "; ".join(f"fails: {reason}" for reason in _failures(test)) or "passes"
                name = f"{partner}, {package} {versions[package]}"
                lines.append(f"| {name} | {checked} | {result} | `{path.name}::{test.name}` |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(), BEGIN, END), encoding="utf-8")
