"""Handwritten digits, 8×8 pixels: 1,797 images that scikit-learn carries, so nothing has to be downloaded.

They are the test set of "Optical Recognition of Handwritten Digits" (UCI Machine Learning Repository).
"""

import hashlib
from dataclasses import dataclass

import torch

from ctadam.errors import ArtifactError


@dataclass(frozen=True)
class Digits:
    """Images and their classes.

    Attributes:
        images: float64 tensor of shape (n, 64), pixels in [0, 1], row by row.
        labels: int64 tensor of shape (n,), 0 … 9.
        sha256: of all pixels and labels as scikit-learn gives them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sha256: str


def load_digits(examples=None):
    """The first ``examples`` digits, all if None.

    Raises:
        ArtifactError: more are asked for than there are.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    total = len(bunch.target)
    if examples is not None and not 1 <= examples <= total:
        raise ArtifactError(f"examples: {examples} digits are not to be had (there are {total})")
    digest = hashlib.sha256(bunch.data.astype("<f8").tobytes() + bunch.target.astype("<i8").tobytes()).hexdigest()
    images, labels = torch.from_numpy(bunch.data / 16), torch.from_numpy(bunch.target.astype("int64"))
    return Digits(images[:examples], labels[:examples], digest)
