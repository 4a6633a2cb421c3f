"""Which bound holds for the updates of which optimizer."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.optim import Optimizer

from ctadam.optim import KAdam, stage_betas
from ctadam.theory import stability, variants
from ctadam.theory.stability import FloatArray, Verdict

#: The verdicts of a report, by the verdict on a pair under Adam.
VERDICTS = {
    Verdict.STABLE: "stable",
    Verdict.BOUNDED: "bounded by the exact law only",
    Verdict.BOUNDARY: "boundary",
    Verdict.UNSTABLE: "unstable",
}
#: Steps at which `UpdateLaw.largest_bound` looks for the largest bound.
_STEPS = np.append(np.unique(np.geomspace(1, 1e9, 2000).round()) - 1, np.inf)


@dataclass(frozen=True)
class UpdateLaw:
    """Bound and growth of Adam's update; subclasses override what differs.

    Attributes:
        beta1: decay of the first moment (paper's γ).
        beta2: decay of the second moment (paper's β).
        eps: ε in the denominator.
    """

    beta1: float
    beta2: float
    eps: float
    #: What a reader must know besides the numbers.
    note = ""

    def bound(self, step: ArrayLike) -> FloatArray:
        """Return the largest possible |u_n| at step n = 0, 1, 2, …; inf where there is no bound."""
        return stability.update_bound(beta1=self.beta1, beta2=self.beta2, step=step, law="exact")

    @property
    def coefficient(self) -> float:
        """The paper's C."""
        return float(stability.stability_coefficient(beta1=self.beta1, beta2=self.beta2))

    @property
    def exact_coefficient(self) -> float:
        """The coefficient of the exact law; positive if updates are bounded."""
        return float(stability.stability_coefficient(beta1=self.beta1, beta2=self.beta2, law="exact"))

    @property
    def growth_rate(self) -> float:
        """The largest exponential growth rate per step."""
        return float(stability.growth_rate(beta1=self.beta1, beta2=self.beta2, law="exact"))

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return VERDICTS[stability.verdict(beta1=self.beta1, beta2=self.beta2)]

    @property
    def largest_bound(self) -> float:
        """The largest bound of all steps; inf on the boundary and outside."""
        if self.verdict in ("boundary", "unstable"):
            return math.inf
        bounds = self.bound(_STEPS)
        return float(bounds[np.isfinite(bounds)].max())

    @property
    def nearest_stable_beta2(self) -> float:
        """The nearest beta2 that is stable with this beta1; NaN if there is none."""
        return stability.nearest_stable_beta2(beta1=self.beta1, beta2=self.beta2)

    def cap(self, root: float) -> tuple[float, float]:
        """Return after how many steps without gradients ε ends the growth, and the factor by which u has grown then.

        Args:
            root: √v of the coordinate now.
        """
        if self.eps == 0:
            return math.inf, math.inf
        if self.beta2 == 0:  # v is 0 after one step
            return 1.0, self.beta1 * root / self.eps
        unseen, factor = stability.epsilon_cap(beta1=self.beta1, beta2=self.beta2, eps=self.eps, root=root)
        return float(unseen), float(factor)


@dataclass(frozen=True)
class AMSGradLaw(UpdateLaw):
    """AMSGrad divides by the largest v so far, which bounds its update for every pair."""

    note = "AMSGrad: bounded for every pair of betas"

    def bound(self, step: ArrayLike) -> FloatArray:
        return variants.amsgrad_bound(beta1=self.beta1, beta2=self.beta2, step=step)

    @property
    def growth_rate(self) -> float:
        return 0.0

    @property
    def verdict(self) -> str:
        return "stable"

    @property
    def nearest_stable_beta2(self) -> float:
        return self.beta2


@dataclass(frozen=True)
class NAdamLaw(UpdateLaw):
    """NAdam adds the newest gradient to m with weights that follow a momentum schedule."""

    momentum_decay: float = 4e-3

    def bound(self, step: ArrayLike) -> FloatArray:
        return variants.nadam_bound(beta1=self.beta1, beta2=self.beta2, momentum_decay=self.momentum_decay, step=step)


@dataclass(frozen=True)
class RAdamLaw(UpdateLaw):
    """RAdam multiplies Adam's update by a factor of at most 1, after first steps without division by √v̂."""

    @property
    def note(self) -> str:  # type: ignore[override]
        first = int(np.argmax(np.isfinite(self.bound(np.arange(1000)))))
        return f"RAdam: no bound in the first {first} steps, which do not divide by the root of v"

    def bound(self, step: ArrayLike) -> FloatArray:
        return variants.radam_bound(beta1=self.beta1, beta2=self.beta2, step=step)


@dataclass(frozen=True)
class AdamaxLaw(UpdateLaw):
    """Adamax divides by a decaying maximum, so its boundary is β = γ."""

    note = "Adamax: bounded for beta2 > beta1, with coefficient ln(beta2/beta1); C is Adam's and does not apply"

    def bound(self, step: ArrayLike) -> FloatArray:
        return variants.adamax_bound(beta1=self.beta1, beta2=self.beta2, step=step)

    @property
    def coefficient(self) -> float:
        return math.nan

    @property
    def exact_coefficient(self) -> float:
        if self.beta1 == 0 or self.beta1 == self.beta2:
            return math.inf if self.beta1 == 0 else 0.0
        return math.log(self.beta2 / self.beta1) if self.beta2 > 0 else -math.inf

    @property
    def growth_rate(self) -> float:
        return max(0.0, -self.exact_coefficient)

    @property
    def verdict(self) -> str:
        c = self.exact_coefficient
        return "stable" if c > 0 else "boundary" if c == 0 else "unstable"

    @property
    def nearest_stable_beta2(self) -> float:
        if self.verdict == "stable":
            return self.beta2
        return stability.short_decimal_above(self.beta1, lambda beta2: beta2 > self.beta1)

    def cap(self, root: float) -> tuple[float, float]:
        # The maximum contains ε itself, so it stops at ε.
        if self.eps == 0 or self.beta2 == 0:
            return (math.inf, math.inf) if self.eps == 0 else (1.0, self.beta1 * root / self.eps)
        unseen = max(0.0, math.log(root / self.eps) / -math.log(self.beta2))
        return unseen, math.exp(self.growth_rate * unseen)


def last_betas(group: dict[str, Any]) -> tuple[float | Tensor, float | Tensor]:
    """Return the pair that decides a group's stability: its betas, or the last stage's for k-Adam."""
    if "stages" in group:
        return stage_betas(group["stages"], group["k"], betas=group["betas"])[-1]
    beta1, beta2 = group["betas"]
    return beta1, beta2


def unwrap(optimizer: Any) -> Optimizer:
    """Return the torch optimizer inside wrappers that hold it as ``.optimizer``.

    Raises:
        TypeError: if there is none.
    """
    inner, seen = optimizer, set()
    while id(inner) not in seen and _kind(inner) is None and hasattr(inner, "optimizer"):
        seen.add(id(inner))
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not a torch optimizer and has none as its `optimizer`")
    return inner


def _kind(optimizer: Any) -> type[Optimizer] | None:
    """Return the class of `_LAWS` whose step an optimizer performs; a subclass with a step of its own has none."""
    for kind in _LAWS:
        if isinstance(optimizer, kind) and inspect.unwrap(type(optimizer).step) is inspect.unwrap(kind.step):
            return kind
    return None


def law_of(optimizer: Optimizer, group: dict[str, Any]) -> UpdateLaw | str:
    """Return the law of a parameter group, or the reason why none is known."""
    kind = _kind(optimizer)
    if kind is None:
        return f"no known bound for {type(optimizer).__name__}"
    beta1, beta2 = (float(beta) for beta in last_betas(group))
    options = {"momentum_decay": group["momentum_decay"]} if kind is torch.optim.NAdam else {}
    law = AMSGradLaw if group.get("amsgrad") else _LAWS[kind]
    if law is RAdamLaw and beta2 <= 2 / 3:
        return "no known bound for RAdam with beta2 <= 2/3: it never divides by the root of v"
    return law(beta1, beta2, group["eps"], **options)


#: AdamW performs Adam's step. SparseAdam's averages of a row only change when it has a gradient; fewer averages than steps
#: lower the bound.
_LAWS: dict[type[Optimizer], type[UpdateLaw]] = {
    torch.optim.Adam: UpdateLaw,
    torch.optim.AdamW: UpdateLaw,
    torch.optim.SparseAdam: UpdateLaw,
    torch.optim.NAdam: NAdamLaw,
    torch.optim.RAdam: RAdamLaw,
    torch.optim.Adamax: AdamaxLaw,
    KAdam: UpdateLaw,
}
