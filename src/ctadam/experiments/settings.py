"""Field types and models shared by the configurations of several experiments.

Each experiment's ``config.py`` builds its model ``Config`` from them. Validation is strict: an integer has no decimal point,
text is never a number, and NaN and infinity are rejected. A value keeps the type in which it was written, so 1 stays 1.
"""

from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

#: Largest allowed float, and inverse of the smallest positive one. No setting needs numbers beyond these limits, and
#: their powers would overflow or underflow float32.
LARGEST = 1e18


def conflict(key: str, value: Any, allowed: str) -> NoReturn:
    """Raise the validation error for a value that is in its own range but conflicts with another setting.

    Args:
        key: dotted path of the field, relative to the model that is validated; empty for the model itself.
        value: the rejected value.
        allowed: description of the allowed values.

    Raises:
        PydanticCustomError: always, with type ``"conflict"``.
    """
    raise PydanticCustomError("conflict", "{allowed}", {"key": key, "value": value, "allowed": allowed})


def missing(key: str) -> NoReturn:
    """Raise the validation error for a missing field that other settings require.

    Args:
        key: dotted path of the field, as in `conflict`.

    Raises:
        PydanticCustomError: always, with type ``"lacking"``.
    """
    raise PydanticCustomError("lacking", "missing", {"key": key})


def _sized(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate a number and its size, and return it unchanged."""
    handler(value)  # checks type and bounds; its result is discarded because it turns an integer into a float
    if isinstance(value, int) and value >= 2**63:
        conflict("", value, "an integer below 2^63")
    if isinstance(value, float) and (abs(value) > LARGEST or 0 < abs(value) < 1 / LARGEST):
        conflict("", value, f"0, or a size from {1 / LARGEST:g} to {LARGEST:g}")
    return value


def _unique(values: list[Any]) -> list[Any]:
    """Return the list unchanged, or raise `PydanticCustomError` if two entries are equal."""
    if any(value in values[:i] for i, value in enumerate(values)):
        raise PydanticCustomError("unique", "no two equal")
    return values


T = TypeVar("T")

#: Default of an optional field. An explicit null is rejected; a given value must have the field's type.
ABSENT: Any = None

SIZED = WrapValidator(_sized)
INTEGER = Field(strict=True)
NUMBER = Field(strict=True, allow_inf_nan=False)

Integer = Annotated[int, INTEGER, Field(ge=0), SIZED]
Count = Annotated[int, INTEGER, Field(ge=1), SIZED]
Even = Annotated[int, INTEGER, Field(ge=2, multiple_of=2), SIZED]
Channels = Annotated[int, INTEGER, Field(ge=8, multiple_of=8), SIZED]
AtLeast2 = Annotated[int, INTEGER, Field(ge=2), SIZED]
AtLeast10 = Annotated[int, INTEGER, Field(ge=10), SIZED]
Number = Annotated[float, NUMBER, SIZED]
Positive = Annotated[float, NUMBER, Field(gt=0), SIZED]
NonNegative = Annotated[float, NUMBER, Field(ge=0), SIZED]
#: A decay, β or γ. `Inner` excludes 0.
Beta = Annotated[float, NUMBER, Field(ge=0, lt=1), SIZED]
Inner = Annotated[float, NUMBER, Field(gt=0, lt=1), SIZED]
String = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]

Many = Annotated[list[T], Field(strict=True)]
NonEmpty = Annotated[list[T], Field(strict=True, min_length=1)]
Two = Annotated[list[T], Field(strict=True, min_length=2, max_length=2)]
Distinct = Annotated[list[T], Field(strict=True), AfterValidator(_unique)]
Several = Annotated[list[T], Field(strict=True, min_length=1), AfterValidator(_unique)]

# Settings with the same meaning in every experiment.
Seeds = Annotated[Several[Integer], Field(description="seeds; one run each")]
LearningRate = Annotated[Positive, Field(description="learning rate η")]
LearningRates = Annotated[Several[Positive], Field(description="learning rates η")]
WeightDecay = Annotated[NonNegative, Field(description="decoupled weight decay λ")]
WeightDecays = Annotated[Several[NonNegative], Field(description="decoupled weight decays λ")]
Eps = Annotated[NonNegative, Field(description="ε in the denominator")]
Source = Annotated[String, Field(description="pydoc (embedded), shakespeare (downloaded) or a path")]
TestFraction = Annotated[Inner, Field(description="part of the text kept for the test loss")]
Tokens = Annotated[Literal["words", "characters"], Field(description="tokens of the text")]
Sequences = Annotated[Count, Field(description="sequences per step")]
TestBatches = Annotated[Count, Field(description="batches per test loss")]
TestEvery = Annotated[Count, Field(description="steps between tests")]
CurvePoints = Annotated[Count, Field(description="points equally spaced along the normal curve")]
Substeps = Annotated[
    Two[Even],
    Field(description="least solver steps per optimizer step: first-order equation, second-order equation"),
]


class Settings(BaseModel):
    """Base class of all models of the configuration. Unknown keys are rejected and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Fields of which at least one must be given.
    any_of: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.any_of and not self.model_fields_set & set(self.any_of):
            conflict("", {}, f"a mapping with {' or '.join(self.any_of)}")
        return self


class Experiment(Settings):
    """Settings that every experiment has."""

    shards: Count = Field(description="independent jobs; runs are assigned to them round-robin")
    threads: Count = Field(description="CPU threads per job; changes the bytes of the result")


class Pair(Settings):
    """A pair of betas."""

    beta1: Beta = Field(description="γ")
    beta2: Beta = Field(description="β")


class Through(Pair):
    """A pair of betas through which a normal curve is drawn."""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        # The normal curve has no points on an edge of the unit square, and this close to an edge float64 resolves none.
        for name in ("beta1", "beta2"):
            beta = getattr(self, name)
            if not 1e-6 <= beta <= 1 - 1e-6:
                conflict(name, beta, "number in [1e-06, 0.999999], for a normal curve through the pair")
        return self


class Transformer(Settings):
    """Size of a language model."""

    width: Count = Field(description="features per token")
    depth: Count = Field(description="layers")
    heads: Count = Field(description="attention heads; divides width")
    context: Count = Field(description="tokens per sequence")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            conflict("heads", self.heads, f"a divisor of width, {self.width}")
        return self


class Text(Settings):
    """A text and its split."""

    source: Source
    test_fraction: TestFraction


class Words(Text):
    """The beginning of a text and its split."""

    words: Count = Field(description="words used, from the beginning of the text; characters come from all of it")


class Images(Settings):
    """An image data set and its split."""

    source: String = Field(
        description="digits (embedded), cifar10 (downloaded), or a directory of class folders, "
        "or of train and test with class folders"
    )
    cache: String = Field(description="directory for downloads; if empty $CTADAM_DATA, or the user's cache directory")
    train: Integer = Field(description="training images; 0 for all")
    test: Integer = Field(description="test images; 0 for all")
    test_fraction: Inner = Field(description="part kept for the test where the source has no test set")


class Network(Settings):
    """A convolutional network and its batches."""

    channels: NonEmpty[Channels] = Field(description="channels of each convolution; all but the first halve the image")
    batch: Count = Field(description="images per step")
    test_batch: Count = Field(description="images per test batch; only full batches are used")
    shift: Integer = Field(description="largest random shift in pixels")
    flip: Flag = Field(description="mirror half of the images, left to right")
