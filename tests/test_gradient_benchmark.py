"""The measured gradients of docs/scales.md, and the benchmark that measures them."""

import functools
import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from ctadam.storage.provenance import sha256
from ctadam.training import classification

CPU = torch.device("cpu")


@pytest.fixture
def gradient(benchmark_script):
    return benchmark_script("gradient")


def test_the_table_of_gradients_is_the_one_that_was_measured(root, gradient, tmp_path):
    page = (root / "docs" / "scales.md").read_text(encoding="utf-8")
    assert gradient.page_with(gradient.table(), page, gradient.BEGIN, gradient.END) == page, "gradient.py --table"
    files = sorted(gradient.RESULTS.glob("gradient_*.csv"))
    assert files
    for file in files:
        assert json.loads(file.with_suffix(".json").read_text())["sha256"] == sha256(file)
        (tmp_path / file.name).write_text(file.read_text().replace("e-", "e+"))
        (tmp_path / file.with_suffix(".json").name).write_text(file.with_suffix(".json").read_text())
    assert gradient.table(tmp_path) != gradient.table()


def test_changed_gradients_are_compared_with_the_trainers(gradient, monkeypatch):
    """A case of the benchmark, really measured: compiled the same to rounding, in bfloat16 to three digits.

    Traced only: what the compiler makes of it is the benchmark's own question, and takes a quarter of a minute.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    inputs, labels = torch.arange(40.0).view(10, 4).sin(), torch.arange(10) % 3

    def build(generator):
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, generator=generator)
        return model

    case = classification((inputs, labels), (inputs, labels), build=build, batch=8, test_every=9, device=CPU)
    monkeypatch.setattr(gradient, "cases", lambda device: [("perceptron", case)])
    rows = pd.DataFrame(gradient.measure(SimpleNamespace(device="cpu", repetitions=2)), columns=gradient.FIELDS)
    assert rows["contender"].tolist() == 2 * [gradient.PLAIN, gradient.COMPILED, gradient.HALF]
    differences = rows.drop_duplicates("contender")["difference"].astype(float).tolist()
    assert differences[0] == 0 <= differences[1] < 1e-4 < differences[2] < 0.1
    assert (rows["seconds"].astype(float) > 0).all()
