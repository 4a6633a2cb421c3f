"""C for the pairs of `ctadam.experiments.generalization.runs`; of losses, theory says nothing."""

from ctadam.theory.stability import stability_coefficient

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "beta1", "beta2", "step"]


def predict(points):
    """The paper's coefficient ``C`` and the exact one, ``C_exact``, a row a run. Args: DataFrame with `COLUMNS`."""
    pair = {"beta1": points["beta1"].to_numpy(), "beta2": points["beta2"].to_numpy()}
    return points[["run", "beta1", "beta2"]].assign(
        C=stability_coefficient(**pair), C_exact=stability_coefficient(**pair, law="exact")
    )
