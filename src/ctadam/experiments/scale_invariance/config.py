"""Parameters of the runs with scale-invariant weights."""

from typing import Self

from pydantic import Field, model_validator

from ctadam.experiments.settings import (
    ABSENT,
    AtLeast2,
    Beta,
    Channels,
    Count,
    Experiment,
    Inner,
    Integer,
    LearningRates,
    NonEmpty,
    Positive,
    Seeds,
    Settings,
    Several,
    Source,
    Transformer,
    WeightDecays,
    conflict,
)


class Cosines(Settings):
    """Cosines between weights and past gradients (N1)."""

    times: Count = Field(description="number of steps at which they are taken, equally spaced")
    lags: Several[Integer] = Field(description="how many steps the gradient lies back")


class Training(Settings):
    """How one model is trained."""

    batch: Count = Field(description="examples per step of a minibatch run")
    examples: Count = Field(description="examples in every step of a full-batch run")
    lrs: LearningRates
    weight_decays: WeightDecays
    seeds: Seeds
    steps: AtLeast2 = Field(description="steps per run")
    at_once: Count = Field(description="runs that are trained together")

    @model_validator(mode="after")
    def _decay_leaves_the_sign(self) -> Self:
        lr = max(self.lrs)
        for i, decay in enumerate(self.weight_decays):
            if lr * decay >= 1:  # a step would turn the weight to its opposite, and the laws of the norm end there
                conflict(f"weight_decays.{i}", decay, f"number in [0, {1 / lr:g}), 1 over the largest of lrs")
        return self


class MLP(Settings):
    """Size of linear maps in front of layer normalizations."""

    width: Count = Field(description="units per hidden layer")
    depth: Integer = Field(description="hidden layers")


class Linear(Settings):
    """Size of a linear map divided by its norm."""

    scale: Positive = Field(description="norm of the map from pixels to logits")


class LanguageModel(Training):
    """A language model with QK-norm, on characters."""

    text: Source
    model: Transformer


class CNN(Training):
    """Convolutions in front of group normalizations, on the embedded digits."""

    channels: NonEmpty[Channels] = Field(description="channels of each convolution")


class TrainedMLP(MLP, Training):
    """Linear maps in front of layer normalizations, on the embedded digits."""


class TrainedLinear(Linear, Training):
    """A linear map divided by its norm, on the embedded digits."""


class Models(Settings):
    """Models with scale-invariant weights, trained by AdamW (N1-N5, N8)."""

    transformer: LanguageModel
    cnn: CNN
    mlp: TrainedMLP
    linear: TrainedLinear


class InvariantModels(Settings):
    """Models of nothing but scale-invariant weights."""

    any_of = ("linear", "mlp")

    linear: Linear = Field(default=ABSENT)
    mlp: MLP = Field(default=ABSENT)


class FixedNorms(Training):
    """Models of nothing but scale-invariant weights, by AdamW and with fixed norms by other optimizers (N6, N7, N9)."""

    models: InvariantModels
    record_every: Count = Field(description="steps between comparisons")

    @model_validator(mode="after")
    def _something_decays(self) -> Self:
        if not any(self.weight_decays):
            conflict("weight_decays", self.weight_decays, "a list with a number above 0")
        return self


class Config(Experiment):
    """Scale-invariant weights (paper, section on normalization): claims N1-N9; figure 4."""

    beta2: Inner = Field(description="β")
    beta1s: Several[Beta] = Field(description="values of γ")
    record_every: Count = Field(description="steps between records of the norms")
    cosines: Cosines
    models: Models
    pair: FixedNorms

    @model_validator(mode="after")
    def _a_lag_fits_into_a_run(self) -> Self:
        steps = max(getattr(self.models, name).steps for name in type(self.models).model_fields)
        if not any(1 <= lag <= steps for lag in self.cosines.lags):
            allowed = f"a list with a lag from 1 to {steps}, the most steps of a model"
            conflict("cosines.lags", self.cosines.lags, allowed)
        return self
