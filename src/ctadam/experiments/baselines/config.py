"""Parameters of the baselines."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ctadam.experiments import settings
from ctadam.experiments.settings import (
    ABSENT,
    Beta,
    Count,
    Distinct,
    Eps,
    Experiment,
    Images,
    Inner,
    LearningRates,
    Network,
    Seeds,
    Sequences,
    Settings,
    String,
    TestBatches,
    TestEvery,
    Tokens,
    Transformer,
    WeightDecays,
    missing,
)


class Text(settings.Text):
    """The second task: a language model."""

    tokenization: Tokens
    model: Transformer
    batch: Sequences
    test_batches: TestBatches


class Steps(Settings):
    """Steps per run of each task; a task without steps is left out."""

    any_of = ("images", "text")

    images: Count = Field(default=ABSENT, description="steps per run on images")
    text: Count = Field(default=ABSENT, description="steps per run on text")


class Config(Experiment):
    """2-Adam against baselines whose learning rate and weight decay are tuned: claims K4, K5; figure 9."""

    # Required for the tasks that have steps, see below.
    images: Images = Field(default=ABSENT)
    network: Network = Field(default=ABSENT)
    text: Text = Field(default=ABSENT)
    validation_fraction: Inner = Field(description="part of the training set kept for tuning")
    steps: Steps
    test_every: TestEvery
    contenders: Distinct[String] = Field(description="names of the optimizers that are compared; empty for all")
    beta1: Beta = Field(description="γ, where a contender has one; SGD's momentum")
    beta2: Beta = Field(description="β, where a contender has one; RMSprop has torch's 0.99")
    eps: Eps
    lrs: Annotated[LearningRates, Field(description="learning rates η, the same grid for all")]
    weight_decays: Annotated[WeightDecays, Field(description="decoupled weight decays λ, the same for all")]
    seeds: Seeds

    @model_validator(mode="after")
    def _tasks_with_steps_are_described(self) -> Self:
        given, needed = self.model_fields_set, {"images": ("images", "network"), "text": ("text",)}
        for task in self.steps.model_fields_set:
            for key in needed[task]:
                if key not in given:
                    missing(key)
        return self
