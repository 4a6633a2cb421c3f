"""Test the order of rows."""

import ast

import numpy as np
import pandas as pd
import pytest

from ctadam.storage.tables import sort_rows


def test_rows_are_sorted_by_all_keys():
    table = pd.DataFrame({"a": [1, 1, 0, 0], "b": [2.0, 1.0, np.nan, 3.0], "c": list("wxyz")})
    assert "".join(sort_rows(table, ["a", "b"])["c"]) == "zyxw"
    assert "".join(sort_rows(table, ["a", "b"], ascending=[False, True])["c"]) == "xwzy"


def test_repeated_keys_raise():
    table = pd.DataFrame({"a": [1, 1, 2], "b": [np.nan, np.nan, 1.0]})
    with pytest.raises(ValueError, match=r"two rows share a = 1\.0, b = nan"):
        sort_rows(table, ["a", "b"])


def test_package_sorts_rows_only_with_sort_rows(root):
    """`np.sort` and `sorted` order values, and values that tie are the same; rows that tie are not."""
    for path in (root / "src/ctadam").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name, words = node.func.attr, {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                if name in ("sort_values", "sort_index", "argsort", "nlargest", "nsmallest"):
                    assert path.name == "tables.py" or words.get("kind") == "stable", (
                        f"{path.name}:{node.lineno}: {name}"
                    )
