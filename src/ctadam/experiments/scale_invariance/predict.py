"""Steady states, and the second stage that stands for a norm, for the runs of `ctadam.experiments.scale_invariance.runs`."""

import numpy as np

from ctadam.theory import scale_invariance as theory

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "variant", "model", "batching", "beta1", "beta2", "lr", "weight_decay", "step"]


def predict(points):
    """Predictions per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the run's last step.

    Returns:
        DataFrame, a row a run: the parameters without ``step``, and

        - ``amplification``: by how much ‖W‖² exceeds the paper's law in the long run, by the inertial one;
        - ``remembered``: share of ‖W_0‖² that is left in ‖W‖² at the end;
        - with decay, ``angle_paper``, ``angle_inertial``: angle per step in the steady state, in radians, by either law;
          ``second_beta2``: decay of the second average that stands for the norm.
    """
    table = points[COLUMNS].drop(columns="step")
    rates = {name: points[name].to_numpy() for name in ("lr", "weight_decay")}
    beta1 = points["beta1"].to_numpy()
    table["amplification"] = theory.amplification(beta1=beta1, **rates)
    table["remembered"] = theory.remembered(steps=points["step"].to_numpy(), **rates)
    decayed = rates["weight_decay"] > 0
    some = {name: values[decayed] for name, values in rates.items()}
    for name, values in (
        ("angle_paper", theory.steady_angular_step(**some)),
        ("angle_inertial", theory.steady_angular_step(beta1=beta1[decayed], **some)),
        ("second_beta2", theory.second_stage(norm=1.0, dimension=1, **some)[0]),
    ):
        table[name] = np.nan
        table.loc[decayed, name] = values
    return table
