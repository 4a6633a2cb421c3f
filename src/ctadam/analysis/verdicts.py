"""Define claims, the evidence they are judged by, and the verdicts.

A claim's function returns a `Judgement`: numbers with intervals, one `Level` per level and part of the claim. The claim's
`Target` turns each interval into a verdict, so that no function decides by itself. `ctadam.artifact.report` renders the text.
"""

import dataclasses
import hashlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from ctadam.storage.store import read_joined, read_runs

REPRODUCED, CONTRADICTED, INCONCLUSIVE, IN_PART = "reproduced", "contradicted", "inconclusive", "in part"


@dataclass(frozen=True)
class Target:
    """Range of values of a statistic that reproduce a claim; see `above`, `below`, `at_most`, `at_least`, `within`, `overlaps`.

    Args:
        low: lower end of the range.
        high: upper end of the range.
        strict: the ends are not part of the range.
        contradicted_from: if given, values between ``high`` and this neither reproduce nor contradict the claim.
        overlap: an interval that overlaps the range reproduces the claim, and any other contradicts it.
    """

    low: float = -math.inf
    high: float = math.inf
    strict: bool = False
    contradicted_from: float | None = None
    overlap: bool = False

    def verdict(self, low: float, high: float) -> str:
        """Return the verdict for a statistic with the interval [low, high].

        Returns:
            ``reproduced`` if the whole interval lies in the range, ``contradicted`` if none of it does, ``inconclusive`` if some
            of it does or an end is NaN.
        """
        if math.isnan(low) or math.isnan(high) or (math.isinf(low) and math.isinf(high)):
            return INCONCLUSIVE
        outside = (high <= self.low or low >= self.high) if self.strict else (high < self.low or low > self.high)
        if self.overlap:
            return CONTRADICTED if outside else REPRODUCED
        # An infinite end is part of its range.
        ends = {self.low, self.high} - {-math.inf, math.inf} if self.strict else set()
        if self.low <= low and high <= self.high and not {low, high} & ends:
            return REPRODUCED
        if self.contradicted_from is not None:
            outside = low >= self.contradicted_from
        return CONTRADICTED if outside else INCONCLUSIVE

    def __str__(self) -> str:
        low, high = (f"{value:.12g}" for value in (self.low, self.high))
        if self.overlap:
            return f"interval reaches {high} or below" if math.isinf(self.low) else f"interval overlaps {low} to {high}"
        if math.isinf(self.low):
            text = f"{'below' if self.strict else '≤'} {high}"
        elif math.isinf(self.high):
            text = f"{'above' if self.strict else '≥'} {low}"
        else:
            text = f"{low} to {high}"
        return text if self.contradicted_from is None else f"{text}, contradicted from {self.contradicted_from:.12g}"


def above(value: float) -> Target:
    """Return the target of all numbers above ``value``, excluding it."""
    return Target(low=value, strict=True)


def below(value: float) -> Target:
    """Return the target of all numbers below ``value``, excluding it."""
    return Target(high=value, strict=True)


def at_most(value: float, contradicted_from: float | None = None) -> Target:
    """Return the target of all numbers up to ``value``; see `Target` for ``contradicted_from``."""
    return Target(high=value, contradicted_from=contradicted_from)


def at_least(value: float) -> Target:
    """Return the target of all numbers from ``value`` on."""
    return Target(low=value)


def within(tolerance: float, of: float = 1.0) -> Target:
    """Return the target of ``of`` ± ``tolerance``."""
    return Target(low=of - tolerance, high=of + tolerance)


def overlaps(low: float, high: float) -> Target:
    """Return the target of a rule that asks only whether the interval overlaps [low, high]."""
    return Target(low=low, high=high, overlap=True)


@dataclass(frozen=True)
class Level:
    """Statistic of a claim at one level, such as one model or one learning rate, with its interval.

    Args:
        estimate: the statistic.
        low: lower end of its 95 % interval. Equal to the estimate if it is exact.
        high: upper end of its 95 % interval.
        name: the level, such as ``"γ = 0.9"``. Empty if the claim has only one.
        part: statistic of the claim, if its rule combines several; a key of the claim's targets.
        n: number of independent values, usually seeds, that the interval is based on; 0 if there is no interval.
        lost: number of runs at this level that are no evidence, because they are not finite or have no value of the
            statistic. Then the others can contradict the claim, but not reproduce it.
        undecided: why this level cannot be decided. If not empty, its verdict is ``inconclusive``.
        verdict: set by `Claim.judge`.
    """

    estimate: float
    low: float
    high: float
    name: str = ""
    part: str = ""
    n: int = 0
    lost: int = 0
    undecided: str = ""
    verdict: str = ""


def exact(value: float, name: str = "", part: str = "", *, lost: int = 0, undecided: str = "") -> Level:
    """Return a level whose statistic is known without uncertainty, such as a largest value over all steps."""
    return Level(float(value), float(value), float(value), name, part, lost=lost, undecided=undecided)


def undecided(why: str, name: str = "", part: str = "", *, lost: int = 0) -> Level:
    """Return a level without an estimate, with the reason."""
    return Level(math.nan, math.nan, math.nan, name, part, lost=lost, undecided=why)


@dataclass(frozen=True)
class Judgement:
    """Numbers that decide a claim.

    Args:
        levels: the statistic at each level, one entry per level and part.
        numbers: further numbers for the reader, which do not decide, ``{description: value}``.
        needed: number of parts that must hold at a level; all if None. Set by `Claim.judge`.
    """

    levels: Sequence[Level]
    numbers: Mapping[str, float] = field(default_factory=dict)
    needed: int | None = None

    @property
    def by_level(self) -> dict[str, str]:
        """Verdict of each level, from those of its parts; see `combine`."""
        names = dict.fromkeys(level.name for level in self.levels)
        return {name: combine([v.verdict for v in self.levels if v.name == name], self.needed) for name in names}

    @property
    def verdict(self) -> str:
        """Verdict that all levels have in common, or ``in part`` where they differ."""
        verdicts = set(self.by_level.values())
        return (verdicts.pop() if len(verdicts) == 1 else IN_PART) if verdicts else INCONCLUSIVE


def combine(verdicts: Sequence[str], needed: int | None = None) -> str:
    """Return the verdict of a level from those of its parts.

    Args:
        verdicts: one per part.
        needed: number of parts that must hold; all if None.

    Returns:
        ``reproduced`` if enough parts hold, ``contradicted`` if too many fail for that, else ``inconclusive``. No parts are
        ``inconclusive``.
    """
    needed = len(verdicts) if needed is None else needed
    if verdicts and verdicts.count(REPRODUCED) >= needed:
        return REPRODUCED
    return CONTRADICTED if verdicts.count(CONTRADICTED) > len(verdicts) - needed else INCONCLUSIVE


#: Function that measures a claim's statistics.
Judge = Callable[["Evidence"], Judgement]


@dataclass(frozen=True)
class Claim:
    """Entry of the ledger.

    Args:
        id: letter and number, such as ``S1``.
        source: P (the paper), D (derived here) or R (the paper's reviewers, or practice).
        text: the claim in words.
        statistic: the measured statistic in words, with its levels.
        rule: the rule for a level's verdict in words.
        targets: target of each part; a claim with a single statistic has the part ``""``.
        needed: number of parts that must hold; all if None.
        columns: columns of the experiment's tables or raw runs that hold the statistic.
        experiment: name of the experiment whose tables are judged.
        figure: figure that shows the claim; empty if none does.
        form: format specification of the statistic.
        measure: function that returns the `Judgement` for the experiment's `Evidence`, without verdicts.
    """

    id: str
    source: str
    text: str
    statistic: str
    rule: str
    targets: Mapping[str, Target]
    needed: int | None
    columns: tuple[str, ...]
    experiment: str
    figure: str
    form: str
    measure: Judge

    def judge(self, evidence: "Evidence") -> Judgement:
        """Return the judgement with the verdict of each level and part."""
        measured = self.measure(evidence)
        levels = [dataclasses.replace(level, verdict=self._verdict(level)) for level in measured.levels]
        return Judgement(levels, measured.numbers, self.needed)

    def _verdict(self, level: Level) -> str:
        """Return the verdict of one level and part."""
        if level.undecided:
            return INCONCLUSIVE
        verdict = self.targets[level.part].verdict(level.low, level.high)
        return INCONCLUSIVE if level.lost and verdict == REPRODUCED else verdict

    def digest(self, date: str) -> str:
        """Return a digest of the rule's text and targets and of the date on which it was fixed (``docs/ledger_history.md``)."""
        targets = [f"{part}: {target}" for part, target in self.targets.items()]
        text = "\n".join([date, self.id, self.text, self.statistic, self.rule, *targets, str(self.needed)])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


#: All registered claims.
CLAIMS: list[Claim] = []


def claim(
    id: str,
    source: str,
    text: str,
    *,
    statistic: str,
    rule: str,
    target: Target | Mapping[str, Target],
    needed: int | None = None,
    columns: Sequence[str],
    experiment: str | None = None,
    figure: str | None = None,
    form: str = ".3g",
) -> Callable[[Judge], Judge]:
    """Return a decorator that registers the function that measures a claim.

    Args:
        id: see `Claim`.
        source: see `Claim`.
        text: see `Claim`.
        statistic: see `Claim`.
        rule: see `Claim`.
        target: the target, or the target of each part.
        needed: see `Claim`.
        columns: see `Claim`.
        experiment: name of the experiment. Default: the one whose package defines the function.
        figure: figure that shows the claim; empty if none does. Default: the figure of that package.
        form: see `Claim`.
    """

    def register(measure: Judge) -> Judge:
        package = sys.modules[measure.__module__.rpartition(".")[0]]
        folder, own = package.__name__.rpartition(".")[2], package.FIGURE.partition("_")[0]
        targets = {"": target} if isinstance(target, Target) else dict(target)
        shown = own if figure is None else figure
        entry = Claim(
            id,
            source,
            text,
            statistic,
            rule,
            targets,
            needed,
            tuple(columns),
            experiment or folder,
            shown,
            form,
            measure,
        )
        CLAIMS.append(entry)
        return measure

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
