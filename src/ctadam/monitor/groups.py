"""Check the betas of an optimizer, one parameter group at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ctadam.monitor.laws import UpdateLaw, law_of, unwrap

_NAN = math.nan


@dataclass(frozen=True)
class GroupStability:
    """What theory says about one parameter group.

    Attributes:
        group: index in ``optimizer.param_groups``.
        verdict: ``"stable"``, ``"bounded by the exact law only"``, ``"boundary"``, ``"unstable"`` or ``"no known bound"``.
        beta1: decay of the first moment (paper's γ); the last stage's for k-Adam.
        beta2: decay of the second moment (paper's β); the last stage's for k-Adam.
        coefficient: the paper's C, positive in its stable region.
        exact_coefficient: coefficient of the exact law, positive if updates are bounded.
        bound: largest possible |u| of any step, for any gradients; inf on the boundary and outside.
        growth_rate: largest exponential growth rate of |u| per step, by the exact law.
        eps_cap: update at which ε ends the growth of a coordinate with |u| = 1 and √v = 1 when its gradients stop; smaller
            gradients meet ε sooner. NaN if the pair is not unstable, inf if ε is 0.
        eps_cap_steps: steps without gradients until then.
        nearest_stable_beta2: nearest ``beta2`` that is stable with this ``beta1``; NaN if there is none.
        note: what the numbers do not say.
    """

    group: int
    verdict: str
    beta1: float = _NAN
    beta2: float = _NAN
    coefficient: float = _NAN
    exact_coefficient: float = _NAN
    bound: float = _NAN
    growth_rate: float = _NAN
    eps_cap: float = _NAN
    eps_cap_steps: float = _NAN
    nearest_stable_beta2: float = _NAN
    note: str = ""


@dataclass(frozen=True)
class StabilityReport:
    """The result of `check`: one `GroupStability` per parameter group. Prints as a table.

    Attributes:
        optimizer: name of the optimizer's class.
        groups: the parameter groups, in order.
    """

    optimizer: str
    groups: tuple[GroupStability, ...]

    @property
    def stable(self) -> bool:
        """Whether every group is stable by both laws."""
        return all(group.verdict == "stable" for group in self.groups)

    def __iter__(self) -> Iterator[GroupStability]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> GroupStability:
        return self.groups[index]

    def __str__(self) -> str:
        header = [
            "group",
            "beta1",
            "beta2",
            "C",
            "exact",
            "bound",
            "growth",
            "eps cap",
            "at step",
            "stable beta2",
            "verdict",
        ]
        rows = [
            [
                str(group.group),
                _exact(group.beta1),
                _exact(group.beta2),
                _number(group.coefficient),
                _number(group.exact_coefficient),
                _number(group.bound),
                _number(group.growth_rate),
                _number(group.eps_cap),
                _number(group.eps_cap_steps),
                _exact(group.nearest_stable_beta2),
                group.verdict,
            ]
            for group in self.groups
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [f"{self.optimizer}, betas=(beta1, beta2); the paper's γ is beta1, its β is beta2"]
        for cells in (header, *rows):
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        lines += dict.fromkeys(f"Note: {group.note}." for group in self.groups if group.note)
        return "\n".join(lines)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _exact(value: float) -> str:
    """Format a float with as few digits as possible such that it parses to the same value."""
    if math.isnan(value):
        return "-"
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _describe(number: int, law: UpdateLaw | str) -> GroupStability:
    if isinstance(law, str):
        return GroupStability(number, "no known bound", note=law)
    steps = cap = _NAN
    if law.growth_rate > 0:
        steps, cap = law.cap(1.0)
    return GroupStability(
        group=number,
        verdict=law.verdict,
        beta1=law.beta1,
        beta2=law.beta2,
        coefficient=law.coefficient,
        exact_coefficient=law.exact_coefficient,
        bound=law.largest_bound,
        growth_rate=law.growth_rate,
        eps_cap=cap,
        eps_cap_steps=steps,
        nearest_stable_beta2=law.nearest_stable_beta2,
        note=law.note,
    )


def check(optimizer: Any) -> StabilityReport:
    """Check whether an optimizer's betas bound its updates (arXiv 2411.05746, section 3).

    The bound holds for any gradients. Outside the stable region updates can grow exponentially; whether they do depends on
    the gradients, and ε ends the growth. Adam, AdamW (with or without amsgrad), SparseAdam, NAdam, RAdam, Adamax and
    `ctadam.KAdam` have a known bound. Other optimizers, and subclasses with a ``step`` of their own, are named as
    ``"no known bound"``.

    Args:
        optimizer: a torch optimizer, or a wrapper that holds one as ``.optimizer``.

    Returns:
        StabilityReport: one entry per parameter group; ``print`` it for a table.

    Raises:
        TypeError: if there is no torch optimizer.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> check(torch.optim.AdamW(model.parameters(), betas=(0.95, 0.88)))[0].verdict
        'unstable'
    """
    inner = unwrap(optimizer)
    groups = tuple(_describe(number, law_of(inner, group)) for number, group in enumerate(inner.param_groups))
    return StabilityReport(type(inner).__name__, groups)
