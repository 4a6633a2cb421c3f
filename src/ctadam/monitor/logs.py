"""Adapters for `UpdateMonitor`'s ``log``: each returns a function that takes a flat dict of numbers."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: What `ctadam.UpdateMonitor` calls with each sample.
Log = Callable[[Mapping[str, float]], object]


def to_csv(path: str | Path) -> Log:
    """Return a log that appends one row per sample to a CSV file; an existing file is continued.

    A sample with new names, such as another parameter among the largest updates, adds columns.
    """
    path = Path(path)

    def log(values: Mapping[str, float]) -> None:
        rows: list[Mapping[str, Any]] = []
        columns: list[str] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                columns = next(reader, [])
                new = [name for name in values if name not in columns]
                if new:  # the header changes, so the file is written again
                    rows = [dict(zip(columns, row, strict=False)) for row in reader]
        else:
            new = list(values)
        columns += new
        with path.open("w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows([*rows, values])

    return log


def to_tensorboard(writer: Any) -> Log:
    """Return a log that writes scalars with a ``torch.utils.tensorboard.SummaryWriter``."""

    def log(values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, global_step=int(values["update/step"]))

    return log


def to_wandb(run: Any) -> Log:
    """Return a log to a Weights & Biases run, with the optimizer's step as the x axis.

    Samples arrive one sample late, so they do not use the run's own step, which may not go back.
    """
    run.define_metric("update/*", step_metric="update/step")

    def log(values: Mapping[str, float]) -> None:
        run.log(dict(values))

    return log
