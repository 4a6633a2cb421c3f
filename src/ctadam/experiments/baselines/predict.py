"""Predict the memory traffic of an optimizer step for each run of `ctadam.experiments.baselines.runs`."""

import pandas as pd

#: Parameters of a run that the predictions use.
COLUMNS = ["run", "task", "contender", "optimizer", "k", "step"]
#: Memory traffic of a step of Adam, in bytes per float32 parameter.
ADAM_BYTES = 28
#: Number of averages that an optimizer keeps per parameter. k-Adam keeps two per stage.
AVERAGES = {"adamw": 2, "nadam": 2, "radam": 2, "adamax": 2, "rmsprop": 1, "adagrad": 1, "sgd": 1, "unsmoothed": 3}


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions, one row per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the last step of the run.

    Returns:
        DataFrame, one row per run: `COLUMNS` without ``step``, and

        - ``bytes``: memory traffic of a step, in bytes per float32 parameter. Parameter and averages are read and written once,
          the gradient is read once;
        - ``share``: fraction of the steps after which the optimizer has moved as many bytes as Adam in all steps, at most 1.
    """
    averages = [2 * k if name == "kadam" else AVERAGES[name] for name, k in points[["optimizer", "k"]].to_numpy()]
    moved = 12 + 8 * pd.Series(averages, index=points.index, dtype=int)
    return points[COLUMNS].drop(columns="step").assign(bytes=moved, share=(ADAM_BYTES / moved).clip(upper=1.0))
