"""What a step of each contender of `ctadam.experiments.baselines` costs, counted in bytes."""

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "task", "contender", "optimizer", "k", "step"]
#: Averages that an optimizer keeps for each parameter; k-Adam keeps two a stage.
AVERAGES = {"adamw": 2, "nadam": 2, "radam": 2, "adamax": 2, "rmsprop": 1, "adagrad": 1, "sgd": 1, "unsmoothed": 3}


def predict(points):
    """Predictions per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the run's last step.

    Returns:
        DataFrame, a row a run: the parameters without ``step``, and ``bytes``: what a step that touches everything once
        moves for each float32 parameter: the parameter and each average read and written, the gradient read.
    """
    averages = points["optimizer"].map(AVERAGES).where(points["optimizer"] != "kadam", 2 * points["k"])
    return points[COLUMNS].drop(columns="step").assign(bytes=(12 + 8 * averages).astype(int))
