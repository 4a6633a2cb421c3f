"""Parameters of the tightness runs."""

from typing import Annotated

from pydantic import Field

from ctadam.experiments.settings import INTEGER, SIZED, Count, Experiment, Integer


class Config(Experiment):
    """Worst-case and random gradients against the exact bound: claims S7, S8, K3; figure 7."""

    draws: Count = Field(description="random triples (β, γ, n)")
    wedge: Count = Field(description="further triples, between the two laws")
    stages: Count = Field(description="further triples, through k stages with an unstable one in each position (K3)")
    steps: Annotated[int, INTEGER, Field(ge=20), SIZED] = Field(description="largest n + 1")
    seed: Integer = Field(description="seed of the draws")
