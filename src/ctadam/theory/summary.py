"""Summarize what the theory says about a pair of betas or about a rule for betas, for ``ctadam stability``."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctadam.theory import rules, stability
from ctadam.theory.rules import Rule


def _decimal(value: float) -> str:
    """Format a float with as few digits as possible such that it parses to the same value."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _pair(beta1: float, beta2: float) -> str:
    return f"beta1 = γ = {_decimal(beta1)}, beta2 = β = {_decimal(beta2)}"


def summarize(
    *,
    beta1: float,
    beta2: float,
    steps: int | None = None,
    stages: Sequence[tuple[float, float]] = (),
    strategy: str = "",
) -> list[tuple[str, str]]:
    """Return the coefficients, bounds and growth rate of a pair of betas as text.

    Args:
        beta1: γ of the paper, in [0, 1).
        beta2: β of the paper, in [0, 1).
        steps: also give the bound after so many steps.
        stages: k-Adam's pairs (beta1, beta2), computed from the pair above. The last one alone decides stability, so the
            answer is about it.
        strategy: name of the strategy that computed `stages`.

    Returns:
        List of ``(name, value)``. If only the pair in the opposite order is stable, the last entry is a hint.

    Raises:
        ValueError: if a decay is outside [0, 1).
    """
    last = stages[-1] if stages else (beta1, beta2)
    pair: dict[str, Any] = {"beta1": last[0], "beta2": last[1]}
    c: dict[stability.Law, Any] = {
        "paper": stability.stability_coefficient(**pair, law="paper"),
        "exact": stability.stability_coefficient(**pair, law="exact"),
    }
    rate = {law: stability.growth_rate(**pair, law=law) for law in c}
    verdict = stability.verdict(**pair)
    rows = [("betas", _pair(beta1, beta2))]
    rows += [(f"stage {number} ({strategy})", _pair(*betas)) for number, betas in enumerate(stages, start=1)]
    rows += [
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
        nearest_text = "none: this beta1 is too close to 1 for any float64 below 1"
    else:
        nearest_text = _decimal(nearest) + (" (yours)" if nearest == last[1] else "")
    rows.append(("nearest stable beta2" + (f", stage {len(stages)}" if stages else ""), nearest_text))
    # Every strategy maps both decays by the same function, so swapping the base pair swaps the stage's pair.
    swapped = {"beta1": last[1], "beta2": last[0]}
    if (
        last[0] > last[1]
        and verdict is stability.Verdict.UNSTABLE
        and stability.verdict(**swapped) is stability.Verdict.STABLE
    ):
        options = f" --k {len(stages)} --stages {strategy}" if stages else ""
        options += "" if steps is None else f" --steps {steps}"
        rows.append(
            (
                "hint",
                "the order is torch's (beta1, beta2), the opposite of the paper's (β, γ); if you meant the other: "
                f"ctadam stability --betas {_decimal(beta2)} {_decimal(beta1)}{options}",
            )
        )
    return rows


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Return ranges of batch sizes as text."""
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in ranges[:3]]
    more = f" and {len(ranges) - 3} more ranges" if len(ranges) > 3 else ""
    return ("B = " + ", ".join(shown) + more) if ranges else "nowhere"


def summarize_rule(*, beta1: Rule, beta2: Rule, batches: tuple[int, int]) -> list[tuple[str, str]]:
    """Return where a rule for betas leaves the stable region, and the floor under beta2 that repairs it, as text.

    Args:
        beta1: rule for γ of the paper.
        beta2: rule for β of the paper.
        batches: smallest and largest batch size.

    Returns:
        List of ``(name, value)``: the answers, and then one row per power of two, end of the range and crossing.

    Raises:
        ValueError: if a beta is outside [0, 1) for some batch size, or the range is empty or too large.
    """
    first, last = batches
    rows = [("rule", f"beta1 = γ = {beta1.text}, beta2 = β = {beta2.text}, B = {first} to {last}")]
    formulas: dict[stability.Law, str] = {"paper": "beta1/(2 - beta1)", "exact": "beta1**2"}
    unstable = {law: rules.unstable_batches(beta1=beta1, beta2=beta2, batches=batches, law=law) for law in formulas}
    for law, formula in formulas.items():
        rows.append((f"unstable ({law})", _ranges(unstable[law])))
        floor = f"beta2 > {formula}"
        if beta1.is_constant:
            decay = float(beta1(1.0))
            floor += f" = {stability.boundary_beta2(beta1=decay, law=law):.6g}"
            nearest = stability.nearest_stable_beta2(beta1=decay, beta2=0.0, law=law)
            if unstable[law] and not np.isnan(nearest):
                floor += f", as in max({beta2.text}, {_decimal(nearest)})"
        rows.append((f"floor ({law})", floor))
    crossings = {edge for ranges in unstable.values() for pair in ranges[:3] for edge in pair}
    powers = {2**exponent for exponent in range(last.bit_length()) if first <= 2**exponent <= last}
    for batch in sorted({first, last} | crossings | powers):
        (gamma,), (beta,) = rules.betas(beta1=beta1, beta2=beta2, batch=batch)
        exact, paper = (stability.growth_rate(beta1=gamma, beta2=beta, law=law) for law in ("exact", "paper"))
        rows.append(
            (
                f"B = {batch}",
                f"betas {gamma:.6g} {beta:.6g}, growth rate per step {exact:.4g} (paper's law: {paper:.4g})",
            )
        )
    return rows
