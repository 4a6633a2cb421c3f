"""Parameters of the baselines."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ctadam.experiments.settings import (
    ABSENT,
    Beta,
    Count,
    Eps,
    Experiment,
    Images,
    LearningRates,
    Network,
    Seeds,
    Sequences,
    Settings,
    Several,
    Source,
    TestBatches,
    TestEvery,
    TestFraction,
    Tokens,
    Transformer,
    WeightDecays,
    missing,
)


class Text(Settings):
    """The second task: a language model."""

    source: Source
    tokenization: Tokens
    test_fraction: TestFraction
    model: Transformer
    batch: Sequences
    test_batches: TestBatches


class Steps(Settings):
    """Steps per run of each task; a task without steps is left out."""

    any_of = ("images", "text")

    images: Count = Field(default=ABSENT, description="steps per run on images")
    text: Count = Field(default=ABSENT, description="steps per run on text")


class Config(Experiment):
    """2-Adam against baselines whose learning rate and weight decay are swept: claims K4, K5; figure 9."""

    shards: Count = Field(description="independent jobs; divisors of twice the number of contenders keep them whole")
    # Required for the tasks that have steps, see below.
    images: Images = Field(default=ABSENT)
    network: Network = Field(default=ABSENT)
    text: Text = Field(default=ABSENT)
    steps: Steps
    test_every: TestEvery
    contenders: Several[
        Literal[
            "2-Adam inverse-exp",
            "2-Adam uniform",
            "2-Adam exp",
            "2-Adam naive",
            "2-Adam unsmoothed",
            "AdamW",
            "NAdam",
            "RAdam",
            "Adamax",
            "RMSprop",
            "Adagrad",
            "SGD, momentum",
        ]
    ] = Field(description="optimizers that are compared")
    beta1: Beta = Field(description="γ, where a contender has one; SGD's momentum")
    beta2: Beta = Field(description="β, where a contender has one; RMSprop has torch's 0.99")
    eps: Eps
    lrs: LearningRates = Field(description="learning rates η, the same grid for all")
    weight_decays: WeightDecays = Field(description="decoupled weight decays λ for all")
    seeds: Seeds

    @model_validator(mode="after")
    def _tasks_with_steps_are_described(self) -> Self:
        given, needed = self.model_fields_set, {"images": ("images", "network"), "text": ("text",)}
        for task in self.steps.model_fields_set:
            for key in needed[task]:
                if key not in given:
                    missing(key)
        return self
