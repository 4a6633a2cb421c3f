"""The experiments, one folder each.

Each folder has the same files, listed here in the order in which they are used:

``config.py``
    ``Config``, the pydantic model of the parameters. It imports nothing heavy.
``runs.py``
    ``grid(config)`` returns the table of runs, one row per run. ``run(runs, config, *, device, progress)`` executes them and
    returns their records and the details for the provenance. ``config`` is an instance of ``Config``. ``cost(runs)`` returns
    the amount of work and its unit for the progress line; without it, the sum of the column ``steps``.
    ``SHORTENED = False`` marks experiments in which the first steps of a run depend on its length, so that
    `ctadam.artifact.verify` does not shorten their runs.
``predict.py``
    ``predict(runs)`` returns the predictions from the parameters in ``COLUMNS``. It uses theory and never reads outcomes.
``measure.py``
    ``measure(runs)`` returns the measurements. It reads raw runs and never uses theory.
``claims.py``, ``figure.py``
    The claims and the figure. They combine predictions and measurements.

``__init__.py`` names the figure and the experiments that it shows. Every folder here is an experiment; there is no registry.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from ctadam.experiments.settings import Experiment

#: Names of the experiments.
EXPERIMENTS = tuple(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def load(name: str, stage: str = "runs") -> ModuleType:
    """Import and return one module of an experiment.

    Args:
        name: one of `EXPERIMENTS`.
        stage: ``"config"``, ``"runs"``, ``"predict"``, ``"measure"``, ``"claims"`` or ``"figure"``.

    Raises:
        ModuleNotFoundError: if there is no such experiment or module.
    """
    return importlib.import_module(f"ctadam.experiments.{name}.{stage}")


def configure(name: str, parameters: Mapping[str, Any]) -> "Experiment":
    """Return the configuration of an experiment as its model.

    Args:
        name: one of `EXPERIMENTS`.
        parameters: the experiment's section of a validated configuration.
    """
    return load(name, "config").Config.model_validate(parameters)


def with_columns(table: "pd.DataFrame", numbers: Sequence[str], texts: Sequence[str] = ()) -> "pd.DataFrame":
    """Return the table with the columns of every kind of record, so that shards with different kinds can be concatenated.

    Args:
        table: records of some kinds.
        numbers: names of the record columns of all kinds, in the order of the result.
        texts: those of ``numbers`` that hold text instead of floats.

    Returns:
        DataFrame with the other columns of ``table`` first, then ``numbers``. Added columns are empty.
    """
    import pandas as pd  # not at module level, because listing the experiments must work without pandas

    lacking = {
        name: pd.Series(index=table.index, dtype="str" if name in texts else float)
        for name in numbers
        if name not in table
    }
    return table.assign(**lacking)[[*(name for name in table if name not in numbers), *numbers]]
