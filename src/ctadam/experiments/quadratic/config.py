"""Parameters of the quadratic runs."""

from typing import Annotated

from pydantic import Field

from ctadam.experiments.settings import (
    NUMBER,
    SIZED,
    AtLeast2,
    Count,
    Distinct,
    Experiment,
    Integer,
    LearningRate,
    LearningRates,
    Positive,
    Settings,
)


class Distant(Settings):
    """A setting with the minimum so far away that decay decides where the weights end."""

    minimum: Positive = Field(description="every coordinate of the minimum")
    weight_decay: Positive = Field(description="decoupled weight decay λ")


class Config(Experiment):
    """Adam on a convex quadratic over the whole square of pairs: claims S9, S12; figure 6."""

    grid: Count = Field(description="values of β and of γ, equally spaced from 0")
    steps: AtLeast2 = Field(description="steps per run")
    dimension: AtLeast2 = Field(description="coordinates of the quadratic")
    condition: Annotated[float, NUMBER, Field(ge=1), SIZED] = Field(description="largest over smallest eigenvalue")
    lrs: LearningRates = Field(description="learning rates η, without noise and decay")
    lr: LearningRate = Field(description="learning rate η of the sweeps over noise and decay")
    noises: Distinct[Positive] = Field(description="standard deviations σ of the gradient noise")
    weight_decays: Distinct[Positive] = Field(description="decoupled weight decays λ, with the minimum at 0")
    distant: Distant
    seed: Integer = Field(description="seed of start and noise")
