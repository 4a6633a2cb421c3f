"""Handwritten digits of 8×8 pixels: 1,797 images included in scikit-learn, so nothing is downloaded.

They are the test set of "Optical Recognition of Handwritten Digits" (UCI Machine Learning Repository).
"""

import hashlib
from dataclasses import dataclass

import torch

from ctadam.errors import ArtifactError


@dataclass(frozen=True)
class Digits:
    """Images and their labels.

    Attributes:
        images: float64 tensor of shape (n, 64), pixels in [0, 1] in row-major order.
        labels: int64 tensor of shape (n,), 0 … 9.
        sha256: hash of all 1,797 images and labels as scikit-learn returns them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sha256: str


def load_digits(examples: int | None = None) -> Digits:
    """Return the first ``examples`` digits, or all if None.

    Raises:
        ArtifactError: if fewer than 1 or more than the available digits are requested.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    total = len(bunch.target)
    if examples is not None and not 1 <= examples <= total:
        raise ArtifactError(f"examples: {examples} is not between 1 and {total}, the number of digits")
    digest = hashlib.sha256(bunch.data.astype("<f8").tobytes() + bunch.target.astype("<i8").tobytes()).hexdigest()
    images, labels = torch.from_numpy(bunch.data / 16), torch.from_numpy(bunch.target.astype("int64"))
    return Digits(images[:examples], labels[:examples], digest)
