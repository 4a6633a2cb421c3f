"""Image classification data: the embedded digits, CIFAR-10, or a directory of class folders.

Pixels stay bytes until a batch is read. Subsets are taken in one fixed random order, so they are the same for every run. The
sha256 covers the decoded pixels and labels in use, because JPEG decoders may differ.
"""

import fcntl
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctadam.data import data_directory
from ctadam.data.digits import load_digits
from ctadam.errors import ArtifactError

#: Seed of the order in which a data set is used; the same for every run.
_ORDER_SEED = 0


@dataclass(frozen=True)
class Images:
    """Training and test images.

    Attributes:
        train: ``(pixels, labels)``: uint8 of shape (n, channels, height, width) and int64 of shape (n,).
        test: ``(pixels, labels)`` like ``train``.
        classes: names of the classes; a label is an index into them.
        name: the source, and which copy of it was used if not the original.
        sha256: hash of all these pixels and labels.
    """

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    classes: tuple[str, ...]
    name: str
    sha256: str

    @property
    def chance(self) -> float:
        """Accuracy of always predicting the most frequent class of the test set."""
        labels = self.test[1]
        return float(labels.bincount().max()) / len(labels)


def load_images(source: str, *, train: int = 0, test: int = 0, test_fraction: float = 0.2, cache: str = "") -> Images:
    """Load a data set, or the first images of it in a fixed random order.

    Args:
        source: ``"digits"`` (embedded, 8×8, grey), ``"cifar10"``, or a directory. The directory has class folders, or ``train``
            and ``test`` with class folders (torchvision's ``ImageFolder``). All its images must have the same size. CIFAR-10
            is downloaded and checked by torchvision, unless the directory of downloads has a folder ``cifar10`` of this form.
        train: number of training images; 0 for all.
        test: number of test images; 0 for all.
        test_fraction: share of the images used for the test if the source has no test set, in (0, 1).
        cache: directory for downloads; `data_directory` if empty.

    Raises:
        ArtifactError: if the source is unknown, an image is unreadable or of another size, there are fewer images than
            requested, or a download fails.
    """
    parts: Sequence[_Part | _Files]
    name = source
    if source == "digits":
        digits = load_digits()
        pixels = (digits.images * 16).to(torch.uint8).view(-1, 1, 8, 8)
        whole = _Part(pixels, digits.labels)
        parts, classes = _split(whole, test_fraction), tuple("0123456789")
    elif source == "cifar10":
        directory = Path(cache).expanduser() if cache else data_directory()
        if (copy := directory / "cifar10").is_dir():
            parts, classes = _folders(copy, test_fraction)
            name = f"cifar10 ({_format(parts)} copy)"
        else:
            parts, classes = _cifar10(directory)
    else:
        parts, classes = _folders(Path(os.path.expanduser(source)), test_fraction)
    chosen = []
    for part_name, part, count in zip(("training", "test"), parts, (train, test), strict=True):
        if count > len(part.labels):
            raise ArtifactError(f"the data set {source!r} has {len(part.labels)} {part_name} images, not {count}")
        chosen.append(part.take(_order(len(part.labels))[: count or None]))
    sizes = ["×".join(map(str, pixels.shape[:1:-1])) for pixels, _ in chosen]
    if sizes[0] != sizes[1]:
        raise ArtifactError(
            f"the data set {source!r} has training images of {sizes[0]} and test images of {sizes[1]} pixels"
        )
    digest = hashlib.sha256()
    for pixels, labels in chosen:
        digest.update(repr(tuple(pixels.shape)).encode())
        digest.update(pixels.numpy().tobytes() + labels.numpy().astype("<i8").tobytes())
    return Images(chosen[0], chosen[1], classes, name, digest.hexdigest())


def _order(count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(_ORDER_SEED).permutation(count))


@dataclass(frozen=True)
class _Part:
    """Images in memory."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels[indices], self.labels[indices]


@dataclass(frozen=True)
class _Files:
    """Images on disk, decoded when they are selected."""

    paths: list[str]
    labels: torch.Tensor

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from PIL import Image

        pixels: list[np.ndarray] = []
        size = None
        for i in indices.tolist():
            try:
                with Image.open(self.paths[i]) as image:
                    array = np.asarray(image.convert("RGB"))
            except OSError as error:
                raise ArtifactError(f"cannot read the image {self.paths[i]}: {error}") from error
            size = size or array.shape
            if array.shape != size:
                raise ArtifactError(
                    f"the image {self.paths[i]} has {array.shape[1]}×{array.shape[0]} pixels, others {size[1]}×{size[0]}"
                )
            pixels.append(array)
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), self.labels[indices]


def _split(part: _Part | _Files, test_fraction: float) -> Sequence[_Part | _Files]:
    """Split a source without a test set into training and test images."""
    order = _order(len(part.labels))
    cut = len(order) - max(1, int(len(order) * test_fraction))
    if cut < 1:
        raise ArtifactError(f"{len(order)} images are too few for a training and a test set")
    if isinstance(part, _Files):
        return [
            _Files([part.paths[i] for i in indices.tolist()], part.labels[indices])
            for indices in (order[:cut], order[cut:])
        ]
    return [_Part(*part.take(indices)) for indices in (order[:cut], order[cut:])]


def _cifar10(directory: Path) -> tuple[list[_Part], tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    parts = []
    for train in (True, False):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # torchvision downloads and unpacks in place: one job does so while the others wait.
            with open(directory / ".cifar10.lock", "w", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                data = CIFAR10(directory, train=train, download=True)
        except Exception as error:  # urllib and the archive can raise many types
            raise ArtifactError(
                f"cannot download CIFAR-10 to {directory} ({type(error).__name__}); without a network, put its archive there, "
                "or a folder cifar10 with train and test folders that hold class folders"
            ) from error
        parts.append(_Part(torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)))
    return parts, tuple(data.classes)


def _format(parts: Sequence[_Part | _Files]) -> str:
    """Return the format of image files by the suffix of the first one, such as ``JPEG``."""
    suffix = next((Path(part.paths[0]).suffix for part in parts if isinstance(part, _Files)), "")
    return {"jpg": "JPEG"}.get(suffix[1:].lower(), suffix[1:].upper())


def _folders(directory: Path, test_fraction: float) -> tuple[Sequence[_Part | _Files], tuple[str, ...]]:
    if not directory.is_dir():
        raise ArtifactError(
            f"no images in {str(directory)!r}: it is neither digits, cifar10 nor a directory of class folders"
        )
    split = all((directory / name).is_dir() for name in ("train", "test"))
    parts, names = [], []
    for place in (directory / "train", directory / "test") if split else (directory,):
        from torchvision.datasets import ImageFolder

        try:
            folder = ImageFolder(place)
        except (FileNotFoundError, OSError) as error:
            raise ArtifactError(
                f"{place} is not a directory of class folders: {' '.join(str(error).split())}"
            ) from error
        # One separator on all systems makes the order the same everywhere.
        samples = sorted(folder.samples, key=lambda sample: sample[0].replace(os.sep, "/"))
        parts.append(_Files([path for path, _ in samples], torch.tensor([label for _, label in samples])))
        names.append(tuple(folder.classes))
    if len(set(names)) > 1:
        raise ArtifactError(f"{directory}: train and test have different class folders")
    return (parts if split else _split(parts[0], test_fraction)), names[0]
