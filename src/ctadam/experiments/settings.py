"""Types that the configurations of several experiments share.

Each experiment's ``config.py`` builds its model ``Config`` from them. Numbers are strict: an integer has no decimal point, text
is never a number, and NaN and infinity are refused. A value keeps the type in which it was written, so 1 stays 1.
"""

from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

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

#: Numbers that are larger, or whose inverse is, mean nothing in any setting, and their powers leave float32.
LARGEST = 1e18


def conflict(key: str, value: Any, allowed: str) -> NoReturn:
    """Report a value that is in its own range but does not go with another one.

    Args:
        key: the field below the model that is validated, with dots; empty for the model itself.
        value: its value.
        allowed: what is allowed instead, in words.
    """
    raise PydanticCustomError("conflict", "{allowed}", {"key": key, "value": value, "allowed": allowed})


def missing(key: str) -> NoReturn:
    """Report a field that the values of others make necessary; ``key`` as for `conflict`."""
    raise PydanticCustomError("lacking", "missing", {"key": key})


def _sized(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    handler(value)  # its type and bounds; what it returns has another type where an integer stands for a float
    if isinstance(value, int) and value >= 2**63:
        conflict("", value, "an integer below 2^63")
    if isinstance(value, float) and (abs(value) > LARGEST or 0 < abs(value) < 1 / LARGEST):
        conflict("", value, f"0, or a size from {1 / LARGEST:g} to {LARGEST:g}")
    return value


def _unique(values: list[Any]) -> list[Any]:
    if any(value in values[:i] for i, value in enumerate(values)):
        raise PydanticCustomError("unique", "no two equal")
    return values


T = TypeVar("T")

#: Default of a field that may be left out. Its type is that of the field where it is given; null is refused.
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
#: β or γ; `Inner` where 0 has no meaning.
Beta = Annotated[float, NUMBER, Field(ge=0, lt=1), SIZED]
Inner = Annotated[float, NUMBER, Field(gt=0, lt=1), SIZED]
String = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]

Many = Annotated[list[T], Field(strict=True)]
NonEmpty = Annotated[list[T], Field(strict=True, min_length=1)]
Two = Annotated[list[T], Field(strict=True, min_length=2, max_length=2)]
Distinct = Annotated[list[T], Field(strict=True), AfterValidator(_unique)]
Several = Annotated[list[T], Field(strict=True, min_length=1), AfterValidator(_unique)]

# Settings that mean the same wherever they occur.
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
    """A mapping of the configuration: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Fields of which at least one must be given.
    any_of: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _not_empty(self):
        if self.any_of and not self.model_fields_set & set(self.any_of):
            conflict("", {}, f"a mapping with {' or '.join(self.any_of)}")
        return self


class Experiment(Settings):
    """What every experiment's section begins with."""

    shards: Count = Field(description="independent jobs; runs are assigned to them round-robin")
    threads: Count = Field(description="CPU threads per job; changes the bytes of the result")


class Pair(Settings):
    """A pair of betas."""

    beta1: Beta = Field(description="γ")
    beta2: Beta = Field(description="β")


class Through(Pair):
    """The pair that a normal curve goes through."""

    @model_validator(mode="after")
    def _inside(self):
        # On an edge of the unit square the normal curve has no points; this close to one, float64 finds none.
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
    def _heads_divide_width(self):
        if self.width % self.heads:
            conflict("heads", self.heads, f"a divisor of width, {self.width}")
        return self


class Images(Settings):
    """A data set of images."""

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
