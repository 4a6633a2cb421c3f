"""Parameters of the generalization runs."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ctadam.experiments.settings import (
    NUMBER,
    SIZED,
    AtLeast2,
    AtLeast10,
    Count,
    CurvePoints,
    Eps,
    Experiment,
    Inner,
    LearningRate,
    LearningRates,
    Many,
    Number,
    Pair,
    Seeds,
    Sequences,
    Settings,
    Several,
    Source,
    TestBatches,
    TestEvery,
    TestFraction,
    Through,
    Tokens,
    Transformer,
    Two,
    conflict,
)


class Levels(Settings):
    """Level curves of C (G3)."""

    coefficients: Several[Number] = Field(description="values of C")
    points: AtLeast2 = Field(description="points per curve, equally spaced in β")
    beta2: Two[Inner] = Field(description="β from, to")


class Task(Settings):
    """How one task is trained; one of its learning rates is the same for all pairs, the other view takes the best per pair."""

    steps: AtLeast10 = Field(description="steps per run")
    lr: LearningRate = Field(description="learning rate η of the view with one η for all pairs; one of lrs")
    lrs: LearningRates = Field(description="learning rates η; the other view takes the best for each pair")
    test_every: TestEvery

    @model_validator(mode="after")
    def _lr_is_trained(self) -> Self:
        if self.lr not in self.lrs:
            conflict("lr", self.lr, f"one of lrs, {self.lrs}")
        return self


class Text(Task):
    """A language model."""

    text: Source
    tokens: Tokens
    test_fraction: TestFraction
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


class Config(Experiment):
    """Test loss over the pairs of betas, two tasks (paper, section 3): claims G1-G4; figure 3."""

    points: CurvePoints
    through: Through = Field(description="the pair that the normal curve goes through, the usual one of claim G2")
    pairs: Many[Pair] = Field(description="other pairs in use")
    levels: Levels
    eps: Eps
    seeds: Seeds
    text: Text
    images: Digits
