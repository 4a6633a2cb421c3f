"""What a step of each contender of `ctadam.experiments.baselines.runs` costs, counted in bytes."""

import pandas as pd

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "task", "contender", "optimizer", "k", "step"]
#: What Adam's step moves for each float32 parameter.
ADAM_BYTES = 28
#: Averages that an optimizer keeps for each parameter; k-Adam keeps two a stage.
AVERAGES = {"adamw": 2, "nadam": 2, "radam": 2, "adamax": 2, "rmsprop": 1, "adagrad": 1, "sgd": 1, "unsmoothed": 3}


def predict(points):
    """Predictions per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the run's last step.

    Returns:
        DataFrame, a row a run: the parameters without ``step``, and ``bytes``: what a step that touches everything once
        moves for each float32 parameter: the parameter and each average read and written, the gradient read; ``share``: the
        part of the run's steps in which it moves as many bytes as Adam in all of them (1 if it moves no more a step).
    """
    averages = [2 * k if name == "kadam" else AVERAGES[name] for name, k in points[["optimizer", "k"]].to_numpy()]
    moved = 12 + 8 * pd.Series(averages, index=points.index, dtype=int)
    return points[COLUMNS].drop(columns="step").assign(bytes=moved, share=(ADAM_BYTES / moved).clip(upper=1.0))
