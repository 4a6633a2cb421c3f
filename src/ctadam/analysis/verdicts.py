"""What a claim is made of: its entry in the ledger, the evidence that it sees, and its outcome."""

import sys
from dataclasses import dataclass
from functools import cached_property

from ctadam.storage.store import read_joined, read_runs

REPRODUCED, CONTRADICTED, INCONCLUSIVE = "reproduced", "contradicted", "inconclusive"


@dataclass(frozen=True)
class Outcome:
    """What one claim came to: numbers as text, with the digits that mean something, and a verdict."""

    prediction: str
    value: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """An entry of the ledger. ``judge`` returns its `Outcome` from `Evidence`."""

    id: str
    source: str
    text: str
    statistic: str
    rule: str
    experiment: str
    figure: str
    judge: object


CLAIMS: list[Claim] = []


def claim(id, source, text, *, statistic, rule, experiment=None, figure=None):
    """Register a function as the judge of a claim.

    Args:
        id, source, text, statistic, rule: see `Claim`.
        experiment: by default that in whose folder the function stands.
        figure: the one that shows the claim, an empty string if none does; by default the experiment's own.
    """

    def register(judge):
        package = sys.modules[judge.__module__.rpartition(".")[0]]
        folder, own = package.__name__.rpartition(".")[2], package.FIGURE.partition("_")[0]
        shown = own if figure is None else figure
        CLAIMS.append(Claim(id, source, text, statistic, rule, experiment or folder, shown, judge))
        return judge

    return register


class Evidence:
    """The tables of one experiment in one results directory, read when first asked for."""

    def __init__(self, results, experiment):
        self.results, self.experiment = results, experiment

    @cached_property
    def runs(self):
        return read_runs(self.results, self.experiment)

    @cached_property
    def table(self):
        """Measurements with the predictions for the same runs beside them."""
        return read_joined(self.results, self.experiment)
