"""The structure of the package: imports run downwards, stages keep to their own, and what determines a run is computed."""

import ast
import subprocess
import sys

import pytest

from ctadam.artifact import code
from ctadam.experiments import EXPERIMENTS

#: The rooms from top to bottom. A module imports from its own room and from those below.
ROOMS = [
    "cli",
    "artifact",
    "experiments",
    "analysis",
    "storage",
    "training",
    "monitor",
    "data",
    "optim",
    "theory",
    "models",
    "bottom",
]


def room(module):
    """The room of a dotted module of the package."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return name if name in ROOMS else "bottom"


def modules(root):
    """Dotted name and file of every module of the package."""
    source = root / "src"
    for path in sorted(source.rglob("*.py")):
        yield ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"), path


def imported(path):
    """Modules of the package that a file imports, anywhere in it; where a name is imported, with the name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ctadam":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "ctadam"}
    return found


def test_imports_run_downwards(root):
    for module, path in modules(root):
        if module in ("ctadam", "ctadam.__main__"):
            continue  # the package's front door opens the optimizer's room, and __main__ the command line
        for other in imported(path):
            assert ROOMS.index(room(module)) <= ROOMS.index(room(other)), f"{module} imports {other}"


def test_the_package_is_two_levels_deep(root):
    assert max(module.count(".") for module, _ in modules(root)) <= 3  # ctadam.experiments.<name>.<stage>
    for name in EXPERIMENTS:
        files = {path.name for path in (root / "src/ctadam/experiments" / name).glob("*.py")}
        assert files >= {"__init__.py", "config.py", "runs.py", "predict.py", "measure.py", "claims.py", "figure.py"}, (
            name
        )


def test_theory_knows_no_data_predictions_no_outcome_and_measurements_no_theory(root):
    for module, path in modules(root):
        others, stage = imported(path), module.rpartition(".")[2]
        if room(module) == "theory":
            assert all(room(other) == "theory" for other in others), module
        if room(module) == "experiments" and stage == "predict":
            assert all(room(other) == "theory" or other.split(".")[-2] == "predict" or other.endswith(".predict")
                       for other in others), module  # fmt: skip
        if room(module) == "experiments" and stage == "measure":
            # The bias correction is part of the update's definition.
            known = {other for other in others if room(other) in ("theory", "models", "training", "optim")}
            assert known <= {"ctadam.optim.prefactor"}, module
            assert not any("claims" in other or "predict" in other for other in others), module


def test_validating_a_configuration_imports_nothing_heavy(root):
    program = (
        "import sys; from ctadam.artifact import config; config.resolve('laptop'); "
        "print({'torch', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes a small package in the place of ctadam; the closure is computed in it."""
    monkeypatch.setattr(code, "PACKAGE", tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/').replace('/init', '/__init__')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return lambda *names: {path.relative_to(tmp_path).as_posix() for path in code.closure(*names)}

    return write


def test_the_closure_follows_imports_anywhere_in_a_file(package):
    closure = package(
        a="from ctadam import b\n", b="def late():\n    from ctadam.c import thing\n", c="import ctadam.d\n", d="",
        e="import ctadam.a",
    )  # fmt: skip
    assert closure("ctadam.a") == {"a.py", "b.py", "c.py", "d.py"}
    assert closure("ctadam.d") == {"d.py"} and closure("ctadam.e", "ctadam.d") == {f"{x}.py" for x in "abcde"}


def test_a_name_that_a_package_passes_on_leads_to_its_module_alone(package):
    closure = package(
        p__init="from ctadam.p.x import f\nfrom ctadam.p.y import g as h\n", p__x="", p__y="from ctadam.z import k\n", z="",
        one="from ctadam.p import f\n", two="from ctadam.p import h\n", all="import ctadam.p\n", own="from ctadam.p import y\n",
    )  # fmt: skip
    assert closure("ctadam.one") == {"one.py", "p/__init__.py", "p/x.py"}
    assert closure("ctadam.two") == {"two.py", "p/__init__.py", "p/y.py", "z.py"}
    assert closure("ctadam.all") == {"all.py", "p/__init__.py", "p/x.py", "p/y.py", "z.py"}
    assert closure("ctadam.own") == {"own.py", "p/y.py", "z.py"}


def test_modules_that_import_each_other_end(package):
    closure = package(a="import ctadam.b\n", b="import ctadam.a\n")
    assert closure("ctadam.a") == closure("ctadam.b") == {"a.py", "b.py"}


def test_the_closure_of_the_runs_is_all_that_they_need(root, tmp_path):
    """With every other module emptied, each experiment's runs can still be imported."""
    kept = {name: code.closure(f"ctadam.experiments.{name}.runs") for name in EXPERIMENTS}
    for name, files in kept.items():
        names = {path.relative_to(code.PACKAGE).as_posix() for path in files}
        assert "optim/fused.py" not in names and "optim/kadam.py" not in names, name
    files = kept["growth"]
    for path in (root / "src/ctadam").rglob("*.py"):
        target = tmp_path / "ctadam" / path.relative_to(root / "src/ctadam")
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path in files else ""
        if path.name == "__init__.py" and path in files:
            # A package's other names come from modules that are not needed.
            text = "\n".join(line for line in text.splitlines() if "kadam import" not in line)
        target.write_text(text, encoding="utf-8")
    program = "import ctadam.experiments.growth.runs as module; module.run, module.grid"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
