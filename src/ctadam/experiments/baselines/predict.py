"""Predict the memory traffic of an optimizer step for each run of `ctadam.experiments.baselines.runs`."""

import pandas as pd

#: Parameters of a run that the predictions use.
COLUMNS = ["run", "task", "contender", "averages", "step"]
#: Memory traffic of a step of Adam, in bytes per float32 parameter.
ADAM_BYTES = 28


def predict(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions, one row per run.

    Args:
        runs: DataFrame with `COLUMNS`; ``step`` is the last step of the run.

    Returns:
        DataFrame, one row per run: `COLUMNS` without ``step``, and

        - ``bytes``: memory traffic of a step, in bytes per float32 parameter. Parameter and averages are read and written once,
          the gradient is read once;
        - ``share``: fraction of the steps after which the optimizer has moved as many bytes as Adam in all steps, at most 1.
    """
    moved = 12 + 8 * runs["averages"]
    return runs[COLUMNS].drop(columns="step").assign(bytes=moved, share=(ADAM_BYTES / moved).clip(upper=1.0))
