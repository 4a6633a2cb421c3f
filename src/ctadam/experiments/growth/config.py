"""Parameters of the growth runs."""

from typing import Annotated

from pydantic import Field

from ctadam.experiments.settings import (
    NUMBER,
    SIZED,
    AtLeast10,
    CurvePoints,
    Experiment,
    LearningRate,
    Seeds,
    Sequences,
    Source,
    TestBatches,
    TestEvery,
    TestFraction,
    Through,
    Transformer,
    WeightDecay,
)


class Config(Experiment):
    """Stable region and exponential growth (paper, section 3): claims S1-S6, S10; figures 2 and 8."""

    text: Source
    test_fraction: TestFraction
    model: Transformer
    batch: Sequences
    lr: LearningRate
    weight_decay: WeightDecay
    steps: AtLeast10 = Field(description="steps per run")
    points: CurvePoints
    through: Through = Field(description="the pair that the normal curve goes through")
    seeds: Seeds
    test_batches: TestBatches
    test_every: TestEvery
    characters_below: Annotated[float, NUMBER, Field(le=0), SIZED] = Field(
        description="points with C below this are also run with character tokens (S10)"
    )
