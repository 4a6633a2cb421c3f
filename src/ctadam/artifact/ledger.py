"""Judge every claim and write the ledger: prediction, measurement and verdict, by rules fixed before the runs.

An experiment's ``claims.py`` defines one function per claim, which judges the runs, predictions and measurements of one scale.
Verdicts are ``reproduced``, ``contradicted`` and ``inconclusive``. A claim is inconclusive if the interval allows both verdicts,
if the scale cannot decide, or if runs are not finite (`ctadam.analysis.rules`). A contradicted claim is a result, not an error.

Sources of claims: P is the paper (arXiv 2411.05746), D is derived here, R was asked by a reviewer of the paper.
"""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ctadam.analysis.verdicts import CLAIMS, CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence, Outcome
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS, load
from ctadam.storage.provenance import is_complete, write_derived
from ctadam.storage.store import DERIVED, check_derived, sources

__all__ = ["CLAIMS", "CONTRADICTED", "INCONCLUSIVE", "REPRODUCED", "Evidence", "Outcome"]

#: Columns of the ledger.
COLUMNS = ["id", "source", "claim", "statistic", "prediction", "value", "rule", "verdict", "note", "figure", "command"]

for _name in EXPERIMENTS:
    load(_name, "claims")
#: Order of claims by letter: stability, ε, trajectories, generalization, norms, k-Adam, long runs. Others follow.
_ORDER = "SETGNKL"
CLAIMS.sort(key=lambda claim: (_ORDER.find(claim.id[0]) % (len(_ORDER) + 1), claim.id[0], int(claim.id[1:])))


def judge(results: str | Path, experiments: Collection[str] | None = None, figure: str | None = None) -> pd.DataFrame:
    """Judge claims from the results of one scale.

    Args:
        results: directory of one scale, such as ``results/fresh/laptop``.
        experiments: judge only the claims of these experiments; all if None.
        figure: judge only the claims that this figure shows; all if None.

    Returns:
        DataFrame with `COLUMNS` and one row per claim.

    Raises:
        ArtifactError: if an experiment's tables are missing or damaged.
    """
    results = Path(results)
    if not results.is_dir():
        raise ArtifactError(f"no results in {results}")
    evidence: dict[str, Evidence] = {}
    rows: list[dict[str, Any]] = []
    for claim in CLAIMS:
        if not (experiments is None or claim.experiment in experiments) or figure not in (None, claim.figure):
            continue
        outcome = claim.judge(evidence.setdefault(claim.experiment, Evidence(results, claim.experiment)))
        rows.append(
            asdict(outcome)
            | {name: getattr(claim, name) for name in ("id", "source", "statistic", "rule", "figure")}
            | {"claim": claim.text, "command": f"snakemake {claim.figure or 'claims'}"}
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def ledger_path(results: str | Path, figure: str | None = None) -> Path:
    """Return the path of a scale's ledger, of all claims or of those that one figure shows."""
    return Path(results) / (f"claims_{figure}.csv" if figure else "claims.csv")


def sources_of_ledger(ledger: pd.DataFrame, results: str | Path) -> dict[str, str]:
    """Return ``{name: sha256}`` of a ledger's sources: the raw runs and derived tables of its experiments.

    Raises:
        ArtifactError: if one of them is missing or damaged.
    """
    ids = set(ledger["id"])
    found: dict[str, str] = {}
    for experiment in dict.fromkeys(claim.experiment for claim in CLAIMS if claim.id in ids):
        found |= sources(results, experiment, *DERIVED)
    return found


def write(ledger: pd.DataFrame, results: str | Path, figure: str | None = None) -> Path:
    """Write a ledger and a record of its sources to the directory of the results that it judges, and return its path."""
    path = ledger_path(results, figure)
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


def beside(ledger: pd.DataFrame, shipped: str | Path) -> pd.DataFrame:
    """Return the ledger with the shipped values and verdicts as additional columns ``shipped`` and ``shipped_verdict``.

    Args:
        ledger: from `judge`.
        shipped: path of the shipped ledger.

    Raises:
        ArtifactError: if the shipped ledger is missing or was edited.
    """
    other = read_ledger(shipped).set_index("id")
    ledger = ledger.copy()
    for column, before in (("shipped", "value"), ("shipped_verdict", "verdict")):
        values = ledger["id"].map(other[before]).fillna("")
        ledger.insert(list(ledger.columns).index(before), column, values)
    return ledger
