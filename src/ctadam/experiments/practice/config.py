"""Parameters of the practice runs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ctadam.experiments.settings import (
    AtLeast10,
    Count,
    CurvePoints,
    Distinct,
    Experiment,
    Inner,
    Integer,
    LearningRate,
    Many,
    NonNegative,
    Pair,
    Positive,
    Seeds,
    Sequences,
    Settings,
    Several,
    Source,
    TestBatches,
    TestEvery,
    TestFraction,
    Through,
    Transformer,
    conflict,
)


class Unstable(Pair):
    """The unstable pair."""

    @model_validator(mode="after")
    def _growth_has_a_cap(self) -> Self:
        if self.beta2 == 0 < self.beta1:  # the cap that ε sets to the growth has no formula there
            conflict("beta2", self.beta2, "number in (0, 1), unless beta1 is 0")
        return self


class Protection(Settings):
    """What else may hold the growth back, one change at a time."""

    clip: Positive = Field(description="global norm to which the gradient is clipped")
    weight_decay: Positive = Field(description="decoupled weight decay λ")
    lr_factor: Inner = Field(description="factor on the learning rate")
    pairs: Many[Pair] = Field(description="pairs in place of the unstable one")
    precisions: Distinct[Literal["bfloat16"]] = Field(
        description="precision of the forward and backward pass, in place of float32 (E2)"
    )


class Long(Settings):
    """Points of the normal curve for many steps (L1)."""

    of: CurvePoints
    through: Through = Field(description="the pair that the normal curve goes through")
    points: Several[Integer] = Field(description="which of these points, counted from the stable end")
    seeds: Seeds
    steps: AtLeast10 = Field(description="steps per run")

    @model_validator(mode="after")
    def _points_exist(self) -> Self:
        for i, point in enumerate(self.points):
            if point >= self.of:
                conflict(f"points.{i}", point, f"integer below long.of, {self.of}")
        return self


class Config(Experiment):
    """One unstable pair under what may hold it back, and long runs: claims E1, E2, L1; figure 8."""

    text: Source
    words: Count = Field(description="use the first so many words of the text")
    test_fraction: TestFraction
    model: Transformer
    batch: Sequences
    lr: LearningRate
    test_batches: TestBatches
    test_every: TestEvery
    seeds: Seeds
    steps: AtLeast10 = Field(description="steps per run")
    pair: Unstable
    eps: Several[NonNegative] = Field(description="values of ε in the denominator")
    state_dtypes: Several[Literal["float32", "float64"]] = Field(description="precision of the optimizer state")
    protection: Protection
    long: Long
