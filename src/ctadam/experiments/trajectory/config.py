"""Parameters of the trajectory runs."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from ctadam.experiments.settings import (
    INTEGER,
    SIZED,
    AtLeast2,
    AtLeast10,
    Count,
    Experiment,
    Inner,
    LearningRate,
    LearningRates,
    Number,
    Seeds,
    Settings,
    Several,
    Substeps,
    Text,
    Transformer,
    WeightDecays,
    conflict,
)


class MLP(Settings):
    """A tanh network on the embedded digits."""

    examples: Annotated[int, INTEGER, Field(ge=1, le=1797), SIZED] = Field(
        description="the first so many digits, all of them in every step"
    )
    width: Count = Field(description="units per hidden layer")
    depth: Count = Field(description="hidden layers")
    substeps: Substeps


class LanguageModel(Settings):
    """A language model on characters."""

    text: Text
    model: Transformer
    sequences: Count = Field(description="windows of the text, all of them in every step")
    substeps: Substeps


Model = Annotated[Literal["mlp", "transformer"], Field(description="which network")]


class Sharpness(Settings):
    """Largest preconditioned curvature on the optimizer's path (T6)."""

    every: Count = Field(description="steps between measurements")
    iterations: AtLeast2 = Field(description="power iterations per measurement, starting from the last vector")


class Picture(Settings):
    """Single weights, for figure 1."""

    model: Model
    lr: LearningRate
    weights: Count = Field(description="weights recorded per run")


def _not_zero(p: float) -> float:
    if p == 0:
        raise ValueError
    return p


Power = Annotated[Number, AfterValidator(_not_zero), WithJsonSchema({"type": "number", "not": {"const": 0}})]


class Relabel(Settings):
    """Runs in t = n·η^p (T3)."""

    model: Model
    lr: LearningRate
    p: Several[Power] = Field(description="powers p of η in the unit of time")
    steps: Count = Field(description="steps per run")

    @model_validator(mode="after")
    def _time_is_finite(self) -> Self:
        # Beyond these powers the unit of time, lr^p, leaves float64.
        largest = 100 / max(abs(math.log10(self.lr)), 1e-9)
        for i, p in enumerate(self.p):
            if abs(p) > largest:
                allowed = f"number in [{-largest:.3g}, {largest:.3g}] with relabel.lr {self.lr:g}"
                conflict(f"p.{i}", p, allowed)
        return self


class Config(Experiment):
    """The differential equations against the optimizer (paper, section 2): claims T1-T6; figure 1."""

    shards: Count = Field(description="independent jobs; none repeats the optimizer if it divides the number of lrs")
    beta1: Inner = Field(description="γ")
    beta2: Inner = Field(description="β")
    mlp: MLP
    transformer: LanguageModel
    lrs: LearningRates
    weight_decays: WeightDecays = Field(
        description="decoupled weight decays λ; every equation is solved with the first, the paper's with all"
    )
    seeds: Seeds
    steps: AtLeast10 = Field(description="steps per run")
    weights: Count = Field(description="random weights whose R² is computed; all if the model has fewer")
    sharpness: Sharpness
    first_substeps: AtLeast2 = Field(
        description="solver steps in the optimizer's first step; later steps have fewer, as 1/n"
    )
    chunk: Count = Field(description="runs whose gradients are computed together")
    picture: Picture
    relabel: Relabel

    @model_validator(mode="after")
    def _pictured_runs_exist(self) -> Self:
        if self.picture.lr not in self.lrs:
            conflict("picture.lr", self.picture.lr, f"one of lrs, {self.lrs}")
        return self
