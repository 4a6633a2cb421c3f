"""Parameters of the tightness runs."""

from typing import Annotated

from pydantic import Field

from ctadam.experiments.settings import INTEGER, SIZED, AtLeast2, Count, Experiment, Integer


class Config(Experiment):
    """Adam's recursion on chosen gradients against the exact bound: claims S7, S8, S13, K3; figure 7."""

    draws: Count = Field(description="random triples (β, γ, n)")
    wedge_draws: Count = Field(description="further triples, between the two laws")
    edge_draws: AtLeast2 = Field(description="further draws, half with γ = 0 and half with γ = β = 0 (S13)")
    kadam_draws: Count = Field(
        description="further triples, through k stages with an unstable one in each position (K3)"
    )
    steps: Annotated[int, INTEGER, Field(ge=20), SIZED] = Field(description="largest n + 1")
    seed: Integer = Field(description="seed of the draws")
