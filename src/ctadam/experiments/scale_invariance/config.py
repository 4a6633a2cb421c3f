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
    LearningRate,
    NonEmpty,
    Positive,
    Seeds,
    Settings,
    Several,
    Text,
    Transformer,
    conflict,
)


class Cosines(Settings):
    """Cosines between weights and past gradients (N1)."""

    times: Count = Field(description="number of steps at which they are taken, equally spaced")
    lags: Several[Integer] = Field(description="how many steps the gradient lies back")


class Training(Settings):
    """How one model is trained."""

    lr: LearningRate
    batch: Count = Field(description="examples per step of a minibatch run")
    steps: AtLeast2 = Field(description="steps per run")
    chunk: Count = Field(description="runs that are trained together")


class Law(Training):
    """How one model is trained without weight decay, with minibatches and with the full batch."""

    examples: Count = Field(description="examples in every step of a full-batch run")


class MLP(Settings):
    """Size of linear maps in front of layer normalizations."""

    width: Count = Field(description="units per hidden layer")
    depth: Integer = Field(description="hidden layers")


class Linear(Settings):
    """Size of a linear map divided by its norm."""

    scale: Positive = Field(description="norm of the map from pixels to logits")


class LanguageModel(Law):
    """A language model with QK-norm, on characters."""

    text: Text
    model: Transformer


class CNN(Law):
    """Convolutions in front of group normalizations, on the embedded digits."""

    channels: NonEmpty[Channels] = Field(description="channels of each convolution")


class TrainedMLP(MLP, Law):
    """Linear maps in front of layer normalizations, on the embedded digits."""


class TrainedLinear(Linear, Law):
    """A linear map divided by its norm, on the embedded digits."""


class Models(Settings):
    """Models with scale-invariant weights, trained by Adam without weight decay (N1-N5, N8)."""

    transformer: LanguageModel
    cnn: CNN
    mlp: TrainedMLP
    linear: TrainedLinear


class Steady(Settings):
    """Longer minibatch runs of the transformer with weight decay, until the start is forgotten (N10)."""

    weight_decay: Positive = Field(description="decoupled weight decay λ")
    steps: AtLeast2 = Field(description="steps per run")
    chunk: Count = Field(description="runs that are trained together")


class InvariantModels(Settings):
    """Models of nothing but scale-invariant weights."""

    any_of = ("linear", "mlp")

    linear: Linear = Field(default=ABSENT)
    mlp: MLP = Field(default=ABSENT)


class FixedNorm(Training):
    """Models of nothing but scale-invariant weights, under AdamW and with fixed norms under other optimizers (N6, N9)."""

    models: InvariantModels
    weight_decays: Several[Positive] = Field(description="decoupled weight decays λ")
    record_every: Count = Field(description="steps between comparisons")


class Config(Experiment):
    """Scale-invariant weights (paper, section on normalization): claims N1-N6 and N8-N10; figure 4."""

    beta2: Inner = Field(description="β")
    beta1s: Several[Beta] = Field(description="values of γ")
    seeds: Seeds
    record_every: Count = Field(description="steps between records of the norms")
    cosines: Cosines
    models: Models
    steady: Steady
    fixed_norm: FixedNorm

    @model_validator(mode="after")
    def _a_lag_fits_into_a_run(self) -> Self:
        steps = max(getattr(self.models, name).steps for name in type(self.models).model_fields)
        if not any(1 <= lag <= steps for lag in self.cosines.lags):
            allowed = f"a list with a lag from 1 to {steps}, the most steps of a model"
            conflict("cosines.lags", self.cosines.lags, allowed)
        return self

    @model_validator(mode="after")
    def _decay_leaves_the_sign(self) -> Self:
        # Otherwise a step would turn the weight to its opposite, and the norm laws end there.
        steady = ("steady.weight_decay", self.models.transformer.lr, self.steady.weight_decay)
        others = [
            (f"fixed_norm.weight_decays.{i}", self.fixed_norm.lr, decay)
            for i, decay in enumerate(self.fixed_norm.weight_decays)
        ]
        for key, lr, decay in (steady, *others):
            if lr * decay >= 1:
                conflict(key, decay, f"number in (0, {1 / lr:g}), 1 over the learning rate")
        return self
