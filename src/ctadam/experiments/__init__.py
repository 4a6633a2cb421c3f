"""The experiments, one folder each.

A folder holds, in the order in which its files are used:

- ``config.py``: ``Config``, the pydantic model of the parameters. It imports nothing heavy;
- ``runs.py``: ``points(parameters)``, the table of runs that the parameters ask for, one row per run;
  ``run(points, parameters, *, device, progress)``, which does them and returns their records and what belongs in the provenance;
  ``cost(points)``, the units of work for the progress line; and ``SHORTENED = False`` if the first steps of a run depend on how
  many there will be, so that `ctadam.artifact.verify` does not cut it short;
- ``predict.py``: ``COLUMNS``, the parameters it reads, and ``predict(points)``. It sees theory and no outcome;
- ``measure.py``: ``measure(runs)``. It sees raw runs and no theory;
- ``claims.py`` and ``figure.py``, which see both.

``__init__.py`` names the figure and the experiments that it shows. Experiments are found by their folders.
"""

import importlib
import pkgutil

#: Names of the experiments.
EXPERIMENTS = tuple(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def load(name, stage="runs"):
    """Return one module of an experiment: ``config``, ``runs``, ``predict``, ``measure``, ``claims`` or ``figure``."""
    return importlib.import_module(f"ctadam.experiments.{name}.{stage}")


def with_columns(table, numbers, texts=()):
    """The table with the columns of every kind of record, behind those it has besides, empty where it has none of the kind.

    Without them shards that were dealt different kinds of runs could not be laid one under the other.
    """
    import pandas as pd  # here, because what only asks for the experiments' names must work without it

    lacking = {
        name: pd.Series(index=table.index, dtype="str" if name in texts else float)
        for name in numbers
        if name not in table
    }
    return table.assign(**lacking)[[*(name for name in table if name not in numbers), *numbers]]
