"""Make an experiment's derived tables from its raw runs: theoretical predictions and measurements."""

from pathlib import Path

import pandas as pd

from ctadam.experiments import load
from ctadam.storage.provenance import write_derived
from ctadam.storage.store import DERIVED, read_runs, sources


def table(results: str | Path, experiment: str, name: str) -> pd.DataFrame:
    """Compute a derived table from the raw runs.

    Args:
        results: directory of one scale.
        experiment: name of the experiment.
        name: ``predictions`` (from the runs' parameters alone) or ``measurements``.

    Raises:
        ArtifactError: if the raw runs are missing or damaged.
    """
    module = load(experiment, DERIVED[name])
    if name == "measurements":
        return module.measure(read_runs(results, experiment))
    runs = read_runs(results, experiment, module.COLUMNS)
    keys = [column for column in module.COLUMNS if column != "step"]
    return module.predict(runs.groupby(keys, sort=False, dropna=False, as_index=False)["step"].max())


def write(results: str | Path, experiment: str, name: str) -> tuple[Path, int]:
    """Compute a derived table and write it with a record of its sources.

    Args:
        results: directory of one scale.
        experiment: name of the experiment.
        name: ``predictions`` or ``measurements``.

    Returns:
        ``(path, rows)``, the path of the table and its number of rows.

    Raises:
        ArtifactError: if the raw runs are missing or damaged.
    """
    path, made = Path(results) / experiment / f"{name}.csv", table(results, experiment, name)
    write_derived(made, path, sources(results, experiment))
    return path, len(made)
