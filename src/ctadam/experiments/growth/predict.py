"""Predicted growth rates, bounds and caps by ε for the runs of `ctadam.experiments.growth.runs`."""

import numpy as np
import pandas as pd

from ctadam.theory import stability

#: Columns that `predict` reads.
COLUMNS = ["run", "variant", "point", "batch_size", "beta1", "beta2", "lr", "eps", "state_dtype", "step"]


def predict(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions of both laws for each run (see `ctadam.theory.stability`).

    Args:
        runs: DataFrame with `COLUMNS`, one row per run; ``step`` is the index of the run's last step.

    Returns:
        DataFrame with one row per run. It has `COLUMNS` without ``step`` and

        - ``C``, ``C_exact``: stability coefficients of the paper's law and the exact law;
        - ``rate_paper``, ``rate_exact``: growth rates per step;
        - ``bound_paper``, ``bound_exact``: upper bounds on ‖u_n‖_∞ at the last step;
        - ``displacement_rate_exact``: slope of ln ‖θ_n − θ_0‖_∞ over the last 40 % of the steps for a coordinate whose
          gradients stop at the first step;
        - ``cap_unseen``: steps from the last gradient of a coordinate with √v = 1 to its largest update
          (`ctadam.theory.stability.epsilon_cap`); NaN for ε = 0 and for pairs that are not unstable by the exact law.
    """
    table = runs[COLUMNS].drop(columns="step")
    pair = {"beta1": runs["beta1"].to_numpy(), "beta2": runs["beta2"].to_numpy()}
    laws: tuple[tuple[stability.Law, str], ...] = (("paper", "C"), ("exact", "C_exact"))
    for law, name in laws:
        table[name] = stability.stability_coefficient(**pair, law=law)
        table[f"rate_{law}"] = stability.growth_rate(**pair, law=law)
        table[f"bound_{law}"] = stability.update_bound(**pair, step=runs["step"].to_numpy(), law=law)
    table["displacement_rate_exact"] = [
        displacement_rate(beta1=beta1, beta2=beta2, steps=int(step) + 1)
        for beta1, beta2, step in runs[["beta1", "beta2", "step"]].itertuples(index=False)
    ]
    table["cap_unseen"] = np.nan
    capped = (table["eps"] > 0) & (table["C_exact"] < 0)
    if capped.any():
        settings = {name: table.loc[capped, name].to_numpy() for name in ("beta1", "beta2", "eps")}
        table.loc[capped, "cap_unseen"], _ = stability.epsilon_cap(**settings)
    return table


def displacement_rate(*, beta1: float, beta2: float, steps: int, window: float = 0.4) -> float:
    """Return the slope of ln Σ_{j≤n} prefactor_j e^{rj} on n over the last part of the steps, with r = ln(γ/√β).

    A coordinate without gradients moves by η times such a sum. Over a few hundred steps its logarithm has not reached the
    slope r (derived for this artifact).

    Args:
        beta1: decay of the first moment (paper's γ).
        beta2: decay of the second moment (paper's β).
        steps: number of steps.
        window: final fraction of the steps over which the line is fitted.

    Returns:
        Slope per step; NaN with fewer than two steps in the window, or if a beta is 0.
    """
    n = np.arange(steps)
    first = int(steps * (1 - window))
    if steps - first < 2 or beta1 == 0 or beta2 == 0:
        return float("nan")
    # In logarithms, because the sum may exceed float64.
    log_updates = np.log(stability.prefactor(beta1=beta1, beta2=beta2, step=n)) + n * np.log(beta1 / np.sqrt(beta2))
    log_sum = np.logaddexp.accumulate(log_updates)
    return float(np.polyfit(n[first:], log_sum[first:], 1)[0])
