"""What code determines a result: a module, and what it imports from this package, directly or through other modules."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def _path(module):
    """Return the file of a module of this package, or None if there is no such module."""
    parts = module.split(".")[1:]
    for path in (PACKAGE.joinpath(*parts, "__init__.py"), PACKAGE.joinpath(*parts).with_suffix(".py")):
        if path.is_file():
            return path
    return None


@cache
def _imports(path):
    """Return ``{(module, name)}`` of what a file imports from this package, anywhere in it; name is None for a whole module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ctadam":
            found |= {(node.module, alias.name, alias.asname or alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, None, None) for alias in node.names if alias.name.split(".")[0] == "ctadam"}
    return found


def closure(*modules: str) -> list[Path]:
    """Return the files that determine what some modules do.

    A name that a package's ``__init__.py`` takes from one of its modules leads to that module, and not to the package's others:
    importing them changes nothing.

    Args:
        modules: dotted names, such as ``ctadam.experiments.growth.runs``.

    Returns:
        Sorted paths: the modules' own, and those of all modules of this package that they import.
    """
    found, open_ = set(), [(module, None) for module in modules]
    seen = set()
    while open_:
        module, name = open_.pop()
        if (module, name) in seen:
            continue
        seen.add((module, name))
        if name is not None and _path(f"{module}.{name}"):
            module, name = f"{module}.{name}", None
        path = _path(module)
        found.add(path)
        passed_on = path.name == "__init__.py" and name is not None
        open_ += [(other, what) for other, what, bound in _imports(path) if not passed_on or bound == name]
    return sorted(found)
