"""Judge every claim and write the ledger: estimates with intervals, verdicts by level, and the claim's verdict.

An experiment's ``claims.py`` defines one function per claim, which measures the claim's statistics from the runs, predictions and
measurements of one scale; `ctadam.analysis.verdicts` turns them into verdicts. The rules were fixed before the runs;
``docs/ledger_history.md`` records every change. A contradicted claim is a result, not an error.

Sources of claims: P is the paper (arXiv 2411.05746), D is derived here, R was asked by the paper's reviewers or by practice.
"""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from ctadam.analysis.verdicts import (
    CLAIMS,
    CONTRADICTED,
    IN_PART,
    INCONCLUSIVE,
    REPRODUCED,
    Claim,
    Evidence,
    Level,
    combine,
)
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS, load
from ctadam.storage.provenance import is_complete, write_derived
from ctadam.storage.store import DERIVED, check_derived, checked_shards, sources

__all__ = ["CLAIMS", "CONTRADICTED", "INCONCLUSIVE", "IN_PART", "REPRODUCED", "VERDICTS", "Evidence"]

#: Verdicts of a claim, in the order in which they are counted.
VERDICTS = (REPRODUCED, IN_PART, CONTRADICTED, INCONCLUSIVE)
#: Columns of the ledger. ``levels`` and ``numbers`` are JSON, see `levels_of` and `numbers_of`.
COLUMNS = [
    "id",
    "source",
    "claim",
    "verdict",
    "levels",
    "numbers",
    "statistic",
    "rule",
    "data",
    "experiment",
    "figure",
    "command",
]
#: Significant digits of the numbers in a ledger. Digits beyond them may differ between processors.
DIGITS = 6

for _name in EXPERIMENTS:
    load(_name, "claims")
#: Order of claims by letter: stability, practice, trajectories, generalization, norms, k-Adam. Others follow.
_ORDER = "SELTGNK"
CLAIMS.sort(key=lambda claim: (_ORDER.find(claim.id[0]) % (len(_ORDER) + 1), claim.id[0], int(claim.id[1:])))


def find(id: str) -> Claim:
    """Return the claim with an id.

    Raises:
        ArtifactError: if there is none.
    """
    for claim in CLAIMS:
        if claim.id == id:
            return claim
    raise ArtifactError(f"there is no claim {id!r} (there are: {', '.join(claim.id for claim in CLAIMS)})")


def selection(which: str | None) -> list[Claim]:
    """Return the claims of a figure or with an id; all claims if None.

    Args:
        which: name of a figure, such as ``"fig2"``, or id of a claim, such as ``"S3"``.

    Raises:
        ArtifactError: if there is no such claim.
    """
    if which is None:
        return CLAIMS
    return [claim for claim in CLAIMS if claim.figure == which] if which.startswith("fig") else [find(which)]


def judge(results: str | Path, experiments: Collection[str] | None = None, which: str | None = None) -> pd.DataFrame:
    """Judge claims from the results of one scale.

    Args:
        results: directory of one scale, such as ``results/fresh/laptop``.
        experiments: judge only the claims of these experiments; all if None.
        which: judge only the claims of this figure, or the one with this id; all if None.

    Returns:
        DataFrame with `COLUMNS` and one row per claim.

    Raises:
        ArtifactError: if an experiment's tables are missing or damaged, or there is no such claim.
    """
    results = Path(results)
    if not results.is_dir():
        raise ArtifactError(f"no results in {results}")
    evidence: dict[str, Evidence] = {}
    data: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for claim in selection(which):
        if experiments is not None and claim.experiment not in experiments:
            continue
        if claim.experiment not in evidence:
            evidence[claim.experiment] = Evidence(results, claim.experiment)
            data[claim.experiment] = data_of(results, claim.experiment)
        judgement = claim.judge(evidence[claim.experiment])
        rows.append(
            {name: getattr(claim, name) for name in ("id", "source", "statistic", "rule", "experiment", "figure")}
            | {
                "claim": claim.text,
                "verdict": judgement.verdict,
                "levels": json.dumps([_as_dict(level) for level in judgement.levels], ensure_ascii=False),
                "numbers": json.dumps({k: _rounded(v) for k, v in judgement.numbers.items()}, ensure_ascii=False),
                "data": data[claim.experiment],
                "command": f"snakemake {claim.id}",
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def data_of(results: str | Path, experiment: str) -> str:
    """Return the names of the data that an experiment's runs were trained on, and which copy if not the original.

    Raises:
        ArtifactError: if the runs are missing or damaged.
    """
    return ", ".join(
        dict.fromkeys(name for record in checked_shards(results, experiment).values() for name in record["data"])
    )


def _rounded(value: float) -> float | None:
    """Return a number with `DIGITS` significant digits, or None if it is not finite, which JSON cannot express.

    Numbers next to 1 keep more, because rules about bounds allow 1 + 1e-9.
    """
    if not math.isfinite(value):
        return None
    return round(value, 10) if abs(value - 1) < 1e-4 else float(f"{value:.{DIGITS - 1}e}")


def _as_dict(level: Level) -> dict[str, Any]:
    """Return a level for the ledger."""
    entry: dict[str, Any] = {"level": level.name, "part": level.part, "verdict": level.verdict}
    entry |= {name: _rounded(getattr(level, name)) for name in ("estimate", "low", "high")}
    return entry | {
        "n": level.n,
        "detectable": _rounded(detectable(level)),
        "lost": level.lost,
        "undecided": level.undecided,
    }


def detectable(level: Level, power: float = 0.8) -> float:
    """Return the smallest true difference that these runs would distinguish from zero, for a t interval over ``level.n`` seeds.

    Args:
        level: a level with an interval over seeds.
        power: probability with which the interval excludes zero.

    Returns:
        Difference in the unit of the estimate; NaN without an interval. It uses t quantiles in place of the noncentral t
        distribution, which is a few per cent too large with five seeds.
    """
    half = (level.high - level.low) / 2
    if level.n < 2 or not math.isfinite(half):
        return math.nan
    return float(half * (1 + stats.t.ppf(power, level.n - 1) / stats.t.ppf(0.975, level.n - 1)))


def levels_of(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the levels of a ledger: one row per claim, level and part.

    Args:
        ledger: from `judge` or `read_ledger`.

    Returns:
        DataFrame with the columns ``id``, ``level``, ``part``, ``estimate``, ``low``, ``high``, ``verdict``, ``n``,
        ``detectable`` (see `detectable`), ``lost`` and ``undecided``; for the last ones see `ctadam.analysis.verdicts.Level`.
    """
    rows = [
        {"id": id} | level
        for id, text in zip(ledger["id"], ledger["levels"], strict=True)
        for level in json.loads(text)
    ]
    names = ["id", "level", "part", "estimate", "low", "high", "verdict", "n", "detectable", "lost", "undecided"]
    numbers = ["estimate", "low", "high", "detectable"]
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(numbers, float))


def numbers_of(ledger: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the further numbers of each claim of a ledger, ``{id: {description: value}}``; NaN where not finite."""
    return {
        id: {name: math.nan if value is None else value for name, value in json.loads(text).items()}
        for id, text in zip(ledger["id"], ledger["numbers"], strict=True)
    }


def by_level(ledger: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return the verdict of each level of a ledger, ``{(id, level): verdict}``."""
    needed = {claim.id: claim.needed for claim in CLAIMS}
    groups = levels_of(ledger).groupby(["id", "level"], sort=False)["verdict"]
    return {(str(id), str(name)): combine(list(rows), needed.get(str(id))) for (id, name), rows in groups}


def ledger_path(results: str | Path, which: str | None = None) -> Path:
    """Return the path of a scale's ledger: of all claims, of those of a figure, or of the one with an id."""
    return Path(results) / (f"claims_{which}.csv" if which else "claims.csv")


def sources_of_ledger(ledger: pd.DataFrame, results: str | Path) -> dict[str, str]:
    """Return ``{name: sha256}`` of a ledger's sources: the raw runs and derived tables of its experiments.

    Raises:
        ArtifactError: if one of them is missing or damaged.
    """
    digests: dict[str, str] = {}
    for experiment in dict.fromkeys(ledger["experiment"]):
        digests |= sources(results, experiment, *DERIVED)
    return digests


def write(ledger: pd.DataFrame, results: str | Path, which: str | None = None) -> Path:
    """Write a ledger and a record of its sources to the directory of the results that it judges, and return its path."""
    path = ledger_path(results, which)
    write_derived(ledger, path, sources_of_ledger(ledger, results))
    return path


def read_ledger(path: str | Path) -> pd.DataFrame:
    """Return a ledger with all cells as text.

    Raises:
        ArtifactError: if it is missing or was edited.
    """
    path = Path(path)
    if not is_complete(path):
        if not path.exists():
            raise ArtifactError(f"there is no ledger {path}: make it with `ctadam judge {path.parent}`")
        raise ArtifactError(
            f"the ledger {path} was edited, or its record is missing: make it again with `ctadam judge {path.parent}`"
        )
    return pd.read_csv(path, keep_default_na=False, dtype=str)


def check_ledger(results: str | Path) -> None:
    """Check that the ledger of these results was made from their current tables.

    Raises:
        ArtifactError: if it is missing, was edited, or was made from other tables.
    """
    path = ledger_path(results)
    check_derived(path, sources_of_ledger(read_ledger(path), results), f"`ctadam judge {results}`")


def add_shipped_columns(ledger: pd.DataFrame, shipped: str | Path) -> pd.DataFrame:
    """Return the ledger with the shipped levels and verdicts as additional columns ``shipped_levels`` and ``shipped_verdict``.

    Args:
        ledger: from `judge`.
        shipped: path of the shipped ledger.

    Raises:
        ArtifactError: if the shipped ledger is missing, was edited, or has other columns.
    """
    other = read_ledger(shipped).set_index("id")
    if "levels" not in other:
        raise ArtifactError(f"{shipped} was written by another version: it has no levels")
    columns = {f"shipped_{name}": ledger["id"].map(other[name]).fillna("") for name in ("verdict", "levels")}
    return ledger.assign(**columns)
