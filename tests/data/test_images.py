"""Test images: sources, subsets, shifting and mirroring, the network, and invalid data."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ctadam.data.images import load_images
from ctadam.errors import ArtifactError
from ctadam.models.cnn import CNN
from ctadam.training import images, train

CPU = torch.device("cpu")
NETWORK = {"channels": [8], "norm": False, "batch": 4, "test_batch": 50, "test_every": 5, "device": CPU}


def write_folders(directory, classes=("cat", "dog"), count=4, size=(6, 5), seed=0):
    """Write PNG files of random pixels in class folders; return ``{name: pixels of shape (height, width, 3)}``."""
    rng, written = np.random.default_rng(seed), {}
    for name in classes:
        (directory / name).mkdir(parents=True)
        for i in range(count):
            written[f"{name}/{i}.png"] = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(written[f"{name}/{i}.png"]).save(directory / name / f"{i}.png")
    return written


def rows(part):
    """Return images and labels as a sorted list that can be compared."""
    return sorted((pixels.numpy().tobytes(), int(label)) for pixels, label in zip(*part, strict=True))


def test_digits_are_split_deterministically():
    from sklearn import datasets

    data, again = load_images("digits"), load_images("digits")
    assert data.train[0].shape == (1438, 1, 8, 8) and data.test[0].shape == (359, 1, 8, 8)
    assert torch.equal(data.train[0], again.train[0]) and data.sha256 == again.sha256
    bunch = datasets.load_digits()
    whole = [(p.astype(np.uint8).tobytes(), int(t)) for p, t in zip(bunch.data, bunch.target, strict=True)]
    assert sorted(rows(data.train) + rows(data.test)) == sorted(whole)
    assert data.chance == max(np.bincount(data.test[1])) / 359


def test_subset_is_a_prefix_of_the_full_set():
    whole, part = load_images("digits"), load_images("digits", train=100, test=20)
    for a, b, count in ((whole.train, part.train, 100), (whole.test, part.test, 20)):
        assert torch.equal(a[0][:count], b[0]) and torch.equal(a[1][:count], b[1])
    assert whole.sha256 != part.sha256


def test_class_folders_with_a_test_set(tmp_path):
    written = {name: write_folders(tmp_path / name, seed=i) for i, name in enumerate(("train", "test"))}
    data = load_images(str(tmp_path))
    assert data.classes == ("cat", "dog")
    for name, part in (("train", data.train), ("test", data.test)):
        expected = [
            (pixels.transpose(2, 0, 1).tobytes(), int(path.startswith("dog"))) for path, pixels in written[name].items()
        ]
        assert part[0].shape == (8, 3, 5, 6) and rows(part) == sorted(expected)


def test_class_folders_without_a_test_set(tmp_path):
    write_folders(tmp_path, count=10)
    data = load_images(str(tmp_path), test_fraction=0.3)
    assert len(data.train[1]) == 14 and len(data.test[1]) == 6
    assert len(set(rows(data.train) + rows(data.test))) == 20


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda d: None, "neither digits, cifar10 nor a directory of class folders"),
        (lambda d: d.mkdir(), "is not a directory of class folders"),
        (lambda d: [write_folders(d / "train"), write_folders(d / "test", ("cat", "fox"))], "different class folders"),
        (lambda d: [write_folders(d), (d / "cat/0.png").write_bytes(b"no image")], "cannot read the image"),
        (lambda d: [write_folders(d), Image.new("RGB", (9, 9)).save(d / "dog/0.png")], "has 9×9 pixels, others 6×5"),
        (
            lambda d: [write_folders(d / "train"), write_folders(d / "test", size=(9, 9))],
            "training images of 6×5 and test images of 9×9 pixels",
        ),
        (lambda d: write_folders(d, ("cat",), count=1), "1 images are too few"),
    ],
)
def test_invalid_directories_raise(tmp_path, spoil, message):
    spoil(tmp_path / "images")
    with pytest.raises(ArtifactError) as error:
        load_images(str(tmp_path / "images"))
    # Which image of two sizes is the odd one depends on the order.
    either = message.replace("9×9 pixels, others 6×5", "6×5 pixels, others 9×9")
    assert (message in str(error.value) or either in str(error.value)) and "\n" not in str(error.value)


def test_too_many_images_raise():
    with pytest.raises(ArtifactError, match="the data set 'digits' has 359 test images, not 360"):
        load_images("digits", test=360)
    with pytest.raises(ArtifactError, match="test_batch: 60 is more than the 50 test images"):
        images(load_images("digits", test=50), shift=0, flip=False, **{**NETWORK, "test_batch": 60})


def test_cifar10_uses_torchvision_and_a_failed_download_explains_the_fix(tmp_path, monkeypatch):
    from torchvision import datasets

    asked = []

    class Fake:
        def __init__(self, root, train, download):
            self.classes = ["a", "b"]
            asked.append((str(root), train, download))
            self.data = np.random.default_rng(int(train)).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
            self.targets = [i % 2 for i in range(20)]

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    monkeypatch.setenv("CTADAM_DATA", str(tmp_path))
    data = load_images("cifar10")
    load_images("cifar10", cache=str(tmp_path / "own"))
    assert [root for root, *_ in asked[2:]] == [str(tmp_path / "own")] * 2
    del asked[2:]
    assert asked == [(str(tmp_path), True, True), (str(tmp_path), False, True)]
    expected = [(p.transpose(2, 0, 1).tobytes(), i % 2) for i, p in enumerate(Fake("", True, True).data)]
    assert data.classes == ("a", "b") and rows(data.train) == sorted(expected)

    def fail(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "CIFAR10", fail)
    with pytest.raises(ArtifactError, match="without a network, put its archive there, or a folder cifar10 with"):
        load_images("cifar10", cache=str(tmp_path))


def test_a_local_copy_of_cifar10_is_used_and_named(tmp_path, monkeypatch):
    for part in ("train", "test"):
        write_folders(tmp_path / "cifar10" / part)
    monkeypatch.setenv("CTADAM_DATA", str(tmp_path))
    data, folders = load_images("cifar10"), load_images(str(tmp_path / "cifar10"))
    assert data.name == "cifar10 (PNG copy)" and data.sha256 == folders.sha256
    assert load_images("digits").name == "digits"
    for path in (tmp_path / "cifar10").rglob("*.png"):
        path.rename(path.with_suffix(".jpg"))
    assert load_images("cifar10").name == "cifar10 (JPEG copy)"


@pytest.mark.parametrize("shift, flip", [(0, False), (0, True), (2, False), (1, True)])
def test_examples_are_shifted_and_mirrored_images(tmp_path, shift, flip):
    """Compare every variant of some images with NumPy; pixels are normalized per channel."""
    write_folders(tmp_path, count=10)
    data = load_images(str(tmp_path))
    task = images(data, shift=shift, flip=flip, **{**NETWORK, "test_batch": 4})
    pixels = data.train[0].numpy()
    places = (2 * shift + 1) ** 2 * (1 + flip)
    assert task.examples == len(pixels) * places
    numbers = torch.arange(3 * places).view(3, places)  # the trainer reads a batch for each seed at once
    inputs, labels = task.read(numbers)
    assert torch.equal(labels, data.train[1][:3, None].expand(3, places))
    mean, deviation = pixels.mean((0, 2, 3), keepdims=True), pixels.std((0, 2, 3), keepdims=True, ddof=1)
    back = (inputs.numpy() * deviation + mean).round().astype(int)  # broadcast over the axis of variants
    found = {(i, back[i, j].tobytes()) for i in range(3) for j in range(places)}
    expected = set()
    for i, image in enumerate(pixels[:3]):
        padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)))
        for y in range(2 * shift + 1):
            for x in range(2 * shift + 1):
                moved = padded[:, y : y + 5, x : x + 6].astype(int)
                expected |= {
                    (i, np.ascontiguousarray(m).tobytes()) for m in ([moved, moved[:, :, ::-1]] if flip else [moved])
                }
    assert found == expected
    test = task.test[0] * torch.tensor(deviation[0], dtype=torch.float32) + torch.tensor(mean[0], dtype=torch.float32)
    assert task.test[0].shape == (1, 4, 3, 5, 6) and torch.allclose(test[0], data.test[0][:4].float(), atol=1e-3)


def test_score_is_the_accuracy():
    """Compare with the network itself, after steps so small that its weights are the initial ones."""
    import pandas as pd

    from ctadam.training.ensemble import generators

    data = load_images("digits", test=100)
    task = images(data, shift=1, flip=False, **NETWORK)
    points = pd.DataFrame({"run": range(3), "seed": range(3)}).assign(
        beta1=0.9, beta2=0.999, lr=1e-12, weight_decay=0.0, eps=1e-8, state_dtype="float32", steps=5
    )
    for chunk in (1, 4):
        scores = train(points, task=task, device=CPU, chunk=chunk).groupby("run")["test_score"].last()
        for seed in range(3):
            model = task.build(generators(seed)[0])
            right = [(model(x).argmax(1) == y).float().mean().item() for x, y in zip(*task.test, strict=True)]
            assert scores[seed] == pytest.approx(np.mean(right), abs=1e-7)


@pytest.mark.parametrize("norm", [False, True])
def test_cnn_shapes_initialization_and_invariance(norm):
    def build(seed=0):
        generator = torch.Generator().manual_seed(seed)
        return CNN(inputs=3, height=7, width=5, channels=[8, 16], classes=4, norm=norm, generator=generator)

    model, inputs = build(), torch.randn(2, 3, 7, 5)
    assert model(inputs).shape == (2, 4)
    torch.randn(10)  # the global generator plays no part
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), build().parameters(), strict=True))
    assert not torch.equal(model[0].weight, build(1)[0].weight)
    # A normalization makes the convolutions before it scale-invariant; without, they are not.
    before = model(inputs)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(10)
    assert torch.allclose(model(inputs), before, rtol=1e-2, atol=1e-2) == norm
    if norm:
        with pytest.raises(ValueError, match="not multiples of 8"):
            CNN(inputs=1, height=4, width=4, channels=[6], classes=2, norm=True, generator=torch.Generator())
