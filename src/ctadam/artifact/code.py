"""Find the source files that determine a result: a module and its direct and indirect imports from this package."""

import ast
from functools import cache
from pathlib import Path

#: Directory of this package.
PACKAGE = Path(__file__).resolve().parents[1]


def _path(module: str) -> Path | None:
    """Return the file of a module of this package, or None if there is no such module."""
    parts = module.split(".")[1:]
    for path in (PACKAGE.joinpath(*parts, "__init__.py"), PACKAGE.joinpath(*parts).with_suffix(".py")):
        if path.is_file():
            return path
    return None


@cache
def _imports(path: Path) -> set[tuple[str, str | None, str | None]]:
    """Return what a file imports from this package, at any depth in its code.

    Returns:
        Set of ``(module, name, bound)``, where ``bound`` is the local name. Both names are None for ``import module``.
    """
    names: set[tuple[str, str | None, str | None]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ctadam":
            names |= {(node.module, alias.name, alias.asname or alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {(alias.name, None, None) for alias in node.names if alias.name.split(".")[0] == "ctadam"}
    return names


def closure(*modules: str) -> list[Path]:
    """Return the source files that determine what the given modules do.

    A name that a package's ``__init__.py`` re-exports adds the module that defines it, but not the package's other modules.

    Args:
        *modules: dotted names, such as ``ctadam.experiments.growth.runs``.

    Returns:
        Sorted paths of the modules and of all modules of this package that they import.
    """
    files: set[Path] = set()
    pending: list[tuple[str, str | None]] = [(module, None) for module in modules]
    seen: set[tuple[str, str | None]] = set()
    while pending:
        module, name = pending.pop()
        if (module, name) in seen:
            continue
        seen.add((module, name))
        if name is not None and _path(f"{module}.{name}"):
            module, name = f"{module}.{name}", None
        path = _path(module)
        if path is None:
            raise FileNotFoundError(f"no module {module} in {PACKAGE}")
        files.add(path)
        reexported = path.name == "__init__.py" and name is not None
        pending += [(other, what) for other, what, bound in _imports(path) if not reexported or bound == name]
    return sorted(files)


def claim_ids(experiment: str) -> list[str]:
    """Return the ids of the claims that an experiment's ``claims.py`` defines, without importing it.

    The workflow needs them to name its targets, and importing every ``claims.py`` would delay each of its commands.

    Args:
        experiment: name of the experiment.
    """
    path = PACKAGE / "experiments" / experiment / "claims.py"
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [
        str(call.args[0].value)
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id == "claim"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]
