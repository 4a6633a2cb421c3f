"""Growth rates and bounds for the runs of `ctadam.experiments.growth.runs`."""

from ctadam.theory import stability

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "variant", "point", "beta1", "beta2", "lr", "eps", "state_dtype", "step"]


def predict(points, columns=COLUMNS):
    """Predictions per run.

    Args:
        points: DataFrame with ``columns``; ``step`` is the run's last step.
        columns: the parameters of a run, and ``step``.

    Returns:
        DataFrame, a row a run: the parameters without ``step``, and

        - ``C``, ``C_exact``: the two coefficients; ``rate_paper``, ``rate_exact``: growth rates per step;
        - ``bound_paper``, ``bound_exact``: bounds on ‖u_n‖_∞ at the last step.
    """
    table = points[list(columns)].drop(columns="step")
    pair = {"beta1": points["beta1"].to_numpy(), "beta2": points["beta2"].to_numpy()}
    for law, suffix, name in (("paper", "paper", "C"), ("exact", "exact", "C_exact")):
        table[name] = stability.stability_coefficient(**pair, law=law)
        table[f"rate_{suffix}"] = stability.growth_rate(**pair, law=law)
        table[f"bound_{suffix}"] = stability.update_bound(**pair, step=points["step"].to_numpy(), law=law)
    return table
