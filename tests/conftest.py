"""Shared fixtures: one small set of results that most tests look at."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from ctadam import cli
from ctadam.experiments import EXPERIMENTS

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT


@pytest.fixture
def benchmark_script(root):
    """A function that imports one of the scripts in ``benchmarks`` by its name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, root / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Results of the smoke scale, through all stages but the figures, by the commands that the rules call. Read only."""
    results = tmp_path_factory.mktemp("results")
    for experiment in EXPERIMENTS:
        assert cli.main(["run", experiment, "--scale", "smoke", "--device", "cpu", "--out", str(results)]) == 0
        assert cli.main(["predict", experiment, str(results)]) == 0
        assert cli.main(["measure", experiment, str(results)]) == 0
    assert cli.main(["judge", str(results)]) == 0
    return results


@pytest.fixture
def results(smoke, tmp_path):
    """A copy of the smoke results that a test may damage."""
    return Path(shutil.copytree(smoke, tmp_path / "results"))
