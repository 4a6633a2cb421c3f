"""Parameters of the practice runs."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctadam.experiments.settings import (
    AtLeast2,
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
    TestBatches,
    TestEvery,
    Through,
    Transformer,
    Words,
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
    """What else may limit the growth, one change at a time."""

    clip: Positive = Field(description="global norm to which the gradient is clipped")
    weight_decay: Positive = Field(description="decoupled weight decay λ")
    lr_factor: Inner = Field(description="factor on the learning rate")
    pairs: Many[Pair] = Field(description="pairs in place of the unstable one")
    precisions: Distinct[Literal["bfloat16"]] = Field(
        description="precision of the forward and backward pass, in place of float32; all seeds (E2)"
    )
    seeds: Annotated[Seeds, Field(description="seeds of the runs that decide no claim")]


class Long(Settings):
    """Points of the normal curve for many steps, on text that does not repeat (L1)."""

    words: Count = Field(description="words used, from the beginning of the text")
    model: Transformer
    batch: Sequences
    n_points: CurvePoints
    through: Through = Field(description="the pair that the normal curve goes through")
    points: Several[Integer] = Field(description="which of these points, counted from the stable end")
    seeds: Seeds
    steps: AtLeast10 = Field(description="steps per run")

    @model_validator(mode="after")
    def _points_exist(self) -> Self:
        for i, point in enumerate(self.points):
            if point >= self.n_points:
                conflict(f"points.{i}", point, f"integer below long.n_points, {self.n_points}")
        return self


class Config(Experiment):
    """One unstable pair with what may limit its growth, and long runs: claims E1, E2, L1; figure 8."""

    text: Words
    model: Transformer
    batch: Sequences
    lr: LearningRate
    test_batches: TestBatches
    test_every: TestEvery
    record_every: AtLeast2 = Field(description="steps between two recorded pairs of successive steps")
    seeds: Seeds
    steps: AtLeast10 = Field(description="steps per run")
    pair: Unstable
    eps: Several[NonNegative] = Field(description="values of ε in the denominator")
    state_dtypes: Several[Literal["float32", "float64"]] = Field(description="precision of the optimizer state")
    protection: Protection
    long: Long
