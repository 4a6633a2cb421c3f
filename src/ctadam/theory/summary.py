"""Summarize what the theory says about one pair of betas, for ``ctadam stability``."""

import sys
from typing import Any

import numpy as np

from ctadam.theory import stability


def _decimal(value: float) -> str:
    """Format a float with as few digits as possible such that it parses to the same value."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def summarize(*, beta1: float, beta2: float, steps: int | None = None) -> list[tuple[str, str]]:
    """Return the coefficients, bounds and growth rate of a pair of betas as text.

    Args:
        beta1: γ of the paper, in [0, 1).
        beta2: β of the paper, in [0, 1).
        steps: also give the bound after so many steps.

    Returns:
        List of ``(name, value)``. If only the pair in the opposite order is stable, the last entry is a hint.

    Raises:
        ValueError: if a decay is outside [0, 1).
    """
    pair: dict[str, Any] = {"beta1": beta1, "beta2": beta2}
    c: dict[stability.Law, Any] = {
        "paper": stability.stability_coefficient(**pair, law="paper"),
        "exact": stability.stability_coefficient(**pair, law="exact"),
    }
    rate = {law: stability.growth_rate(**pair, law=law) for law in c}
    verdict = stability.verdict(**pair)
    rows = [
        ("betas", f"beta1 = γ = {_decimal(beta1)}, beta2 = β = {_decimal(beta2)}"),
        ("C (paper)", f"{c['paper']:.6g}"),
        ("exact coefficient", f"{c['exact']:.6g}"),
        ("verdict", verdict.value),
    ]

    def bound(step: float) -> str:
        exact, paper = (stability.update_bound(**pair, step=step, law=law) for law in ("exact", "paper"))
        return f"{exact:.6g} (paper's law: {paper:.6g})"

    rows.append(("bound on |u|, any step", bound(np.inf)))
    if steps is not None:
        # Python's integers may exceed float64's range.
        rows.append((f"bound on |u|, step {steps}", bound(float(min(steps - 1, sys.float_info.max)))))
    rows.append(("growth rate per step", f"{rate['exact']:.6g} (paper's law: {rate['paper']:.6g})"))
    nearest = stability.nearest_stable_beta2(**pair)
    if np.isnan(nearest):
        rows.append(("nearest stable beta2", "none: this beta1 is too close to 1 for any float64 below 1"))
    else:
        rows.append(("nearest stable beta2", _decimal(nearest) + (" (yours)" if nearest == beta2 else "")))
    swapped = {"beta1": beta2, "beta2": beta1}
    if (
        beta1 > beta2
        and verdict is stability.Verdict.UNSTABLE
        and stability.verdict(**swapped) is stability.Verdict.STABLE
    ):
        option = "" if steps is None else f" --steps {steps}"
        rows.append(
            (
                "hint",
                "the order is torch's (beta1, beta2), the opposite of the paper's (β, γ); if you meant the other: "
                f"ctadam stability --betas {_decimal(beta2)} {_decimal(beta1)}{option}",
            )
        )
    return rows
