"""What a run learns: a model, examples drawn by number, a loss, and test batches. The trainer knows no more than this."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctadam.data.text import batches, windows
from ctadam.errors import ArtifactError
from ctadam.models.cnn import CNN
from ctadam.models.transformer import Transformer

# The test examples are the same for every run of every experiment, whatever the run's seed.
_TEST_SEED = 0


@dataclass(frozen=True)
class Task:
    """One learning problem that many runs share.

    Attributes:
        build: the model, initial weights drawn from the CPU generator it is given. No dropout, no running statistics:
            an output may depend on nothing but parameters and inputs.
        examples: how many there are; a batch is drawn as numbers below this, with replacement.
        batch: examples in a step.
        read: example numbers, int64 of shape (..., batch), to ``(inputs, targets)`` of shapes (..., batch, ...), on the
            numbers' device.
        loss: ``(outputs, targets)`` of one batch to a scalar.
        test: ``(inputs, targets)``, each of shape (test batches, batch, ...); the test loss is the mean over them.
        test_every: steps between test losses; the last step always has one.
        score: what is taken beside the test loss, from the same arguments as ``loss``: the accuracy, or nothing.
        watch: parameters whose rows belong to tokens, and whose tokens: 0 for the inputs, 1 for the targets.
    """

    build: Callable[[torch.Generator], nn.Module]
    examples: int
    batch: int
    read: Callable[[Tensor], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    test: tuple[Tensor, Tensor]
    test_every: int
    score: Callable[[Tensor, Tensor], Tensor] | None = None
    watch: Mapping[str, int] = field(default_factory=dict)

    @property
    def weights(self):
        """How many parameters the model has."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.build(torch.Generator()).parameters())


def _next_token_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def language(corpus, *, width, depth, heads, context, batch, test_batches, test_every, device):
    """Next-token prediction by a `ctadam.models.transformer.Transformer`, in nats per token.

    Args:
        corpus: `ctadam.data.text.Corpus`.
        width, depth, heads, context: the transformer's shape.
        batch: sequences in a step; an example is a window of ``context`` tokens, by its start.
        test_batches: batches whose mean loss is the test loss.
        test_every: see `Task`.
        device: where the text is kept.
    """
    test = batches(corpus.test, batch=batch, context=context, generator=torch.Generator().manual_seed(_TEST_SEED))
    test = zip(*(next(test) for _ in range(test_batches)), strict=True)
    tokens = corpus.train.to(device)

    def build(generator):
        return Transformer(
            vocabulary=len(corpus.vocabulary),
            width=width,
            depth=depth,
            heads=heads,
            context=context,
            generator=generator,
        )

    return Task(
        build=build,
        examples=len(tokens) - context,
        batch=batch,
        read=lambda starts: windows(tokens, starts, context=context),
        loss=_next_token_loss,
        test=tuple(torch.stack(part).to(device) for part in test),
        test_every=test_every,
        # A row of these two belongs to one token: as an input, and as a target.
        watch={"embedding.weight": 0, "head.weight": 1},
    )


def classification(train, test, *, build, batch, test_every, device):
    """Classification by any model, with cross-entropy in nats.

    Args:
        train, test: ``(inputs, labels)``, float32 of shape (n, ...) and int64 of shape (n,); the test set is one batch.
        build, batch, test_every: see `Task`.
        device: where the data are kept.
    """
    inputs, labels = (part.to(device) for part in train)
    return Task(
        build=build,
        examples=len(labels),
        batch=batch,
        read=lambda numbers: (inputs[numbers], labels[numbers]),
        loss=F.cross_entropy,
        test=tuple(part[None].to(device) for part in test),
        test_every=test_every,
    )


def accuracy(outputs, targets):
    """The part of the targets that have the largest output."""
    return (outputs.argmax(-1) == targets).float().mean()


def images(data, *, channels, norm, batch, shift, flip, test_batch, test_every, device):
    """Classification of images, moved and mirrored at random, by a `CNN`: cross-entropy in nats and the test accuracy.

    An example is an image in one of its variants, so that one number drawn from the run's generator says both; the images
    are moved and mirrored on the device as a batch is read. Pixels are normalized by the training set's mean and
    deviation in each channel.

    Args:
        data: `ctadam.data.images.Images`.
        channels, norm: of the `CNN`.
        batch, test_every: see `Task`.
        shift: largest shift in pixels, in both directions; what comes in from outside is black.
        flip: whether half of the examples are mirrored, left for right.
        test_batch: images in a test batch; of the test set, as many as fill whole batches are used.
        device: where the data are kept, as bytes.
    """
    pixels, labels = (part.to(device) for part in data.train)
    _, depth, height, width = pixels.shape
    side, mirrors = 2 * shift + 1, 2 if flip else 1
    places = side * side * mirrors
    deviation, mean = torch.std_mean(pixels.double(), dim=(0, 2, 3), keepdim=True)
    mean, deviation = mean[0].float(), deviation[0].clamp(min=1.0).float()
    padded = F.pad(pixels, (shift,) * 4)
    channel = torch.arange(depth, device=device)[:, None, None]
    row, column = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)

    def read(numbers):
        image, variant = numbers[..., None, None, None] // places, numbers[..., None, None, None] % places
        place, mirrored = variant // mirrors, variant % mirrors
        across = torch.where(mirrored == 1, width - 1 - column, column) + place % side
        found = padded[image, channel, row + place // side, across]
        return (found - mean) / deviation, labels[image[..., 0, 0, 0]]

    def build(generator):
        size = {"height": height, "width": width}
        return CNN(inputs=depth, **size, channels=channels, classes=len(data.classes), norm=norm, generator=generator)

    count = len(data.test[1]) // test_batch
    if not count:
        raise ArtifactError(f"test_batch: {test_batch} is more than the {len(data.test[1])} test images")
    inputs, targets = (part[: count * test_batch].unflatten(0, (count, test_batch)).to(device) for part in data.test)
    return Task(
        build=build,
        examples=len(labels) * places,
        batch=batch,
        read=read,
        loss=F.cross_entropy,
        test=((inputs - mean) / deviation, targets),
        test_every=test_every,
        score=accuracy,
    )
