"""Which decays the k stages of k-Adam use, made from one base pair.

The paper (arXiv 2411.05746) compares four such strategies. The formulas here are this artifact's own definitions of
them; each says what it preserves.
"""

from collections.abc import Sequence

from torch import Tensor


def _uniform(decay, k):
    shared = 1 - k * (1 - decay)
    return shared.clamp(min=0.0) if isinstance(decay, Tensor) else max(0.0, shared)


# Each maps one decay (a float or a 0-dim tensor) and k > 1 to the decay that all k stages share.
_STRATEGIES = {
    "naive": lambda decay, k: decay,
    "exp": lambda decay, k: decay**k,
    "inverse-exp": lambda decay, k: 1 - (1 - decay) ** (1 / k),
    "uniform": _uniform,
}


def check_betas(betas, *, where=""):
    """Raises ValueError, worded as torch's Adam words it, unless `betas` is a pair of decays in [0, 1)."""
    if isinstance(betas, (str, bytes, Tensor)) or not isinstance(betas, Sequence) or len(betas) != 2:
        raise ValueError(f"Invalid betas{where}: {betas!r} is not a pair (beta1, beta2)")
    for index, beta in enumerate(betas):
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{index}] must be 1-element{where}, got shape {tuple(beta.shape)}")
    if not (all(isinstance(beta, float) for beta in betas) or all(isinstance(beta, Tensor) for beta in betas)):
        # Range first: a 1 or a "0.9" is better explained by its value than by its type.
        for index, beta in enumerate(betas):
            if isinstance(beta, (int, float)) and not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}{where}: {beta}")
        raise ValueError(f"betas must be either both floats or both Tensors{where}, got {tuple(betas)!r}")
    for index, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:  # written so that NaN is rejected
            raise ValueError(f"Invalid beta parameter at index {index}{where}: {beta}")


def check_stages(stages, k):
    """Validates `stages` for `k` stages; returns it with explicit pairs as tuples.

    Raises:
        TypeError: k is not an integer.
        ValueError: k < 1, an unknown strategy, not k pairs, or a pair outside [0, 1).
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
    return tuple(tuple(betas) for betas in stages)


def stage_betas(stages, k, *, betas=(0.9, 0.999)):
    """The k pairs (beta1, beta2) of k-Adam's stages, first stage first, in torch's order.

    The paper's (β, γ) is (beta2, beta1). With x either of the base decays, and the same pair for every stage:

    ===============  ======================  ==================================================================
    ``"naive"``      x                       nothing is preserved: the lags of k stages add up
    ``"exp"``        x^k                     1/k of the memory, in units of 1/ln(1/x)
    ``"inverse-exp"``  1 − (1−x)^{1/k}       the weight of the newest gradient: the k factors (1−x_i) multiply to 1−x
    ``"uniform"``    max(0, 1 − k(1−x))      the summed lag, to first order: 1/k of the memory in units of 1/(1−x)
    ===============  ======================  ==================================================================

    k = 1 gives the base pair itself, exactly. Stability is decided by the last pair alone (arXiv 2411.05746, section 3,
    applied to the last stage), see `ctadam.theory.stability`.

    Args:
        stages: one of the names above, or a sequence of k pairs, which is validated and returned.
        k: number of stages, at least 1.
        betas: base pair (beta1, beta2): floats in [0, 1), or 1-element tensors (the result then holds tensors).

    Returns:
        list of k tuples (beta1, beta2).

    Raises:
        TypeError: k is not an integer.
        ValueError: a decay outside [0, 1), an unknown strategy, a number of pairs that is not k.

    Example:
        >>> stage_betas("inverse-exp", 2, betas=(0.75, 0.9375))
        [(0.5, 0.75), (0.5, 0.75)]
    """
    stages = check_stages(stages, k)
    check_betas(betas)
    return resolve(stages, k, betas)


def resolve(stages, k, betas):
    """`stage_betas` without its checks, for every step: schedulers that cycle the momentum write to ``betas``."""
    if not isinstance(stages, str):
        return list(stages)
    if k == 1:
        return [tuple(betas)]
    strategy = _STRATEGIES[stages]
    return [(strategy(betas[0], k), strategy(betas[1], k))] * k
