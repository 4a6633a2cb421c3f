"""Are the shipped results what they say they are? Their hashes, and a sample of them made again on this machine.

Files are checked against the manifest, their provenance and each other. Then, for each experiment, some of the runs that the
recorded parameters ask for are made again with the code as it is now, whole or for some steps, and held against the stored
rows; the derived tables and verdicts are made again from the stored runs. A change of the code that changes a result is seen
here.

On the processor and with the versions that made the runs, the rows come out the same to the last bit. Elsewhere sums are
taken in another order; docs/reproducibility.md says how the tolerances were chosen.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pandas.api.types import is_float_dtype

from ctadam import determinism
from ctadam.artifact import config, derive, figures
from ctadam.artifact import ledger as claims
from ctadam.artifact.promote import CONFIG, shipped_experiments
from ctadam.errors import ArtifactError
from ctadam.experiments import load
from ctadam.storage.manifest import read_manifest, runs_directory
from ctadam.storage.provenance import sha256
from ctadam.storage.store import DERIVED, check_listed, checked_shards, read_csv, sources, without_lists

#: How many runs of an experiment are made again, and for how many steps, where runs can be cut short; how many where not.
RUNS, STEPS, WHOLE_RUNS = 8, 12, 64
#: A number agrees if it differs by no more than this part of the largest of its column in the run, or by `ROUNDING`: a
#: hundred times what other vector instructions make of the same few steps, far below what another method makes of them.
TOLERANCE, ROUNDING = 1e-3, 1e-12
#: The share of each column's entries that must agree: of short runs, where whole numbers and text (which coordinate is the
#: largest, say) still turn over between candidates that are equal up to rounding; and of whole runs, which for some
#: parameters are chaotic, so that rounding decides where they end.
SHARE, WHOLE_SHARE = 0.75, 0.5
#: Derived tables are float64 arithmetic on the same stored numbers.
DERIVED_TOLERANCE = 1e-6

IDENTICAL, AGREES, DIFFERS, CANNOT = "same", "agrees", "differs", "cannot compare"


@dataclass(frozen=True)
class Check:
    """What one comparison came to."""

    what: str
    outcome: str
    note: str = ""


def damage(results):
    """All that is wrong with the files of a shipped directory, a line each: empty if nothing is.

    Raises:
        ArtifactError: it has no manifest that can be read.
    """
    results = Path(results)
    manifest = read_manifest(results)
    found = []

    def note(check, *args):
        try:
            return check(*args)
        except ArtifactError as error:
            found.append(str(error))

    for path in dict.fromkeys([*(results / name for name in manifest), *sorted(results.glob("*/shard-*"))]):
        note(check_listed, results, path, manifest)
    if not found:
        for experiment in note(shipped_experiments, results) or {}:
            if note(checked_shards, results, experiment):
                note(sources, results, experiment, *DERIVED)
        if not found:
            note(claims.check_ledger, results)
            note(_check_config, results)
    return found


def _check_config(results):
    shipped = config.read_yaml(results / CONFIG)
    for experiment, records in shipped_experiments(results).items():
        if any(shipped.get(experiment) != record["parameters"] for record in records):
            raise ArtifactError(f"{results / CONFIG} and the provenance of {experiment} name different parameters")


def _sample(module, parameters, stored_runs, stored_steps, rng):
    """``(points, shortened)``: some of the runs that the parameters ask for, cut short where they have a length."""
    try:
        points = module.points(parameters)
    except KeyError as error:
        raise _Differs(f"the code now asks for a parameter that the stored runs were made without: {error}") from error
    if set(points["run"]) != stored_runs:
        raise _Differs(f"the parameters now ask for {len(points)} runs, {len(stored_runs)} are stored")
    short = "steps" in points and getattr(module, "SHORTENED", True)
    picked = points.iloc[
        np.sort(rng.choice(len(points), min(RUNS if "steps" in points else WHOLE_RUNS, len(points)), replace=False))
    ]
    if not short:
        return picked, False
    # Where steps were thinned out before they were stored, as many as it takes to meet three of them. One more, because
    # what is taken at the end of a run has no counterpart at that step.
    third = stored_steps[:3][-1] if len(stored_steps) else 0
    steps = max(STEPS, int(third) + 1) + 1
    return picked.assign(steps=picked["steps"].clip(upper=steps)), bool((picked["steps"] > steps).any())


class _Differs(Exception):
    """The stored rows are not what the code makes; the message says why."""


def compare(stored, again, *, keys, skip=(), tolerance=TOLERANCE):
    """Hold rows made again against those stored.

    Args:
        stored, again: tables with the columns ``keys``, the first of which says which run a row belongs to; rows that only
            one of them has are left out.
        skip: columns that cannot be compared.
        tolerance: see `TOLERANCE`.

    Returns:
        ``(rows, deviation, agreement)``: how many rows were compared; the column with the largest relative difference and
        that difference; the column of which the least share of entries agrees, and that share.

    Raises:
        _Differs: no rows in common, or a column that only one has.
    """
    missing = (set(stored) ^ set(again)) - set(skip)
    if missing:
        raise _Differs(f"only one of them has the column(s) {', '.join(sorted(missing))}")
    if stored.duplicated(keys).any():  # several rows a step, always in the same order
        stored, again = (t.assign(_row=t.groupby(keys).cumcount()) for t in (stored, again))
        keys = [*keys, "_row"]
    both = stored.merge(again, on=keys, suffixes=("", " again"), validate="one_to_one")
    if both.empty:
        raise _Differs("no row in common")
    group = both[keys[0]]
    deviation, agreement = ("", 0.0), ("", 1.0)
    for column in stored.columns.difference([*keys, *skip]):
        old, new = both[column], both[f"{column} again"]
        same = (old == new) | (old.isna() & new.isna())
        if is_float_dtype(old) and is_float_dtype(new):
            scale = old[np.isfinite(old)].abs().groupby(group).max().reindex(group).to_numpy()
            scale = np.fmax(scale, ROUNDING / tolerance)
            off = ((old - new).abs() / scale).where(~same, 0.0)
            largest = off[np.isfinite(off)].max()
            deviation = max(deviation, (column, float(largest)), key=lambda pair: pair[1])
            same |= off <= tolerance
        agreement = min(agreement, (column, float(same.mean())), key=lambda pair: pair[1])
    return len(both), deviation, agreement


def _outcome(rows, deviation, agreement, share):
    if deviation[1] == 0 and agreement[1] == 1:
        return IDENTICAL, f"{rows:,} rows"
    note = f"{rows:,} rows; largest difference {deviation[1]:.1e} ({deviation[0]})"
    if agreement[1] < 1:
        note += f"; {agreement[0]} agrees in {agreement[1]:.0%}"
    return AGREES if agreement[1] >= share else DIFFERS, note


def rerun(results, experiment, *, device="auto", seed=0):
    """Make some runs of an experiment again, for a few steps, and hold them against the stored ones.

    Args:
        results: directory of one scale.
        experiment: its name.
        device: see `ctadam.determinism.pick_device`.
        seed: chooses the runs.

    Returns:
        `Check`.

    Raises:
        ArtifactError: the stored runs are missing or damaged.
    """
    what = f"{experiment}: runs"
    records = checked_shards(results, experiment)
    record, module = next(iter(records.values())), load(experiment)
    parameters = record["parameters"]
    try:
        config.check_section(experiment, parameters)
    except ArtifactError as error:
        return Check(what, DIFFERS, f"their recorded parameters are not valid now: {error}")
    here = determinism.pick_device(device)
    if (record["device"] == "cpu") != (here.type == "cpu"):
        return Check(what, CANNOT, f"they were made on {record['device']}, and this is {here}")
    determinism.pin(threads=parameters["threads"])
    keys = ["run"] + (["step"] if "step" in pq.read_schema(next(iter(records))).names else [])
    index = pd.concat([pd.read_parquet(path, columns=keys) for path in records])
    steps = np.sort(index["step"].unique()) if "step" in index else np.zeros(0)
    try:
        points, shortened = _sample(module, parameters, set(index["run"]), steps, np.random.default_rng(seed))
        wanted = [("run", "in", points["run"].tolist())]
        stored = pd.concat([pd.read_parquet(path, filters=wanted) for path in records], ignore_index=True)
        try:
            again, details = module.run(points, parameters, device=here, progress=lambda amount: None)
        except ArtifactError as error:
            return Check(what, CANNOT, str(error))
        stored, again = without_lists(stored), without_lists(again)
        # The embedded text is part of Python, and other versions have another.
        other = [name for name, digest in details.get("data", {}).items() if record["data"].get(name) != digest]
        if other:
            why = f": Python {record['python']} made them, whose text differs" if "pydoc" in other else ""
            return Check(what, CANNOT, f"other data ({', '.join(other)}){why}")
        skip = set()
        if shortened:
            # What has one value in every run, and is no parameter, sums up the whole of it.
            per_run = stored.groupby("run").nunique(dropna=False).max()
            skip = set(per_run[per_run == 1].index) - set(points)
            ends = again.groupby("run")["step"].transform("max")
            again = again[again["step"] < ends]
        share = SHARE if shortened else WHOLE_SHARE
        # Columns of other kinds of runs than were picked are empty in what is stored of these, and not made again.
        stored = stored[stored["run"].isin(again["run"])]
        stored = stored.drop(columns=[c for c in stored.columns.difference(again.columns) if stored[c].isna().all()])
        return Check(what, *_outcome(*compare(stored, again, keys=keys, skip=skip), share))
    except _Differs as error:
        return Check(what, DIFFERS, str(error))


def rederive(results, experiment):
    """Make the derived tables of an experiment again and compare them with the stored ones: a `Check` for each."""
    for name in DERIVED:
        yield _same_table(
            f"{experiment}: {name}", read_csv(results, experiment, name), derive.table(results, experiment, name)
        )


def _same_table(what, stored, again):
    """Compare two derived tables row by row, because a derived table need not have a key."""
    if len(stored) != len(again):
        return Check(what, DIFFERS, f"{len(stored)} rows are stored, {len(again)} are made from the runs")
    stored, again = (_plain(table).rename_axis("row").reset_index() for table in (stored, again))
    try:
        rows, deviation, agreement = compare(stored, again, keys=["row"], tolerance=DERIVED_TOLERANCE)
    except _Differs as error:
        return Check(what, DIFFERS, str(error))
    # Twelve digits are written.
    return Check(what, *_outcome(rows, deviation if deviation[1] > 1e-11 else ("", 0.0), agreement, 1.0))


def _plain(table):
    """Numbers as float64 and the rest as text, as they come back from CSV."""
    return pd.DataFrame(
        {
            name: values.astype(float) if pd.api.types.is_numeric_dtype(values) else values.astype(str)
            for name, values in table.items()
        }
    )


def rejudge(results):
    """Judge again and compare the verdicts with those of the stored ledger."""
    stored = claims.read_ledger(claims.ledger_path(results))
    return _same_verdicts(stored, claims.judge(results, list(shipped_experiments(results))))


def _same_verdicts(stored, again):
    old, new = stored.set_index("id")["verdict"], again.set_index("id")["verdict"]
    other = [
        f"{id}: {old.get(id, 'none')}, now {new.get(id, 'none')}"
        for id in dict.fromkeys([*old.index, *new.index])
        if old.get(id) != new.get(id)
    ]
    if other:
        return Check("verdicts", DIFFERS, "; ".join(other))
    values = stored.set_index("id")["value"] == again.set_index("id")["value"].astype(str)
    note = f"{len(new)} claims" + ("" if values.all() else f"; other digits in {', '.join(values.index[~values])}")
    return Check("verdicts", IDENTICAL if values.all() else AGREES, note)


def _same_figure(figure, shipped, redrawn):
    """Compare a figure's files: as bytes, and where these differ as the pixels of the PNG."""
    pairs = list(zip(figures.paths(figure, shipped), figures.paths(figure, redrawn), strict=True))
    missing = [str(path) for pair in pairs for path in pair if not path.exists()]
    if missing:
        return Check(figure, DIFFERS, f"{', '.join(missing)} is missing")
    if all(sha256(old) == sha256(new) for old, new in pairs):
        return Check(figure, IDENTICAL)
    try:
        share, largest = figures.difference(*pairs[figures.FORMATS.index("png")])
    except (OSError, SyntaxError) as error:  # Pillow: not a PNG file
        return Check(figure, DIFFERS, str(error))
    note = f"other bytes; {share:.1g} of the pixels differ by more than {figures.LEVELS} of 255, at most by {largest}"
    return Check(figure, AGREES if share <= figures.PIXELS else DIFFERS, note)


def compare_redrawn(scale, *, figure=None, results="results", pictures="paper_figures"):
    """Compare what was derived and drawn again from the shipped runs of a scale with what is shipped.

    Args:
        scale: which scale.
        figure: only this figure with its tables and claims; everything if None.
        results, pictures: directories that hold ``redrawn``; no figure is compared if ``pictures`` is None.

    Yields:
        `Check` for every table, figure and ledger.

    Raises:
        ArtifactError: something is missing or damaged.
    """
    redrawn = Path(results) / "redrawn" / scale
    shipped = runs_directory(redrawn)
    names = list(shipped_experiments(shipped))
    drawn = [name for name, needs in figures.FIGURES.items() if set(needs) <= set(names) and pictures is not None]
    if figure is not None:
        names, drawn = figures.FIGURES[figure], [figure]
    for experiment in names:
        for name in DERIVED:
            tables = (read_csv(directory, experiment, name) for directory in (shipped, redrawn))
            yield _same_table(f"{experiment}: {name}", *tables)
    for name in drawn:
        yield _same_figure(
            name, shipped.parents[2] / "paper_figures/cached" / scale, Path(pictures) / "redrawn" / scale
        )
    ledger = claims.read_ledger(claims.ledger_path(shipped))
    again = claims.read_ledger(claims.ledger_path(redrawn, figure))
    yield _same_verdicts(ledger if figure is None else ledger[ledger["figure"] == figure], again)


def verify(results, *, device="auto", seed=0, report=lambda check: None):
    """Everything above for one shipped directory.

    Args:
        results: such as ``results/cached/laptop``.
        device, seed: see `rerun`.
        report: called with each `Check` as it is made.

    Returns:
        The list of `Check`. Files that are damaged are the only check then: nothing is compared with bad data.
    """
    checks = []

    def add(check):
        checks.append(check)
        report(check)

    problems = damage(results)
    for problem in problems:
        add(Check("files", DIFFERS, problem))
    if problems:
        return checks
    add(Check("files", IDENTICAL, f"{len(read_manifest(results))} files as listed, derived tables of these runs"))
    for experiment in shipped_experiments(results):
        add(rerun(results, experiment, device=device, seed=seed))
        for check in rederive(results, experiment):
            add(check)
    add(rejudge(results))
    return checks
