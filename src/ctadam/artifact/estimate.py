"""How long a shard will take on a GPU, and how much of its memory, said without one; and a rehearsal that it runs at all.

The shard is run for a few steps on torch's meta device and counted (`ctadam.training.counting`): with all its runs, at full size,
by the same code. What one more step costs, and one more test, is the difference between such runs; the rest is a multiple.
The rehearsal computes: a few runs of the shard at full size, for a few steps, on the device that is there.
"""

import copy
import gc
import math
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctadam.errors import ArtifactError
from ctadam.experiments import load
from ctadam.training.counting import CALL_S, CARDS, META, Counter

#: At least so many steps are counted of the longest runs, and twice as many: the first few may differ from the rest. Several
#: times more at most, so that runs of different lengths keep their proportion.
FEW, FEW_AT_MOST = 4, 12
_NEVER = 10**9


@dataclass
class Estimate:
    """One shard on one ``card``.

    Attributes:
        runs: in this shard; ``work`` of them, in ``unit``, as the progress line counts it.
        weights: of each model, where the experiment says.

    The others are those of `Counter`, summed over the shard (``peak``: the largest).
    """

    card: str
    experiment: str
    shard: int
    shards: int
    runs: int
    work: int
    unit: str
    weights: dict
    kernels: float
    flops: dict
    moved: float
    copied: float
    waits: float
    peak: float
    device_s: float
    host_s: float

    @property
    def seconds(self):
        """Device and host as if neither ever worked while the other did."""
        return self.device_s + self.host_s + CALL_S * self.kernels

    @property
    def least(self):
        """The longer of the two, as if both always did."""
        return max(self.device_s, self.host_s + CALL_S * self.kernels)


def _settings(parameters, wanted, path=()):
    """``(path, value)`` of every whole number below ``parameters`` whose path of keys is wanted."""
    for key, value in parameters.items():
        if isinstance(value, dict):
            yield from _settings(value, wanted, (*path, key))
        elif isinstance(value, int) and wanted((*path, key)):
            yield (*path, key), value


def _steps(parameters):
    return dict(_settings(parameters, lambda path: "steps" in path))


def _intervals(parameters):
    return dict(_settings(parameters, lambda path: path[-1].endswith("_every")))


def _times(parameters):
    """What is done so many times in a run, however long it is."""
    return dict(_settings(parameters, lambda path: path[-1] == "times"))


def _with(parameters, values):
    changed = copy.deepcopy(parameters)
    for (*path, last), value in values.items():
        node = changed
        for key in path:
            node = node[key]
        node[last] = value
    return changed


def shorten(parameters, few):
    """The parameters with every ``steps`` in proportion, the largest at ``few``; nothing done at intervals or so many times."""
    steps = _steps(parameters)
    most = max(steps.values())
    values = {path: max(1, round(few * value / most)) for path, value in steps.items()}
    values |= dict.fromkeys(_intervals(parameters), _NEVER) | dict.fromkeys(_times(parameters), 0)
    return _with(parameters, values)


def few_steps(parameters):
    """Steps of the longest runs, `FEW` or more, for which those of all others are whole numbers in the same proportion.

    If that takes more than `FEW_AT_MOST`: `FEW`, and the others are rounded.

    Raises:
        ArtifactError: there are no steps to shorten.
    """
    steps = _steps(parameters).values()
    if not steps:
        raise ArtifactError("the parameters name no steps, so nothing can be shortened")
    unit = max(steps) // math.gcd(*steps)
    few = unit * -(-FEW // unit)
    return few if few <= FEW_AT_MOST else FEW


def _deal(experiment, parameters, shard):
    """A shard's points, dealt as `ctadam run` does."""
    return load(experiment).points(parameters).iloc[shard - 1 :: parameters["shards"]]


_SUMS = ("kernels", "moved", "copied", "waits", "peak", "device_s")


def _count(experiment, parameters, shard, card):
    """A `Counter` of one run, the run's details, and the host's own work between two reports of progress."""
    points, reports = _deal(experiment, parameters, shard), []
    # What the garbage collector frees, and when, depends on all that was done before: small differences, taken many times.
    gc.collect()
    gc.disable()
    try:
        with Counter(card) as counter:
            _, details = load(experiment).run(
                points, parameters, device=META, progress=lambda amount: reports.append(counter.host_s)
            )
    finally:
        gc.enable()
    return counter, details, np.diff(reports)


def _linear(base, terms, get):
    """``base`` and, for each (from, to, times), ``times`` the difference."""
    return get(base) + sum(times * (get(to) - get(start)) for start, to, times in terms)


def host_per_report(intervals, parts):
    """Seconds that the host works from one report of progress to the next, a step later, on average over a shard's parts.

    What lies between two parts are the longest intervals. Of each part the median, because first calls take longer; a
    difference between two runs would be that of their preparations.

    Args:
        intervals: seconds between reports.
        parts: how many there are, of the same length.
    """
    between = np.sort(np.argsort(intervals, kind="stable")[len(intervals) - (parts - 1) :])
    found = np.split(intervals, np.union1d(between, between + 1))
    return np.mean([np.median(part) for part in found if len(part) > 1])


def estimate(experiment, parameters, shard, card):
    """The `Estimate` of one shard.

    Args:
        experiment: its name.
        parameters: its section of the configuration.
        shard: which, from 1.
        card: key of `CARDS`.
    """
    card = CARDS[card]
    least = few_steps(parameters)
    few, more = shorten(parameters, least), shorten(parameters, 2 * least)
    base, details, reports = _count(experiment, few, shard, card)
    longer, _, more_reports = _count(experiment, more, shard, card)
    if longer.kernels == base.kernels:
        raise ArtifactError(f"{experiment}: more steps make no more kernels, so its steps cannot be counted")
    steps = max(_steps(parameters).values())
    times = (steps - least) / least
    terms = [(base, longer, times)]
    for path, every in _intervals(parameters).items():
        # The last step has what is done at intervals anyway; here the middle has it too.
        twice, *_ = _count(experiment, _with(more, {path: least}), shard, card)
        terms.append((longer, twice, max(0, steps // every - 1)))
    for path, count in _times(parameters).items():
        terms.append((longer, _count(experiment, _with(more, {path: 1}), shard, card)[0], count))
    found = {name: _linear(base, terms, lambda c, name=name: getattr(c, name)) for name in _SUMS}
    found["peak"] = max(found["peak"], base.peak)
    further = len(more_reports) - len(reports)
    if further:
        host = times * further * host_per_report(more_reports, max(1, further // least))
    else:
        again = [min(_count(experiment, p, shard, card)[0].host_s for _ in range(3)) for p in (few, more)]
        host = times * max(0.0, again[1] - again[0])
    kinds = sorted({kind for counter in (base, *(to for _, to, _ in terms)) for kind in counter.flops})
    points = _deal(experiment, parameters, shard)
    work, unit = load(experiment).cost(points)
    return Estimate(
        card=card.name,
        experiment=experiment,
        shard=shard,
        shards=parameters["shards"],
        runs=len(points),
        work=work,
        unit=unit,
        weights=details.get("weights", {}),
        host_s=float(base.host_s + host),
        flops={kind: _linear(base, terms, lambda c, kind=kind: c.flops[kind]) for kind in kinds},
        **found,
    )


def rehearse(experiment, parameters, shard, device):
    """Run a few runs of a shard, one of each kind, at full size for a few steps.

    Returns:
        ``(runs, seconds)``.
    """
    short = shorten(parameters, few_steps(parameters))
    points = _deal(experiment, short, shard)
    # Runs of the same kind differ in numbers alone.
    kinds = [column for column in points if not pd.api.types.is_numeric_dtype(points[column])]
    points = points[~points[kinds].astype(str).duplicated()] if kinds else points.head(1)
    began = time.monotonic()
    table, _ = load(experiment).run(points, short, device=device, progress=lambda amount: None)
    if set(table["run"]) != set(points["run"]):
        raise ArtifactError(f"{experiment} {shard}/{parameters['shards']}: not every run came back")
    return len(points), time.monotonic() - began


def as_text(estimates, card):
    """A table of estimates for the terminal."""
    rows = [("shard", "runs", "memory", "kernels", "operations", "bytes", "at least", "estimate")]
    for e in estimates:
        rows.append(
            (
                f"{e.experiment} {e.shard}/{e.shards}", f"{e.runs}", f"{e.peak / 2**30:.1f} GiB", f"{e.kernels:.1e}",
                f"{sum(e.flops.values()):.1e}", f"{e.moved:.1e}", f"{e.least:.0f} s", f"{e.seconds:.0f} s",
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)) for row in rows]
    total = sum(e.seconds for e in estimates)
    lines.append(f"{CARDS[card].name}: {total / 60:.0f} minutes in all, one shard after the other")
    return "\n".join(lines)
