"""Parameters of the sweep over k."""

from typing import Literal

from pydantic import Field

from ctadam.experiments.settings import (
    Beta,
    Count,
    Eps,
    Experiment,
    Flag,
    Images,
    LearningRate,
    Network,
    Seeds,
    Several,
    TestEvery,
    WeightDecay,
)


class Config(Experiment):
    """k-Adam with k stages and four strategies, with and without normalization layers: claims K1, K2; figure 5."""

    shards: Count = Field(description="independent jobs; 2 or 4 keep whole strategies together")
    images: Images
    network: Network
    norms: Several[Flag] = Field(description="whether the network has normalization layers")
    beta1: Beta = Field(description="γ of the base pair")
    beta2: Beta = Field(description="β of the base pair")
    lr: LearningRate
    weight_decay: WeightDecay
    eps: Eps = Field(description="ε in the denominator of every stage")
    steps: Count = Field(description="steps per run")
    test_every: TestEvery
    ks: Several[Count] = Field(description="numbers of stages k")
    strategies: Several[Literal["inverse-exp", "uniform", "exp", "naive"]] = Field(
        description="how the stages' betas follow from the base pair"
    )
    seeds: Seeds
    pair_seeds: Seeds = Field(description="seeds for k = 1 and k = 2 (K1)")
