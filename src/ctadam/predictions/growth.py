"""Growth rates and bounds for the runs of `ctadam.experiments.growth`."""

import numpy as np

from ctadam.theory import stability

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "variant", "point", "beta1", "beta2", "lr", "eps", "state_dtype", "step"]


def predict(points):
    """Predictions per run.

    Args:
        points: DataFrame with `COLUMNS`; ``step`` is the run's last step.

    Returns:
        DataFrame, a row a run: the parameters without ``step``, and

        - ``C``, ``C_exact``: the two coefficients; ``rate_paper``, ``rate_exact``: growth rates per step;
        - ``bound_paper``, ``bound_exact``: bounds on ‖u_n‖_∞ at the last step;
        - ``cap``, ``cap_unseen``: for ε > 0 outside the exact stable region, the largest update of a coordinate whose
          gradients stop, and when it comes (`ctadam.theory.stability.epsilon_cap`), for a second moment of root 1.
    """
    table = points[COLUMNS].drop(columns="step")
    pair = {"beta1": points["beta1"].to_numpy(), "beta2": points["beta2"].to_numpy()}
    for law, suffix, name in (("paper", "paper", "C"), ("exact", "exact", "C_exact")):
        table[name] = stability.stability_coefficient(**pair, law=law)
        table[f"rate_{suffix}"] = stability.growth_rate(**pair, law=law)
        table[f"bound_{suffix}"] = stability.update_bound(**pair, step=points["step"].to_numpy(), law=law)
    table["cap_unseen"], table["cap"] = np.nan, np.nan
    capped = (points["eps"] > 0).to_numpy() & (table["C_exact"] < 0).to_numpy()
    if capped.any():
        some = {name: values[capped] for name, values in pair.items()}
        unseen, cap = stability.epsilon_cap(**some, eps=points["eps"].to_numpy()[capped])
        table.loc[capped, "cap_unseen"], table.loc[capped, "cap"] = unseen, cap
    return table
