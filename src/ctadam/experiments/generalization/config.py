"""Parameters of the generalization runs."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ctadam.experiments.settings import (
    ABSENT,
    NUMBER,
    SIZED,
    AtLeast2,
    AtLeast10,
    Count,
    CurvePoints,
    Eps,
    Experiment,
    Images,
    Inner,
    LearningRates,
    Network,
    Seeds,
    Sequences,
    Settings,
    TestBatches,
    TestEvery,
    Text,
    Through,
    Tokens,
    Transformer,
    conflict,
)


class LevelCurve(Settings):
    """Level curve of C that ends at the usual pair (G3)."""

    n_points: AtLeast2 = Field(description="points equally spaced in β; the last one is the usual pair")
    beta2: Inner = Field(description="β of the first point, below the usual pair's")


class Task(Settings):
    """How one task is trained."""

    steps: AtLeast10 = Field(description="steps per run")
    lrs: LearningRates = Field(description="learning rates η; each seed is judged at one chosen on the other seeds")
    test_every: TestEvery


class Language(Task, Text):
    """A language model on a text."""

    tokenization: Tokens
    model: Transformer
    batch: Sequences
    test_batches: TestBatches


class MLP(Settings):
    """Size of a tanh network."""

    width: Count = Field(description="units per hidden layer")
    depth: Count = Field(description="hidden layers")


class Digits(Task):
    """A tanh network on the embedded digits."""

    test_fraction: Annotated[float, NUMBER, Field(ge=0.01, le=0.9), SIZED] = Field(
        description="part of the digits, at the end, kept for the test loss"
    )
    model: MLP
    batch: Count = Field(description="images per step")


class Photographs(Task):
    """A convolutional network without normalization layers on an image data set."""

    data: Images
    network: Network


class Config(Experiment):
    """Test loss along a normal curve and a level curve of C, two tasks (paper, section 3): claims G1–G4; figure 3."""

    n_points: CurvePoints
    through: Through = Field(description="the usual pair (β, γ), at which the normal curve and the level curve cross")
    level: LevelCurve
    eps: Eps
    seeds: Seeds
    text: Language
    # One of them is the task ``images``.
    images: Digits = ABSENT
    photographs: Photographs = ABSENT

    @model_validator(mode="after")
    def _one_image_task(self) -> Self:
        if (self.images is None) == (self.photographs is None):
            conflict("photographs", self.photographs, "a mapping if images is left out, else absent")
        return self

    @model_validator(mode="after")
    def _level_curve_ends_at_the_usual_pair(self) -> Self:
        if self.level.beta2 >= self.through.beta2:
            conflict("level.beta2", self.level.beta2, f"number below through.beta2, {self.through.beta2:g}")
        return self
