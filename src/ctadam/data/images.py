"""Images and their classes: the embedded digits, CIFAR-10, or any directory of class folders.

Pixels stay bytes until a batch is read. What is used of a data set is chosen in one fixed random order, so a subset is the
same for every run; the sha256 is that of the pixels and labels in use, after decoding, because JPEG decoders may differ.
"""

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctadam.data import data_directory
from ctadam.data.digits import load_digits
from ctadam.errors import ArtifactError

#: The order in which a data set is used, the same for every run.
_ORDER_SEED = 0


@dataclass(frozen=True)
class Images:
    """Training and test images.

    Attributes:
        train, test: ``(pixels, labels)``: uint8 of shape (n, channels, height, width) and int64 of shape (n,).
        classes: their names; a label is an index.
        sha256: of all these pixels and labels.
    """

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    classes: tuple[str, ...]
    sha256: str

    @property
    def chance(self):
        """The accuracy of always naming the class that is commonest in the test set."""
        labels = self.test[1]
        return float(labels.bincount().max()) / len(labels)


def load_images(source, *, train=0, test=0, test_fraction=0.2, cache=""):
    """Read a data set, or the first so many of its images in a fixed random order.

    Args:
        source: ``"digits"`` (embedded: 8×8, grey), ``"cifar10"`` (downloaded once and checked, by torchvision), or a
            directory: either class folders, or ``train`` and ``test`` with class folders in each (torchvision's
            ``ImageFolder``). Images of one directory must have one size.
        train, test: how many of either part; 0 for all.
        test_fraction: part of the images kept for the test where the source has no test set of its own; in (0, 1).
        cache: directory for downloads; `data_directory` if empty.

    Raises:
        ArtifactError: no such source, an unreadable or odd-sized image, fewer images than asked for, a failed download.
    """
    if source == "digits":
        digits = load_digits()
        pixels = (digits.images * 16).to(torch.uint8).view(-1, 1, 8, 8)
        whole = _Part(pixels, digits.labels)
        parts, classes = _split(whole, test_fraction), tuple("0123456789")
    elif source == "cifar10":
        parts, classes = _cifar10(cache)
    else:
        parts, classes = _folders(Path(os.path.expanduser(source)), test_fraction)
    chosen = []
    for name, part, count in zip(("training", "test"), parts, (train, test), strict=True):
        if count > len(part.labels):
            raise ArtifactError(f"the images {source!r} have {len(part.labels)} for {name}, not {count}")
        chosen.append(part.take(_order(len(part.labels))[: count or None]))
    sizes = ["×".join(map(str, pixels.shape[:1:-1])) for pixels, _ in chosen]
    if sizes[0] != sizes[1]:
        raise ArtifactError(f"the images {source!r} have {sizes[0]} pixels for training and {sizes[1]} for test")
    digest = hashlib.sha256()
    for pixels, labels in chosen:
        digest.update(repr(tuple(pixels.shape)).encode())
        digest.update(pixels.numpy().tobytes() + labels.numpy().astype("<i8").tobytes())
    return Images(*chosen, classes, digest.hexdigest())


def _order(count):
    return torch.from_numpy(np.random.default_rng(_ORDER_SEED).permutation(count))


@dataclass(frozen=True)
class _Part:
    """Images in memory."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def take(self, which):
        return self.pixels[which], self.labels[which]


@dataclass(frozen=True)
class _Files:
    """Images on disk, decoded when they are chosen."""

    paths: list[str]
    labels: torch.Tensor

    def take(self, which):
        from PIL import Image

        pixels, size = [], None
        for i in which.tolist():
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
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), self.labels[which]


def _split(part, test_fraction):
    """Two parts of one, for a source without a test set."""
    order = _order(len(part.labels))
    cut = len(order) - max(1, int(len(order) * test_fraction))
    if cut < 1:
        raise ArtifactError(f"{len(order)} images are too few for a training and a test set")
    if isinstance(part, _Files):
        return [
            _Files([part.paths[i] for i in some.tolist()], part.labels[some]) for some in (order[:cut], order[cut:])
        ]
    return [_Part(*part.take(some)) for some in (order[:cut], order[cut:])]


def _cifar10(cache):
    from torchvision.datasets import CIFAR10

    cache = Path(cache).expanduser() if cache else data_directory()
    parts = []
    for train in (True, False):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # torchvision downloads and unpacks in place: of several jobs one does, and the others wait for it.
            with open(cache / ".cifar10.lock", "w", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                data = CIFAR10(cache, train=train, download=True)
        except Exception as error:  # urllib's and the archive's errors are not ours to enumerate
            raise ArtifactError(
                f"could not get CIFAR-10 into {cache} ({type(error).__name__}); without a network, put its archive there, or "
                "set the source to a directory with train and test, class folders in each"
            ) from error
        parts.append(_Part(torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)))
    return parts, tuple(data.classes)


def _folders(directory, test_fraction):
    if not directory.is_dir():
        raise ArtifactError(
            f"no images in {str(directory)!r}: neither digits nor cifar10 nor a directory of class folders"
        )
    split = all((directory / name).is_dir() for name in ("train", "test"))
    parts, names = [], []
    for place in (directory / "train", directory / "test") if split else (directory,):
        from torchvision.datasets import ImageFolder

        try:
            found = ImageFolder(place)
        except (FileNotFoundError, OSError) as error:
            raise ArtifactError(f"{place} is no directory of class folders: {' '.join(str(error).split())}") from error
        # Sorted with the separator of every system, so that the order is the same everywhere.
        samples = sorted(found.samples, key=lambda sample: sample[0].replace(os.sep, "/"))
        parts.append(_Files([path for path, _ in samples], torch.tensor([label for _, label in samples])))
        names.append(tuple(found.classes))
    if len(set(names)) > 1:
        raise ArtifactError(f"{directory}: train and test have different class folders")
    return (parts if split else _split(parts[0], test_fraction)), names[0]
