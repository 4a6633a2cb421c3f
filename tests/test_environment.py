"""The ways to install agree: pyproject, the lock, conda's environment file."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


@pytest.fixture(scope="module")
def locked(root):
    """Package -> its locked versions (more than one where a marker chooses)."""
    pins = re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", (root / "requirements.txt").read_text(), re.MULTILINE)
    versions = {}
    for name, version in pins:
        versions.setdefault(canonicalize_name(name), []).append(Version(version))
    return versions


def test_conda_route_installs_the_lock_and_nothing_else(root, locked):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.txt"]
    names = {re.split(r"[=<>]", d)[0] for d in plain}
    assert names == {"python", "pip"} and not names & set(locked)


def test_lock_satisfies_every_declared_requirement(root, locked):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(r for extra in extras for r in extra)]:
        requirement = Requirement(line)
        versions = locked[canonicalize_name(requirement.name)]
        assert all(v in requirement.specifier for v in versions), line


def test_lock_is_hashed_and_names_no_index(root, locked):
    text = (root / "requirements.txt").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)
    assert len(entries) > 50 and all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?://|index-url|find-links|file:", text)
    # The pair that is known to import together.
    assert locked["torch"] == [Version("2.15.0")] and locked["torchvision"] == [Version("0.29.2")]


def test_lock_is_what_pyproject_resolves_to(root, tmp_path):
    """Resolving again, with the locked versions preferred, changes nothing."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    shutil.copy(root / "requirements.txt", tmp_path)
    command = [
        Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--generate-hashes", "--universal",
        "--python-version", "3.11", "--no-header", "--all-extras", "pyproject.toml", "-o", "requirements.txt",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode and re.search("error sending request|Failed to fetch|dns|network", done.stderr, re.IGNORECASE):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "requirements.txt").read_text() == (root / "requirements.txt").read_text()


def test_the_environment_is_made_where_the_path_has_a_space(root, tmp_path):
    """With a stand-in for Python that makes an empty environment and records what it is asked for."""
    here, python = tmp_path / "with space", tmp_path / "python"
    here.mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(root / name, here)
    python.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
""",
        encoding="utf-8",
    )
    python.chmod(0o755)
    done = subprocess.run(["make", "environment", f"PYTHON={python}"], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text(encoding="utf-8")
    assert "-m pip install --quiet --require-hashes -r requirements.txt" in calls and "--editable ." in calls
    assert (here / ".venv/.installed").exists()


def test_asking_about_betas_needs_neither_torch_nor_the_workflow(root):
    """`ctadam stability` works and is quick in an installation without the extras."""
    code = (
        "import sys\n"
        "from ctadam.cli import main\n"
        "assert main(['stability', '--betas', '0.9', '0.95']) == 0\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'snakemake', 'scipy', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
