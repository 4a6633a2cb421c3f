"""The adapters of `ctadam.UpdateMonitor`'s log."""

import csv

import pytest
import torch

from ctadam import UpdateMonitor
from ctadam.monitor import to_csv, to_tensorboard, to_wandb


def run(log, top=1):
    params = {"a": torch.nn.Parameter(torch.ones(2)), "b": torch.nn.Parameter(torch.ones(3))}
    optimizer = torch.optim.AdamW([*params.items()])
    with UpdateMonitor(optimizer, every=1, top=top, log=log):
        for step in range(6):
            # The largest update changes from one parameter to the other.
            params["a"].grad = torch.full((2,), 1.0 if step < 3 else 0.1)
            params["b"].grad = torch.full((3,), 0.1 if step < 3 else 1.0)
            optimizer.step()


def test_csv_has_one_row_per_sample_and_a_column_per_name(tmp_path):
    path, numbers = tmp_path / "updates.csv", []
    adapter = to_csv(path)
    run(lambda values: (numbers.append(values), adapter(values)))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and {"update/step", "update/max", "update/top/a", "update/top/b"} <= set(rows[0])
    for row, values in zip(rows, numbers, strict=True):
        assert {name: float(value) for name, value in row.items() if value} == pytest.approx(values)


def test_csv_continues_an_existing_file(tmp_path):
    path = tmp_path / "updates.csv"
    run(to_csv(path))
    run(to_csv(str(path)), top=2)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["update/step"]) for row in rows] == [1, 2, 3, 4, 5, 6] * 2
    assert all(row["update/max"] for row in rows) and None not in rows[0]


def test_csv_rows_from_the_largest_updates_of_many_parameters_stay_aligned(tmp_path):
    adapter = to_csv(tmp_path / "x.csv")
    for values in ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 5}, {"d": 6}):
        adapter(values)
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows == [{"a": "1", "b": "2"}, {"b": "3", "c": "4"}, {"a": "5"}, {"d": "6"}]


class Writer:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, tag, value, global_step=None):
        self.scalars.append((tag, value, global_step))


def test_tensorboard_gets_scalars_at_the_optimizers_step():
    writer = Writer()
    run(to_tensorboard(writer))
    assert {step for _, _, step in writer.scalars} == {1, 2, 3, 4, 5, 6}
    assert ("update/step", 6, 6) in writer.scalars


def test_tensorboard_writes_its_files(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", exc_type=ImportError)
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        run(to_tensorboard(writer))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("update/max")] == [1, 2, 3, 4, 5, 6]


class Run:
    def __init__(self):
        self.logged, self.defined = [], []

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)


def test_wandb_gets_dicts_with_a_step_of_their_own():
    wandb = Run()
    run(to_wandb(wandb))
    assert wandb.defined == [("update/*", "update/step")]
    assert [values["update/step"] for values in wandb.logged] == [1, 2, 3, 4, 5, 6]
    assert all(type(values) is dict for values in wandb.logged)
