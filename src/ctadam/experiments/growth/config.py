"""Parameters of the growth runs."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ctadam.experiments.settings import (
    NUMBER,
    SIZED,
    AtLeast10,
    Count,
    CurvePoints,
    Experiment,
    Inner,
    LearningRate,
    Many,
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
    WeightDecay,
    Words,
    conflict,
)


class BatchRule(Settings):
    """Recipe that sets β from the batch size B: β = beta2_at_reference^(B/reference) (S14, S15)."""

    beta1: Inner = Field(description="γ")
    beta2_at_reference: Inner = Field(description="β at the reference batch size")
    reference: Count = Field(description="reference batch size")
    batch_sizes: Several[Count] = Field(
        description="batch sizes B for which the recipe sets β; the runs' own batch stays the same"
    )
    repaired: Several[Count] = Field(description="those of batch_sizes at which a floor under β is tried too (S15)")
    eps: Several[Positive] = Field(description="values of ε; the recipe's own first, others for S15 only")
    seeds: Seeds
    steps: AtLeast10 = Field(description="steps per run")

    @model_validator(mode="after")
    def _the_floor_changes_what_it_repairs(self) -> Self:
        for i, size in enumerate(self.repaired):
            if size not in self.batch_sizes:
                conflict(f"repaired.{i}", size, "one of batch_sizes")
            if self.beta2_at_reference ** (size / self.reference) >= self.beta1 / (2 - self.beta1):
                conflict(f"repaired.{i}", size, "a batch size at which the recipe's pair has C < 0")
        return self


class Config(Experiment):
    """Stable region and exponential growth (paper, section 3): claims S1-S6, S10, S11, S14, S15; figures 2 and 8."""

    text: Words
    model: Transformer
    batch: Sequences
    lr: LearningRate
    weight_decay: WeightDecay
    steps: AtLeast10 = Field(description="steps per run")
    n_points: CurvePoints
    through: Through = Field(description="the pair that the normal curve goes through")
    pairs: Many[Pair] = Field(description="further pairs, trained like the points and marked in figure 2")
    seeds: Seeds
    across: Count = Field(
        description="number of points across C = 0, half on each side; they and all points beyond are run with every seed, "
        "the others with the first (S5)"
    )
    characters_below: Annotated[float, NUMBER, Field(le=0), SIZED] = Field(
        description="points with C below this are also run with character tokens (S10)"
    )
    record_every: Count = Field(description="steps between records of the parameters' sizes")
    test_batches: TestBatches
    test_every: TestEvery
    batch_rule: BatchRule
