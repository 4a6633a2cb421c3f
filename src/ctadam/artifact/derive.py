"""From raw runs to an experiment's derived tables: what theory predicts for each run, and what each run shows."""

from pathlib import Path

from ctadam.experiments import load
from ctadam.storage.provenance import write_derived
from ctadam.storage.store import DERIVED, read_runs, sources


def table(results, experiment, name):
    """A derived table, made anew.

    Args:
        results: directory of one scale.
        experiment: its name.
        name: ``predictions`` (from the runs' parameters alone) or ``measurements``.

    Raises:
        ArtifactError: the raw runs are missing or damaged.
    """
    module = load(experiment, DERIVED[name])
    if name == "measurements":
        return module.measure(read_runs(results, experiment))
    runs = read_runs(results, experiment, module.COLUMNS)
    keys = [column for column in module.COLUMNS if column != "step"]
    return module.predict(runs.groupby(keys, sort=False, dropna=False, as_index=False)["step"].max())


def write(results, experiment, name):
    """Make a derived table and write it, with a record of what it was made from; give its path and how many rows it has.

    Args and errors: as `table`.
    """
    path, made = Path(results) / experiment / f"{name}.csv", table(results, experiment, name)
    write_derived(made, path, sources(results, experiment))
    return path, len(made)
