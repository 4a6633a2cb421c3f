"""Parameters of the sweep over learning rates and k."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctadam.experiments.settings import (
    Beta,
    Count,
    Distinct,
    Eps,
    Experiment,
    Images,
    LearningRates,
    Network,
    Positive,
    Seeds,
    Settings,
    Several,
    TestEvery,
    WeightDecay,
    conflict,
)


class Normalized(Settings):
    """The network with normalization layers (K7)."""

    lrs: Annotated[LearningRates, Field(description="learning rates η of Adam and 2-Adam")]
    ks: Several[Count] = Field(description="numbers of stages k; 1 and 2 are trained at all learning rates")


class Config(Experiment):
    """k-Adam by learning rate and k, with and without normalization layers: claims K1, K2, K6, K7; figure 5."""

    images: Images
    network: Network
    normalized: Normalized
    beta1: Beta = Field(description="γ of the base pair")
    beta2: Beta = Field(description="β of the base pair")
    weight_decay: WeightDecay
    eps: Eps = Field(description="ε in the denominator of every stage")
    steps: Count = Field(description="steps per run")
    test_every: TestEvery
    lrs: Annotated[
        LearningRates, Field(description="learning rates η of Adam and 2-Adam without normalization layers (K1, K7)")
    ]
    adam_lrs: Distinct[Positive] = Field(
        description="further learning rates of Adam, without normalization layers; K6 interpolates between all of Adam's"
    )
    lr: Positive = Field(description="learning rate η of the sweep over k (K2)")
    ks: Several[Count] = Field(description="numbers of stages k; 1 and 2 are trained at all learning rates")
    strategies: Several[Literal["inverse-exp", "uniform", "exp", "naive"]] = Field(
        description="how the stages' betas follow from the base pair"
    )
    seeds: Seeds

    @model_validator(mode="after")
    def _references(self) -> Self:
        for key, ks in (("ks", self.ks), ("normalized.ks", self.normalized.ks)):
            if not {1, 2} <= set(ks):
                conflict(key, ks, "numbers that include 1 and 2")
        return self
