"""Both coefficients for the pairs of `ctadam.experiments.quadratic.runs`. A row a pair: no setting enters the law."""

from ctadam.theory.stability import stability_coefficient

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["beta1", "beta2", "step"]


def predict(points):
    """``C`` and ``C_exact`` of each pair."""
    pair = {"beta1": points["beta1"].to_numpy(), "beta2": points["beta2"].to_numpy()}
    return points[["beta1", "beta2"]].assign(
        C=stability_coefficient(**pair), C_exact=stability_coefficient(**pair, law="exact")
    )
