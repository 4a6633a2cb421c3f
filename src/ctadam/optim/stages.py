"""Betas of k-Adam's k stages, computed from one base pair.

The paper (arXiv 2411.05746) compares four strategies. The formulas here are this artifact's definitions of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ctadam.optim.arithmetic import Scalar


def _uniform(decay: Scalar, k: int) -> Scalar:
    shared = 1 - k * (1 - decay)
    return shared.clamp(min=0.0) if isinstance(shared, Tensor) else max(0.0, shared)


# Each strategy maps one decay (a float or a 0-dim tensor) and k > 1 to the decay that all k stages share.
_STRATEGIES: dict[str, Callable[[Scalar, int], Scalar]] = {
    "naive": lambda decay, k: decay,
    "exp": lambda decay, k: decay**k,
    "inverse-exp": lambda decay, k: 1 - (1 - decay) ** (1 / k),
    "uniform": _uniform,
}


def check_betas(betas: Any, *, where: str = "") -> None:
    """Check that `betas` is a pair of decays in [0, 1).

    Args:
        betas: value to check.
        where: inserted into the message, such as ``" of stage 2"``.

    Raises:
        ValueError: if it is not, with the wording of torch's Adam.
    """
    if isinstance(betas, (str, bytes, Tensor)) or not isinstance(betas, Sequence) or len(betas) != 2:
        raise ValueError(f"Invalid betas{where}: {betas!r} is not a pair (beta1, beta2)")
    for index, beta in enumerate(betas):
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{index}] must be 1-element{where}, got shape {tuple(beta.shape)}")
    if not (all(isinstance(beta, float) for beta in betas) or all(isinstance(beta, Tensor) for beta in betas)):
        # Check the range first: for a 1, its value explains the error better than its type.
        for index, beta in enumerate(betas):
            if isinstance(beta, (int, float)) and not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}{where}: {beta}")
        raise ValueError(f"betas must be either both floats or both Tensors{where}, got {tuple(betas)!r}")
    for index, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:  # NaN fails too
            raise ValueError(f"Invalid beta parameter at index {index}{where}: {beta}")


def check_stages(stages: Any, k: Any) -> str | tuple[tuple[Any, Any], ...]:
    """Check `stages` for `k` stages and return it, with explicit pairs as tuples.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if k < 1, the strategy is unknown, there are not k pairs, or a pair is outside [0, 1).
    """
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"Invalid k: {k!r} is not an integer")
    if k < 1:
        raise ValueError(f"Invalid k: {k} is less than 1")
    if isinstance(stages, str):
        if stages not in _STRATEGIES:
            raise ValueError(f"Invalid stages: {stages!r} is none of {', '.join(map(repr, _STRATEGIES))}")
        return stages
    if not isinstance(stages, Sequence):
        raise ValueError(f"Invalid stages: {stages!r} is neither a strategy nor a sequence of pairs (beta1, beta2)")
    if len(stages) != k:
        raise ValueError(f"Invalid stages: got {len(stages)} pairs for k={k}")
    for number, betas in enumerate(stages, start=1):
        check_betas(betas, where=f" of stage {number}")
    return tuple((beta1, beta2) for beta1, beta2 in stages)


def stage_betas(
    stages: str | Sequence[Sequence[Any]], k: int, *, betas: Sequence[Any] = (0.9, 0.999)
) -> list[tuple[Any, Any]]:
    """Return the k pairs (beta1, beta2) of k-Adam's stages, first stage first, in torch's order.

    The paper's (β, γ) is (beta2, beta1). A strategy gives every stage the same pair. With x either of the base decays:

    =================  ======================  =====================================================================
    strategy           decay of every stage    preserved
    =================  ======================  =====================================================================
    ``"naive"``        x                       nothing: the lags of the k stages add up
    ``"exp"``          x^k                     the summed memory: each stage has 1/k of it, in units of 1/ln(1/x)
    ``"inverse-exp"``  1 − (1−x)^{1/k}         the weight of the newest gradient: the k factors 1−x_i multiply to 1−x
    ``"uniform"``      max(0, 1 − k(1−x))      the summed lag to first order: each stage has 1/k of it, in units of 1/(1−x)
    =================  ======================  =====================================================================

    k = 1 gives exactly the base pair. The last pair alone decides stability (arXiv 2411.05746, section 3, applied to the last
    stage); see `ctadam.theory.stability`.

    Args:
        stages: name of a strategy, or a sequence of k pairs, which is validated and returned.
        k: number of stages, at least 1.
        betas: base pair (beta1, beta2); floats in [0, 1), or 1-element tensors, which give pairs of tensors.

    Returns:
        list of k tuples (beta1, beta2).

    Raises:
        TypeError: if k is not an integer.
        ValueError: if a decay is outside [0, 1), the strategy is unknown, or there are not k pairs.

    Example:
        >>> stage_betas("inverse-exp", 2, betas=(0.75, 0.9375))
        [(0.5, 0.75), (0.5, 0.75)]
    """
    stages = check_stages(stages, k)
    check_betas(betas)
    return resolve(stages, k, betas)


def resolve(stages: str | Sequence[tuple[Any, Any]], k: int, betas: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return `stage_betas` without checking its arguments.

    The optimizer calls this in every step, because schedulers that cycle the momentum write to ``betas``.
    """
    if not isinstance(stages, str):
        return list(stages)
    if k == 1:
        return [(betas[0], betas[1])]
    strategy = _STRATEGIES[stages]
    return [(strategy(betas[0], k), strategy(betas[1], k))] * k
