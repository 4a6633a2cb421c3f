"""Preconditioned sharpness: the curvature that decides whether Adam is stable.

Adam divides by √v̂, so the curvature it experiences is the largest eigenvalue of diag(1/√v̂)·H, where H is the Hessian of the
loss and v̂ the bias-corrected second average. The similar matrix v̂^{−1/4} H v̂^{−1/4} is symmetric and has the same eigenvalues.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def preconditioned_sharpness(
    gradient: Callable[[Tensor], Tensor], theta: Tensor, square: Tensor, start: Tensor, *, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalue of diag(1/√v̂)·H for a batch of runs.

    Args:
        gradient: function from weights of shape (runs, d) to gradients of the same shape. Runs must not depend on each other.
        theta: weights, of shape (runs, d).
        square: v̂, of the same shape. Coordinates where it is 0 are left out, as in the optimizer's update.
        start: vectors from which the iteration starts, of the same shape, such as those of the step before.
        iterations: number of Hessian-vector products.

    Returns:
        ``(values, vectors)`` of shapes (runs,) and (runs, d). Values are NaN where a run is not finite.
    """
    scale = torch.where(square > 0, square.clamp_min(torch.finfo(square.dtype).tiny).pow(-0.25), 0.0)
    # The Hessian is symmetric, so a vector-Jacobian product of the gradient is a Hessian-vector product.
    product = torch.func.vjp(gradient, theta)[1]
    return largest_eigenvalue(lambda x: scale * product(scale * x)[0], start, iterations=iterations)


def largest_eigenvalue(apply: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalue of a batch of symmetric matrices by power iteration with Rayleigh-Ritz (Lanczos).

    The best vector in the span of all power iterates converges much faster than the last iterate. It also belongs to the
    largest eigenvalue, not to the largest absolute value, which matters where the curvature is negative.

    Args:
        apply: function that multiplies vectors of shape (runs, d) by the matrices.
        start: vectors to start from, of shape (runs, d).
        iterations: number of products with each matrix, at most d.

    Returns:
        ``(values, vectors)`` of shapes (runs,) and (runs, d); the vectors have norm 1.
    """
    vector = _unit(start)
    vectors: list[Tensor] = []
    images: list[Tensor] = []
    for _ in range(iterations):
        vectors.append(vector)
        images.append(apply(vector))
        basis, vector = torch.stack(vectors, 1), images[-1]
        for _ in range(2):  # once is not enough in floating point
            vector = vector - ((basis @ vector[..., None]).mT @ basis)[:, 0]
        vector = _unit(vector)
    projected = (basis @ torch.stack(images, 1).mT).cpu()
    finite = torch.isfinite(projected).all(-1).all(-1)
    # eigh rejects values that are not finite.
    values, combinations = torch.linalg.eigh(torch.nan_to_num((projected + projected.mT) / 2, 0.0, 0.0, 0.0))
    top = combinations[:, None, :, -1].to(basis.device) @ basis
    return values[:, -1].where(finite, torch.nan).to(start.device), top[:, 0]


def _unit(vector: Tensor) -> Tensor:
    """Return vectors divided by their norms; a zero vector stays 0."""
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(vector.dtype).tiny)
