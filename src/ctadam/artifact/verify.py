"""Verify the shipped results: check all hashes, and rerun a sample on this machine.

Files are checked against the manifest, their provenance and each other. Then a sample of each experiment's runs is repeated with
the current code, in full or for some steps, and compared with the stored rows. Derived tables and verdicts are recomputed from
the stored runs. This detects changes of the code that change a result.

Reruns are bitwise identical on the same processor with the same package versions. Elsewhere the order of summation differs.
docs/reproducibility.md says how the tolerances were chosen.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pandas.api.types import is_float_dtype

from ctadam import determinism
from ctadam.artifact import config, derive, figures
from ctadam.artifact import ledger as claims
from ctadam.artifact.promote import CONFIG, shipped_experiments
from ctadam.errors import ArtifactError
from ctadam.experiments import configure, load
from ctadam.experiments.settings import Experiment
from ctadam.storage.manifest import read_manifest, runs_directory
from ctadam.storage.provenance import sha256
from ctadam.storage.store import DERIVED, check_listed, checked_shards, read_csv, sources, without_lists

#: Number of repeated runs per experiment and their steps, if runs can be shortened; number of runs repeated in full if not.
RUNS, STEPS, WHOLE_RUNS = 8, 12, 64
#: Number of repeated runs that reach a stored step only after more than `STEPS`.
LATE_RUNS = 32
#: A number agrees if it differs by at most `TOLERANCE` times the largest of its column in the run, or by `ROUNDING`. This is
#: 100 times the effect of other vector instructions on a few steps, and far below the effect of a different method.
TOLERANCE, ROUNDING = 1e-3, 1e-12
#: Share of each column's entries that must agree, in the first `STEPS` of runs and later on. In the first steps integers and
#: text, such as the index of the largest coordinate, can still flip between candidates that are equal up to rounding. Later,
#: runs are chaotic for some parameters (a learning rate of 0.3, say), so that rounding decides where they end.
SHARE, WHOLE_SHARE = 0.75, 0.5
#: Tolerance for derived tables, which are float64 arithmetic on the same stored numbers.
DERIVED_TOLERANCE = 1e-6

#: Outcomes of a check.
IDENTICAL, AGREES, DIFFERS, CANNOT = "same", "agrees", "differs", "cannot compare"


@dataclass(frozen=True)
class Check:
    """Outcome of one comparison.

    Args:
        what: what was compared.
        outcome: `IDENTICAL`, `AGREES`, `DIFFERS` or `CANNOT`.
        note: details.
    """

    what: str
    outcome: str
    note: str = ""


def damage(results: str | Path) -> list[str]:
    """Return one message per problem with the files of a shipped directory.

    Raises:
        ArtifactError: if the manifest is missing or cannot be read.
    """
    results = Path(results)
    manifest = read_manifest(results)
    problems: list[str] = []

    def note(check: Callable[..., Any], *args: Any) -> Any:
        try:
            return check(*args)
        except ArtifactError as error:
            problems.append(str(error))
            return None

    for path in dict.fromkeys([*(results / name for name in manifest), *sorted(results.glob("*/shard-*"))]):
        note(check_listed, results, path, manifest)
    if not problems:
        for experiment in note(shipped_experiments, results) or {}:
            if note(checked_shards, results, experiment):
                note(sources, results, experiment, *DERIVED)
        if not problems:
            note(claims.check_ledger, results)
            note(_check_config, results)
    return problems


def _check_config(results: Path) -> None:
    """Raise an `ArtifactError` if the shipped configuration differs from the provenance."""
    shipped = config.read_yaml(results / CONFIG)
    for experiment, records in shipped_experiments(results).items():
        if any(shipped.get(experiment) != record["parameters"] for record in records):
            raise ArtifactError(f"{results / CONFIG} and the provenance of {experiment} name different parameters")


def _sample(
    module: ModuleType,
    config: Experiment,
    stored_runs: set[Any],
    stored_steps: np.ndarray,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, bool, float]:
    """Sample runs to repeat, and shorten them where possible.

    Args:
        module: the experiment's ``runs`` module.
        config: the recorded parameters.
        stored_runs: identifiers of all stored runs.
        stored_steps: sorted distinct steps of the stored rows; empty if they have none.
        rng: generator that chooses the runs.

    Returns:
        ``(runs, shortened, share)``, the table of sampled runs, whether any of them was shortened, and the share of each column's
        entries that must agree.

    Raises:
        _Differs: if the current code defines other runs than the stored ones.
    """
    runs = module.grid(config)
    if set(runs["run"]) != stored_runs:
        raise _Differs(f"the parameters now ask for {len(runs)} runs, {len(stored_runs)} are stored")
    # If only some steps were stored, run until three of them are reached. Add one step, because records at the end of a
    # shortened run have no stored counterpart.
    third = stored_steps[:3][-1] if len(stored_steps) else 0
    steps = max(STEPS, int(third) + 1) + 1
    short = "steps" in runs and getattr(module, "SHORTENED", True)
    early = short and steps == STEPS + 1
    count = RUNS if early or ("steps" in runs and not short) else LATE_RUNS if short else WHOLE_RUNS
    picked = runs.iloc[np.sort(rng.choice(len(runs), min(count, len(runs)), replace=False))]
    share = SHARE if early else WHOLE_SHARE
    if not short:
        return picked, False, share
    return picked.assign(steps=picked["steps"].clip(upper=steps)), bool((picked["steps"] > steps).any()), share


class _Differs(Exception):
    """Raised if the stored rows are not what the current code makes. The message says why."""


def compare(
    stored: pd.DataFrame,
    again: pd.DataFrame,
    *,
    keys: Sequence[str],
    skip: Collection[str] = (),
    tolerance: float = TOLERANCE,
) -> tuple[int, tuple[str, float], tuple[str, float]]:
    """Compare repeated rows with the stored ones.

    Args:
        stored: table with the columns ``keys``.
        again: likewise. Rows that only one table has are ignored.
        keys: columns that identify a row. The first one identifies the run.
        skip: columns that cannot be compared.
        tolerance: see `TOLERANCE`.

    Returns:
        ``(rows, deviation, agreement)``: the number of compared rows, the column with the largest relative difference and that
        difference, and the column with the smallest share of agreeing entries and that share.

    Raises:
        _Differs: if no row is common to both, or only one table has a column.
    """
    keys = list(keys)
    missing = (set(stored) ^ set(again)) - set(skip)
    if missing:
        raise _Differs(f"only one of them has the column(s) {', '.join(sorted(map(str, missing)))}")
    if stored.duplicated(keys).any():  # several rows per step, always in the same order
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


def _outcome(rows: int, deviation: tuple[str, float], agreement: tuple[str, float], share: float) -> tuple[str, str]:
    """Return ``(outcome, note)`` for the result of `compare`.

    Args:
        rows: see `compare`.
        deviation: see `compare`.
        agreement: see `compare`.
        share: share of entries that must agree.
    """
    if deviation[1] == 0 and agreement[1] == 1:
        return IDENTICAL, f"{rows:,} rows"
    note = f"{rows:,} rows; largest difference {deviation[1]:.1e} ({deviation[0]})"
    if agreement[1] < 1:
        note += f"; {agreement[0]} agrees in {agreement[1]:.0%}"
    return AGREES if agreement[1] >= share else DIFFERS, note


def rerun(results: str | Path, experiment: str, *, device: str = "auto", seed: int = 0) -> Check:
    """Repeat a sample of an experiment's runs, for a few steps if possible, and compare them with the stored ones.

    Args:
        results: directory of one scale.
        experiment: name of the experiment.
        device: see `ctadam.determinism.pick_device`.
        seed: seed of the sample.

    Raises:
        ArtifactError: if the stored runs are missing or damaged.
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
        model = configure(experiment, parameters)
        picked, shortened, share = _sample(module, model, set(index["run"]), steps, np.random.default_rng(seed))
        wanted = [("run", "in", picked["run"].tolist())]
        stored = pd.concat([pd.read_parquet(path, filters=wanted) for path in records], ignore_index=True)
        try:
            again, details = module.run(picked, model, device=here, progress=lambda amount: None)
        except ArtifactError as error:
            return Check(what, CANNOT, str(error))
        stored, again = without_lists(stored), without_lists(again)
        # The embedded text comes from Python's documentation and differs between versions.
        other = [name for name, digest in details.get("data", {}).items() if record["data"].get(name) != digest]
        if other:
            why = f": Python {record['python']} made them, whose text differs" if "pydoc" in other else ""
            return Check(what, CANNOT, f"other data ({', '.join(other)}){why}")
        skip: set[str] = set()
        if shortened:
            # A column that is constant in every run and is not a parameter summarizes the full run.
            per_run = stored.groupby("run").nunique(dropna=False).max()
            skip = {str(name) for name in per_run[per_run == 1].index} - set(picked)
            ends = again.groupby("run")["step"].transform("max")
            again = again[again["step"] < ends]
        # Columns of run types outside the sample are empty in its stored rows and absent from the repeated ones.
        stored = stored[stored["run"].isin(again["run"])]
        stored = stored.drop(columns=[c for c in stored.columns.difference(again.columns) if stored[c].isna().all()])
        return Check(what, *_outcome(*compare(stored, again, keys=keys, skip=skip), share))
    except _Differs as error:
        return Check(what, DIFFERS, str(error))


def rederive(results: str | Path, experiment: str) -> Iterator[Check]:
    """Recompute the derived tables of an experiment and compare them with the stored ones.

    Args:
        results: directory of one scale.
        experiment: name of the experiment.

    Yields:
        `Check` of each table.

    Raises:
        ArtifactError: if the stored runs or tables are missing or damaged.
    """
    for name in DERIVED:
        yield _same_table(
            f"{experiment}: {name}", read_csv(results, experiment, name), derive.table(results, experiment, name)
        )


def _same_table(what: str, stored: pd.DataFrame, again: pd.DataFrame) -> Check:
    """Compare two derived tables by row number, because a derived table need not have a key."""
    if len(stored) != len(again):
        return Check(what, DIFFERS, f"{len(stored)} rows are stored, {len(again)} are made from the runs")
    stored, again = (_plain(table).rename_axis("row").reset_index() for table in (stored, again))
    try:
        rows, deviation, agreement = compare(stored, again, keys=["row"], tolerance=DERIVED_TOLERANCE)
    except _Differs as error:
        return Check(what, DIFFERS, str(error))
    # Ignore smaller deviations, because only twelve digits are written.
    return Check(what, *_outcome(rows, deviation if deviation[1] > 1e-11 else ("", 0.0), agreement, 1.0))


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with numbers as float64 and other values as text, as a CSV file stores them."""
    return pd.DataFrame(
        {
            name: values.astype(float) if pd.api.types.is_numeric_dtype(values) else values.astype(str)
            for name, values in table.items()
        }
    )


def rejudge(results: str | Path) -> Check:
    """Judge the shipped results and compare the verdicts with the stored ledger.

    Raises:
        ArtifactError: if the ledger or tables are missing or damaged.
    """
    stored = claims.read_ledger(claims.ledger_path(results))
    return _same_verdicts(stored, claims.judge(results, list(shipped_experiments(results))))


def _same_verdicts(stored: pd.DataFrame, again: pd.DataFrame) -> Check:
    """Compare the verdicts of two ledgers, level by level, and their numbers."""
    old, new = (
        {(str(id), ""): verdict for id, verdict in zip(ledger["id"], ledger["verdict"], strict=True)}
        | claims.by_level(ledger)
        for ledger in (stored, again)
    )
    other = [
        f"{' '.join(filter(None, key))}: {old.get(key, 'none')}, now {new.get(key, 'none')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    if other:
        return Check("verdicts", DIFFERS, "; ".join(other))
    numbers = ["levels", "numbers"]
    same = (stored.set_index("id")[numbers] == again.set_index("id")[numbers].astype(str)).all(axis=1)
    note = f"{len(again)} claims" + ("" if same.all() else f"; other digits in {', '.join(same.index[~same])}")
    return Check("verdicts", IDENTICAL if same.all() else AGREES, note)


def _same_figure(figure: str, shipped: str | Path, redrawn: str | Path) -> Check:
    """Compare a figure's files in two directories by bytes and, if these differ, by the pixels of the PNG."""
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


def compare_redrawn(
    scale: str,
    *,
    which: str | None = None,
    results: str | Path = "results",
    pictures: str | Path | None = "paper_figures",
) -> Iterator[Check]:
    """Compare tables, figures and ledger in ``redrawn`` with the shipped ones.

    Args:
        scale: name of the scale.
        which: compare only this figure or claim, with its tables and verdicts; everything if None.
        results: directory that holds ``redrawn`` with tables and ledger.
        pictures: directory that holds ``redrawn`` with figures. If None, no figure is compared.

    Yields:
        `Check` of each table, figure and ledger.

    Raises:
        ArtifactError: if a file is missing or damaged.
    """
    redrawn = Path(results) / "redrawn" / scale
    shipped = runs_directory(redrawn)
    names = list(shipped_experiments(shipped))
    drawn = [name for name, needs in figures.FIGURES.items() if set(needs) <= set(names)]
    if which in figures.FIGURES:
        names, drawn = list(figures.FIGURES[which]), [which]
    elif which is not None:
        names, drawn = [claims.find(which).experiment], []
    for experiment in names:
        for name in DERIVED:
            tables = (read_csv(directory, experiment, name) for directory in (shipped, redrawn))
            yield _same_table(f"{experiment}: {name}", *tables)
    if pictures is not None:
        for name in drawn:
            yield _same_figure(
                name, shipped.parents[2] / "paper_figures/cached" / scale, Path(pictures) / "redrawn" / scale
            )
    ledger = claims.read_ledger(claims.ledger_path(shipped))
    again = claims.read_ledger(claims.ledger_path(redrawn, which))
    yield _same_verdicts(ledger[ledger["id"].isin([claim.id for claim in claims.selection(which)])], again)


def verify(
    results: str | Path,
    *,
    device: str = "auto",
    seed: int = 0,
    report: Callable[[Check], object] = lambda check: None,
) -> list[Check]:
    """Run all checks on one shipped directory.

    Args:
        results: directory such as ``results/cached/laptop``.
        device: see `rerun`.
        seed: see `rerun`.
        report: function that is called with each `Check` as soon as it is done.

    Returns:
        All checks. If files are damaged, only those of the files, because comparing damaged data is meaningless.

    Raises:
        ArtifactError: if the manifest is missing or cannot be read.
    """
    checks: list[Check] = []

    def add(check: Check) -> None:
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
