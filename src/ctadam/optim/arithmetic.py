"""Update rule of k-Adam on tensors, without optimizer objects (arXiv 2411.05746, k-Adam).

With u⁽⁰⁾ = g, stage i averages the update of the previous stage and divides the mean by the root of the mean square:

    m ← γ m + (1−γ) u⁽ⁱ⁻¹⁾,    v ← β v + (1−β) (u⁽ⁱ⁻¹⁾)²,    u⁽ⁱ⁾ = √(1−β^{n+1}) / (1−γ^{n+1}) · m / (√v + ε)

As in torch, ε is added after √v has been bias-corrected. The paper's γ is ``beta1`` and its β is ``beta2``.

Operations run in the order of ``torch.optim.Adam(foreach=False)``, so k = 1 gives the same bits. Everything broadcasts:
parameters of many runs can be stacked, and each run can have its own decays.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

#: A float or a tensor that broadcasts.
Scalar = float | Tensor


def bias_corrections(step: Scalar, *, beta1: Scalar, beta2: Scalar) -> tuple[Scalar, Scalar]:
    """Return 1 − beta1^step and √(1 − beta2^step), with step counted from 1.

    Floats give floats. Tensors give float64 tensors, because float32 loses three digits of 1 − beta2^step to cancellation in
    the first steps.
    """
    if isinstance(step, Tensor):
        step = step.double()
    if isinstance(beta1, Tensor):
        beta1 = beta1.double()
    if isinstance(beta2, Tensor):
        beta2 = beta2.double()
    return 1 - beta1**step, (1 - beta2**step) ** 0.5


def _like(value: Scalar, tensor: Tensor) -> Scalar:
    """Move a tensor to the dtype and device of another; return a float as it is."""
    return value.to(tensor) if isinstance(value, Tensor) else value


def average_(
    grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, *, weight1: Scalar, beta2: Scalar, weight2: Scalar
) -> None:
    """Update both averages with `grad`, in place.

    The weights 1 − beta1 and 1 − beta2 are arguments, so that the caller can compute them in the precision of the betas. They
    and beta2 are either all floats or all tensors.
    """
    exp_avg.lerp_(grad, weight1)
    exp_avg_sq.mul_(beta2)
    if isinstance(weight2, Tensor):
        exp_avg_sq.addcmul_(grad * weight2, grad)  # `value` takes no tensor
    else:
        exp_avg_sq.addcmul_(grad, grad, value=weight2)


#: Cached because `torch.finfo` costs as much as an operation on a small tensor.
_TINY = {dtype: torch.finfo(dtype).tiny for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def denominator(exp_avg_sq: Tensor, bias_correction2_sqrt: Scalar, *, eps: Scalar) -> Tensor:
    """Return √v̂ + ε as a new tensor, with 0 replaced by infinity so that the update there is 0 (ε = 0 is allowed).

    ``eps`` is a float or a tensor that broadcasts.
    """
    denom = (exp_avg_sq.sqrt() / _like(bias_correction2_sqrt, exp_avg_sq)).add_(eps)
    if isinstance(eps, Tensor) or eps < _TINY[denom.dtype]:  # ε underflows, as 1e-8 does in float16
        denom.masked_fill_(denom == 0, torch.inf)
    return denom


def stage_(
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Scalar,
    *,
    beta1: Scalar,
    beta2: Scalar,
    eps: Scalar,
) -> tuple[Tensor, Scalar]:
    """Update the averages of one stage in place and return the denominator and bias correction of its update.

    The update u = exp_avg / denominator / bias_correction1 is left to the caller. The last stage folds the second division
    into the learning rate, as torch does.

    Args:
        grad: input of the stage, real, any shape.
        exp_avg: average of `grad` before this step; shape and dtype of `grad`.
        exp_avg_sq: average of the square of `grad` before this step; shape and dtype of `grad`.
        step: number of this step, counted from 1; a float or a tensor that broadcasts.
        beta1: decay of `exp_avg` (paper's γ) in [0, 1); a float or a tensor that broadcasts against `grad`. Pass tensors as
            float64 if beta1 or beta2 is close to 1.
        beta2: decay of `exp_avg_sq` (paper's β), like `beta1`.
        eps: term added to the root; a float or a tensor that broadcasts. 0 is allowed: where √v + eps is 0, the update is 0
            even if m is not.

    Returns:
        ``(denominator, bias_correction1)``: a new tensor of `grad`'s shape, and a float (a float64 tensor if `beta1` or
        `step` is a tensor).
    """
    # 1 − beta is computed before rounding to the state's dtype.
    average_(
        grad,
        exp_avg,
        exp_avg_sq,
        weight1=_like(1 - beta1, exp_avg),
        beta2=_like(beta2, exp_avg),
        weight2=_like(1 - beta2, exp_avg),
    )
    bias_correction1, bias_correction2_sqrt = bias_corrections(step, beta1=beta1, beta2=beta2)
    return denominator(exp_avg_sq, bias_correction2_sqrt, eps=eps), bias_correction1


def stage_update(exp_avg: Tensor, denom: Tensor, bias_correction1: Scalar) -> Tensor:
    """Return u = exp_avg / denom / bias_correction1 as a new tensor; this order of divisions avoids needless overflow."""
    return (exp_avg / denom).div_(_like(bias_correction1, exp_avg))


def kadam_update_(
    grad: Tensor,
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    step: Scalar,
    *,
    stages: Sequence[tuple[Scalar, Scalar]],
    eps: Scalar,
) -> Tensor:
    """Update the averages of all k stages in place and return k-Adam's update u⁽ᵏ⁾ as a new tensor.

    A full step is then ``theta -= lr * (weight_decay * theta + u)``.

    Args:
        grad: gradient, real, any shape.
        exp_avgs: k tensors of `grad`'s shape and dtype, zero before the first step.
        exp_avg_sqs: k tensors like `exp_avgs`.
        step: number of this step, counted from 1, as in `stage_`.
        stages: k pairs (beta1, beta2), each as in `stage_`; see `ctadam.optim.stage_betas`.
        eps: term added to the root in every stage, as in `stage_`.

    Raises:
        ValueError: if the number of pairs differs from the number of averages.
    """
    update = grad
    for exp_avg, exp_avg_sq, (beta1, beta2) in zip(exp_avgs, exp_avg_sqs, stages, strict=True):
        denom, bias_correction1 = stage_(update, exp_avg, exp_avg_sq, step, beta1=beta1, beta2=beta2, eps=eps)
        update = stage_update(exp_avg, denom, bias_correction1)
    return update


def unsmoothed_update_(
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    second_avg_sq: Tensor,
    step: Scalar,
    *,
    beta1: Scalar,
    beta2: Scalar,
    second_beta2: Scalar,
    eps: Scalar,
) -> Tensor:
    """Return the update of a 2-Adam variant that normalizes by the update without momentum, u = (m̂ / √v̂) / √ŵ.

    Stage 1 is Adam's. 2-Adam with γ₂ = 0 divides its update by the root of an average of the update's own square. This variant
    averages (g / √v̂)² instead: w ← β₂ w + (1−β₂) (g / (√v̂ + ε))². With beta1 = 0 the two are equal. Derived for this
    artifact. All averages are updated in place and bias-corrected. The result is a new tensor.

    Args:
        grad: gradient, real, any shape.
        exp_avg: m before this step; shape and dtype of `grad`.
        exp_avg_sq: v before this step; shape and dtype of `grad`.
        second_avg_sq: w before this step; shape and dtype of `grad`.
        step: number of this step, counted from 1, as in `stage_`.
        beta1: decay of m, as in `stage_`.
        beta2: decay of v, as in `stage_`.
        second_beta2: decay of w, like `beta2`.
        eps: term added to both denominators, as in `stage_`.
    """
    denom, bias_correction1 = stage_(grad, exp_avg, exp_avg_sq, step, beta1=beta1, beta2=beta2, eps=eps)
    unsmoothed = grad / denom
    # A stage without momentum: its first average is its input.
    second, _ = stage_(unsmoothed, unsmoothed, second_avg_sq, step, beta1=0.0, beta2=second_beta2, eps=eps)
    return stage_update(exp_avg, denom, bias_correction1).div_(second)
