"""Shared fixtures: one small set of results that most tests look at."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from ctadam import cli
from ctadam.artifact.promote import promote
from ctadam.experiments import EXPERIMENTS

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT


def _git(directory, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = subprocess.run(["git", *identity, "-C", directory, *words], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="session")
def copy_checkout(root):
    """A function that copies the checkout as it is now, uncommitted changes included, and commits all files of the copy.

    The checkout may be an unpacked archive, without a repository; then all files count that git would not ignore.
    """

    def copy(target):
        target.mkdir(parents=True, exist_ok=True)
        _git(target, "init", "-q")
        words = ("ls-files", "-z", "--others", "--exclude-standard")
        for name in filter(None, _git(root, f"--git-dir={target}/.git", "--work-tree=.", *words).split("\0")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target / name)
        _git(target, "add", "-A")
        _git(target, "commit", "-qm", "all")
        return target

    return copy


@pytest.fixture
def benchmark_script(root):
    """A function that imports one of the scripts in ``benchmarks`` by its name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, root / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def _make_smoke(results):
    for experiment in EXPERIMENTS:
        assert cli.main(["run", experiment, "--scale", "smoke", "--device", "cpu", "--out", str(results)]) == 0
        assert cli.main(["predict", experiment, str(results)]) == 0
        assert cli.main(["measure", experiment, str(results)]) == 0
    assert cli.main(["judge", str(results)]) == 0


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, worker_id):
    """Results of the smoke scale, through all stages but the figures, by the commands that the rules call. Read only."""
    if worker_id == "master":
        results = tmp_path_factory.mktemp("results")
        _make_smoke(results)
        return results
    # The workers share one set: the first to come makes it, the others wait.
    shared = tmp_path_factory.getbasetemp().parent
    with FileLock(shared / "smoke.lock"):
        if not (shared / "smoke.done").exists():
            _make_smoke(shared / "smoke")
            (shared / "smoke.done").touch()
    return shared / "smoke"


@pytest.fixture
def results(smoke, tmp_path):
    """A copy of the smoke results that a test may damage."""
    return Path(shutil.copytree(smoke, tmp_path / "results"))


def _ship(smoke, directory):
    """The smoke results as a shipped tree below a directory, with all that is derived from them; gives its path."""
    shutil.copytree(smoke, directory / "results/fresh/smoke")
    promote("smoke", results=directory / "results")
    shipped = directory / "results/cached/smoke"
    for path in smoke.glob("**/*"):
        if path.is_file() and not path.name.startswith("shard-"):
            shutil.copy(path, shipped / path.relative_to(smoke))
    return shipped


@pytest.fixture(scope="session")
def shipped(smoke, tmp_path_factory):
    """The smoke results as a shipped tree. Read only."""
    return _ship(smoke, tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="session")
def ship(smoke):
    """A function that makes such a tree below a directory of its own."""
    return lambda directory: _ship(smoke, directory)
