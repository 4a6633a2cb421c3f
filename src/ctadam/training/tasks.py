"""Learning problems: a model, examples drawn by index, a loss, and test batches. The trainer knows nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctadam.data.text import Corpus, batches, windows
from ctadam.errors import ArtifactError
from ctadam.models.cnn import CNN
from ctadam.models.transformer import Transformer

# The test examples are the same for every run of every experiment, independent of the run's seed.
_TEST_SEED = 0


@dataclass(frozen=True)
class Task:
    """A learning problem shared by many runs.

    Attributes:
        build: returns the model, with initial weights drawn from the given CPU generator. The model must have no dropout and no
            running statistics, so that outputs depend on parameters and inputs only.
        examples: number of examples; a batch is drawn as indices below it.
        batch: examples per step.
        read: maps example indices, int64 of shape (..., batch), to ``(inputs, targets)`` of shapes (..., batch, ...), on the
            device of the indices.
        loss: maps ``(outputs, targets)`` of one batch to a scalar.
        test: ``(inputs, targets)``, each of shape (test batches, batch, ...); the test loss is the mean over the batches.
        test_every: steps between test losses; the last step always has one.
        score: a second test measure with the arguments of ``loss``, such as the accuracy; or None.
        watch: parameters whose rows belong to tokens, with 0 for tokens of the inputs and 1 for tokens of the targets.
        once: no example is drawn twice in a run. Otherwise examples are drawn with replacement.
        validation: held-out training examples, measured like ``test``; or None.
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
    once: bool = False
    validation: tuple[Tensor, Tensor] | None = None

    def draw(self, steps: int, generator: torch.Generator) -> Tensor:
        """Draw the examples of a run as indices, int64 of shape (steps, batch). A longer run begins with those of a shorter one.

        Raises:
            ArtifactError: if `once` holds and there are fewer examples than that.
        """
        if not self.once:
            return torch.randint(self.examples, (steps, self.batch), generator=generator)
        if steps * self.batch > self.examples:
            raise ArtifactError(
                f"{steps} steps of {self.batch} examples would repeat some of the {self.examples} examples"
            )
        return torch.randperm(self.examples, generator=generator)[: steps * self.batch].view(steps, self.batch)

    @property
    def tests(self) -> list[str]:
        """Names of the results of a test: the loss and, if there is one, the score, on each set of examples."""
        sets = ["test", *(["validation"] if self.validation is not None else [])]
        return [f"{name}_{measure}" for name in sets for measure in ("loss", "score")[: 2 if self.score else 1]]

    @property
    def weights(self) -> int:
        """Number of parameters of the model."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.build(torch.Generator()).parameters())


def _next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def language(
    corpus: Corpus,
    *,
    width: int,
    depth: int,
    heads: int,
    context: int,
    batch: int,
    test_batches: int,
    test_every: int,
    device: torch.device,
    once: bool = False,
    validation_fraction: float = 0.0,
) -> Task:
    """Return next-token prediction by a `ctadam.models.transformer.Transformer`; the loss is in nats per token.

    Args:
        corpus: the text.
        width: model width of the transformer.
        depth: number of blocks.
        heads: number of attention heads.
        context: sequence length, in tokens. An example is a window of this length, identified by its start.
        batch: sequences per step.
        test_batches: number of batches in the test loss.
        test_every: see `Task`.
        device: where the text is stored.
        once: the windows do not overlap, and a run reads each at most once.
        validation_fraction: share of the training text, at its end, that is held out as `Task.validation`.
    """
    cut = len(corpus.train) - int(len(corpus.train) * validation_fraction)
    tokens = corpus.train[:cut].to(device)

    def drawn(part: Tensor) -> tuple[Tensor, Tensor]:
        stream = batches(part, batch=batch, context=context, generator=torch.Generator().manual_seed(_TEST_SEED))
        inputs, targets = zip(*(next(stream) for _ in range(test_batches)), strict=True)
        return torch.stack(inputs).to(device), torch.stack(targets).to(device)

    def build(generator: torch.Generator) -> Transformer:
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
        examples=(len(tokens) - 1) // context if once else len(tokens) - context,
        batch=batch,
        read=lambda indices: windows(tokens, indices * context if once else indices, context=context),
        loss=_next_token_loss,
        test=drawn(corpus.test),
        test_every=test_every,
        validation=drawn(corpus.train[cut:]) if validation_fraction else None,
        # Each row belongs to one token: as an input, and as a target.
        watch={"embedding.weight": 0, "head.weight": 1},
        once=once,
    )


def classification(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    build: Callable[[torch.Generator], nn.Module],
    batch: int,
    test_every: int,
    device: torch.device,
) -> Task:
    """Return classification by any model; the loss is cross-entropy in nats.

    Args:
        train: ``(inputs, labels)``, float32 of shape (n, ...) and int64 of shape (n,).
        test: ``(inputs, labels)`` like ``train``; used as one batch.
        build: see `Task`.
        batch: see `Task`.
        test_every: see `Task`.
        device: where the data are stored.
    """
    inputs, labels = (part.to(device) for part in train)
    return Task(
        build=build,
        examples=len(labels),
        batch=batch,
        read=lambda indices: (inputs[indices], labels[indices]),
        loss=F.cross_entropy,
        test=(test[0][None].to(device), test[1][None].to(device)),
        test_every=test_every,
    )


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of targets with the largest output."""
    return (outputs.argmax(-1) == targets).float().mean()


def images(
    data: Any,  # an import of `Images` would make its module part of the code of every experiment
    *,
    channels: Sequence[int],
    norm: bool,
    batch: int,
    shift: int,
    flip: bool,
    test_batch: int,
    test_every: int,
    device: torch.device,
    validation_fraction: float = 0.0,
) -> Task:
    """Return classification of randomly shifted and mirrored images by a `CNN`; cross-entropy in nats, and test accuracy.

    An example is one variant of an image, so one index drawn from the run's generator selects both. Images are shifted and
    mirrored on the device when a batch is read. Pixels are normalized by the training set's mean and standard deviation per
    channel.

    Args:
        data: a `ctadam.data.images.Images`.
        channels: see `CNN`.
        norm: see `CNN`.
        batch: see `Task`.
        shift: largest shift in pixels, in both directions; black pixels fill the gap.
        flip: mirror half of the examples horizontally.
        test_batch: images per test batch; the test set is truncated to whole batches.
        test_every: see `Task`.
        device: where the data are stored, as bytes.
        validation_fraction: share of the training images, the last ones, that is held out as `Task.validation`.

    Raises:
        ArtifactError: if ``test_batch`` exceeds the number of test or validation images.
    """
    cut = len(data.train[1]) - int(len(data.train[1]) * validation_fraction)
    pixels, labels = (part[:cut].to(device) for part in data.train)
    _, depth, height, width = pixels.shape
    side, mirrors = 2 * shift + 1, 2 if flip else 1
    places = side * side * mirrors
    deviation, mean = torch.std_mean(pixels.double(), dim=(0, 2, 3), keepdim=True)
    mean, deviation = mean[0].float(), deviation[0].clamp(min=1.0).float()
    padded = F.pad(pixels, (shift,) * 4)
    channel = torch.arange(depth, device=device)[:, None, None]
    row, column = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        image, variant = indices[..., None, None, None] // places, indices[..., None, None, None] % places
        place, mirrored = variant // mirrors, variant % mirrors
        across = torch.where(mirrored == 1, width - 1 - column, column) + place % side
        shifted = padded[image, channel, row + place // side, across]
        return (shifted - mean) / deviation, labels[image[..., 0, 0, 0]]

    def build(generator: torch.Generator) -> CNN:
        return CNN(
            inputs=depth,
            height=height,
            width=width,
            channels=channels,
            classes=len(data.classes),
            norm=norm,
            generator=generator,
        )

    def whole_batches(part: tuple[Tensor, Tensor], name: str) -> tuple[Tensor, Tensor]:
        count = len(part[1]) // test_batch
        if not count:
            raise ArtifactError(f"test_batch: {test_batch} is more than the {len(part[1])} {name} images")
        inputs, targets = (x[: count * test_batch].unflatten(0, (count, test_batch)).to(device) for x in part)
        return (inputs - mean) / deviation, targets

    held_out = data.train[0][cut:], data.train[1][cut:]
    return Task(
        build=build,
        examples=len(labels) * places,
        batch=batch,
        read=read,
        loss=F.cross_entropy,
        test=whole_batches(data.test, "test"),
        test_every=test_every,
        score=accuracy,
        validation=whole_batches(held_out, "validation") if validation_fraction else None,
    )
