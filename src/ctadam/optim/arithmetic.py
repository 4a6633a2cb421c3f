"""The arithmetic of k-Adam, free of optimizer objects: one stage, and k of them in a row (arXiv 2411.05746, k-Adam).

With u⁽⁰⁾ = g, stage i keeps two averages of what the stage before gives it and divides one by the root of the other:

    m ← γ m + (1−γ) u⁽ⁱ⁻¹⁾,    v ← β v + (1−β) (u⁽ⁱ⁻¹⁾)²,    u⁽ⁱ⁾ = √(1−β^{n+1}) / (1−γ^{n+1}) · m / (√v + ε)

where ε stands in torch's place, added after √v has been corrected. The paper's γ is ``beta1`` and its β is ``beta2``.

The order of the operations is that of ``torch.optim.Adam(foreach=False)``: with one stage the results are the same bit
for bit. Everything broadcasts, so that parameters of many runs can be stacked and each run given its own decays.
"""

import torch
from torch import Tensor


def bias_corrections(step, *, beta1, beta2):
    """1 − beta1^step and √(1 − beta2^step), step counted from 1; floats for floats, else float64 tensors.

    float64 because 1 − beta2^step of the first steps would lose three digits to cancellation.
    """
    if isinstance(step, Tensor):
        step = step.double()
    if isinstance(beta1, Tensor):
        beta1 = beta1.double()
    if isinstance(beta2, Tensor):
        beta2 = beta2.double()
    return 1 - beta1**step, (1 - beta2**step) ** 0.5


def average_(grad, exp_avg, exp_avg_sq, *, weight1, beta2, weight2):
    """Takes `grad` into both averages, in place, with the weights 1 − beta1 and 1 − beta2: all floats or all tensors.

    The weights are arguments, not differences, because 1 − beta must be taken in a precision that beta still has.
    """
    exp_avg.lerp_(grad, weight1)
    exp_avg_sq.mul_(beta2)
    if isinstance(weight2, Tensor):
        exp_avg_sq.addcmul_(grad * weight2, grad)  # whose `value` takes a number only
    else:
        exp_avg_sq.addcmul_(grad, grad, value=weight2)


#: Looked up here, because asking torch costs as much as a small tensor's operation.
_TINY = {dtype: torch.finfo(dtype).tiny for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def denominator(exp_avg_sq, bias_correction2_sqrt, *, eps):
    """√v̂ + ε, a new tensor; infinite where that is zero, so that the update there is 0 (ε = 0 is allowed).

    ``eps`` is a float, or a tensor that broadcasts.
    """
    if isinstance(bias_correction2_sqrt, Tensor):
        bias_correction2_sqrt = bias_correction2_sqrt.to(exp_avg_sq)
    denom = (exp_avg_sq.sqrt() / bias_correction2_sqrt).add_(eps)
    if isinstance(eps, Tensor) or eps < _TINY[denom.dtype]:  # ε would be lost in a zero: true of 1e-8 in float16
        denom.masked_fill_(denom == 0, torch.inf)
    return denom


def stage_(grad, exp_avg, exp_avg_sq, step, *, beta1, beta2, eps):
    """Advances one stage by one step: updates its averages in place and gives what its update is made of.

    The update itself, u = exp_avg / denominator / bias_correction1, is left to the caller: a stage that applies it
    to a parameter folds the last division into the learning rate, as torch does.

    Args:
        grad: what the stage averages, any shape; real.
        exp_avg, exp_avg_sq: the averages of `grad` and of its square before this step; shape and dtype of `grad`.
        step: number of averages made *after* this step, 1 at the first: float, or tensor that broadcasts.
        beta1, beta2: decays (paper's γ and β) in [0, 1): floats, or tensors that broadcast against `grad`. Give
            tensors as float64 where γ and β near 1 matter.
        eps: added to the root; float, or tensor that broadcasts. 0 is allowed: where √v + eps is 0 the update is 0, even if
            m is not.

    Returns:
        (denominator, bias_correction1): a new tensor of `grad`'s shape, and a float (a float64 tensor if `beta1` or
        `step` is one).
    """
    weight1, kept, weight2 = 1 - beta1, beta2, 1 - beta2
    if isinstance(beta1, Tensor):
        weight1 = weight1.to(exp_avg)
    if isinstance(beta2, Tensor):
        kept, weight2 = kept.to(exp_avg), weight2.to(exp_avg)
    average_(grad, exp_avg, exp_avg_sq, weight1=weight1, beta2=kept, weight2=weight2)
    bias_correction1, bias_correction2_sqrt = bias_corrections(step, beta1=beta1, beta2=beta2)
    return denominator(exp_avg_sq, bias_correction2_sqrt, eps=eps), bias_correction1


def stage_update(exp_avg, denom, bias_correction1):
    """u = m̂ / denominator, a new tensor. Divided in this order it cannot overflow before it must."""
    if isinstance(bias_correction1, Tensor):
        bias_correction1 = bias_correction1.to(exp_avg)
    return (exp_avg / denom).div_(bias_correction1)


def kadam_update_(grad, exp_avgs, exp_avg_sqs, step, *, stages, eps):
    """The update u⁽ᵏ⁾ of k-Adam, a new tensor shaped like `grad`; the averages of all stages are advanced in place.

    ``theta -= lr * (weight_decay * theta + u)`` is then the whole step.

    Args:
        grad: any shape; real.
        exp_avgs, exp_avg_sqs: k tensors each, shape and dtype of `grad`, zero before the first step.
        step: as in `stage_`.
        stages: k pairs (beta1, beta2), each as in `stage_`; `ctadam.optim.stage_betas` makes them.
        eps: as in `stage_`.

    Raises:
        ValueError: the number of pairs is not the number of averages.
    """
    update = grad
    for exp_avg, exp_avg_sq, (beta1, beta2) in zip(exp_avgs, exp_avg_sqs, stages, strict=True):
        denom, bias_correction1 = stage_(update, exp_avg, exp_avg_sq, step, beta1=beta1, beta2=beta2, eps=eps)
        update = stage_update(exp_avg, denom, bias_correction1)
    return update


def unsmoothed_update_(grad, exp_avg, exp_avg_sq, second_avg_sq, step, *, beta1, beta2, second_beta2, eps):
    """A variant of 2-Adam: the second normalization by the unsmoothed update, u = (m̂ / √v̂) / √ŵ. A new tensor.

    Stage 1 is Adam's. 2-Adam with γ₂ = 0 divides its update by the root of an average of the update's own square; this
    one averages (g / √v̂)² instead, without the momentum: w ← β₂ w + (1−β₂) (g / (√v̂ + ε))². That is what the norm of a
    scale-invariant weight under Adam does (derived for this artifact, `ctadam.theory.scale_invariance`). With beta1 = 0
    the two are the same. All averages are advanced in place and corrected for their start at zero.

    Args:
        grad: any shape; real.
        exp_avg, exp_avg_sq, second_avg_sq: m, v and w before this step; shape and dtype of `grad`.
        step: as in `stage_`.
        beta1, beta2: decays of stage 1, as in `stage_`.
        second_beta2: decay of w, likewise.
        eps: as in `stage_`, in both denominators.
    """
    denom, bias_correction1 = stage_(grad, exp_avg, exp_avg_sq, step, beta1=beta1, beta2=beta2, eps=eps)
    unsmoothed = grad / denom
    # As a stage without momentum, whose first average is its input.
    second, _ = stage_(unsmoothed, unsmoothed, second_avg_sq, step, beta1=0.0, beta2=second_beta2, eps=eps)
    return stage_update(exp_avg, denom, bias_correction1).div_(second)
