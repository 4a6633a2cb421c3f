"""The experiments: each turns its section of the configuration into raw runs, a tidy table.

An experiment is a module ``ctadam.experiments.<name>`` with

- ``points(parameters)``: the table of runs that the parameters ask for, a row a run;
- ``run(points, parameters, *, device, progress)``: those runs, done: the tidy table, and what belongs in its provenance;
- ``cost(points)``: units of work in them and what a unit is called, for the progress line;
- ``SHORTENED = False``, where the first steps of a run depend on how many there will be: `ctadam.verify` cuts runs short
  that have a number of ``steps``, unless this is there.

Its predictions, measurements and figures are the modules of the same name in `ctadam.predictions`,
`ctadam.measurements` and `ctadam.figures`.
"""

import importlib

#: Every experiment, in the order of the paper, and what besides its own module determines its runs: paths in the package.
#: An edit there retrains the fresh tree.
EXPERIMENTS = {
    "trajectory": ("data", "determinism.py", "models", "optim", "theory"),
    "growth": ("data", "determinism.py", "models", "optim", "theory/stability.py", "training"),
    "generalization": ("data", "determinism.py", "models", "optim", "theory/stability.py", "training"),
    "practice": ("data", "determinism.py", "models", "optim", "theory/stability.py", "training"),
    "quadratic": ("determinism.py", "optim", "theory/stability.py"),
    "tightness": ("determinism.py", "optim", "theory/stability.py"),
    "stages": ("data", "determinism.py", "models", "optim", "theory/stability.py", "training"),
    "baselines": (
        "data",
        "determinism.py",
        "experiments/stages.py",
        "models",
        "optim",
        "theory/stability.py",
        "training",
    ),
    "norms": ("data", "determinism.py", "models", "optim", "theory", "training"),
}


def load(name, stage="experiments"):
    """The module of one experiment in one stage (``experiments``, ``predictions`` or ``measurements``)."""
    return importlib.import_module(f"ctadam.{stage}.{name}")


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
