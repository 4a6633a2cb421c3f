"""What is known of the runs of `ctadam.experiments.k_sweep.runs` beforehand: that they are stable, and how far they lag."""

import numpy as np

from ctadam.theory.stability import stability_coefficient, update_bound

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "norm", "k", "stages", "seed", "last_beta1", "last_beta2", "step"]


def predict(points):
    """Predictions per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the run's last step. All stages of a strategy share one pair.

    Returns:
        DataFrame, a row a run: the parameters without ``step``, and

        - ``C``: coefficient of the last stage, which alone decides stability; ``limit_exact``: bound on ‖u_n‖_∞ at any n;
        - ``lag``: steps by which the k first averages lag together, k·γ/(1−γ).
    """
    pair = {"beta1": points["last_beta1"].to_numpy(), "beta2": points["last_beta2"].to_numpy()}
    return (
        points[COLUMNS]
        .drop(columns="step")
        .assign(
            C=stability_coefficient(**pair),
            limit_exact=update_bound(**pair, step=np.inf, law="exact"),
            lag=points["k"] * pair["beta1"] / (1 - pair["beta1"]),
        )
    )
