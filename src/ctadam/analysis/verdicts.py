"""Define claims: the entry in the ledger, the evidence that is judged, and the outcome."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ctadam.storage.store import read_joined, read_runs

REPRODUCED, CONTRADICTED, INCONCLUSIVE = "reproduced", "contradicted", "inconclusive"


@dataclass(frozen=True)
class Outcome:
    """Outcome of one claim.

    Args:
        prediction: predicted value, as text with its significant digits.
        value: measured value, likewise; empty if there is none.
        verdict: `REPRODUCED`, `CONTRADICTED` or `INCONCLUSIVE`.
        note: remark for the ledger.
    """

    prediction: str
    value: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """Entry of the ledger.

    Args:
        id: letter and number, such as ``S1``.
        source: P (the paper), D (derived here) or R (a reviewer of the paper).
        text: the claim in words.
        statistic: the measured statistic in words.
        rule: the rule for the verdict in words.
        experiment: name of the experiment whose tables are judged.
        figure: figure that shows the claim; empty if none does.
        judge: function that returns the `Outcome` for the experiment's `Evidence`.
    """

    id: str
    source: str
    text: str
    statistic: str
    rule: str
    experiment: str
    figure: str
    judge: Callable[["Evidence"], Outcome]


#: Type of a claim's judge.
Judge = Callable[["Evidence"], Outcome]

#: All registered claims.
CLAIMS: list[Claim] = []


def claim(
    id: str,
    source: str,
    text: str,
    *,
    statistic: str,
    rule: str,
    experiment: str | None = None,
    figure: str | None = None,
) -> Callable[[Judge], Judge]:
    """Return a decorator that registers a function as the judge of a claim.

    Args:
        id: see `Claim`.
        source: see `Claim`.
        text: see `Claim`.
        statistic: see `Claim`.
        rule: see `Claim`.
        experiment: name of the experiment. Default: the one whose package defines the function.
        figure: figure that shows the claim; empty if none does. Default: the figure of that package.
    """

    def register(judge: Judge) -> Judge:
        package = sys.modules[judge.__module__.rpartition(".")[0]]
        folder, own = package.__name__.rpartition(".")[2], package.FIGURE.partition("_")[0]
        shown = own if figure is None else figure
        CLAIMS.append(Claim(id, source, text, statistic, rule, experiment or folder, shown, judge))
        return judge

    return register


class Evidence:
    """Tables of one experiment in one results directory, read on first access.

    Args:
        results: directory of one scale.
        experiment: name of the experiment.
    """

    def __init__(self, results: str | Path, experiment: str) -> None:
        self.results, self.experiment = results, experiment

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Raw runs, see `ctadam.storage.store.read_runs`."""
        return read_runs(self.results, self.experiment)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Measurements joined with the predictions for the same runs."""
        return read_joined(self.results, self.experiment)
