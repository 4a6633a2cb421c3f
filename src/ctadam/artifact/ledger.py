"""The ledger: every claim, its prediction, its measurement, and the verdict by a rule fixed before the run.

An experiment's ``claims.py`` holds one function per claim, which judges the runs, predictions and measurements of one scale.
Verdicts are ``reproduced``, ``contradicted`` and ``inconclusive``. The last stands where the interval covers both, where the
scale cannot decide, or where runs are not finite (`ctadam.analysis.rules`). A contradicted claim is a result, not an error.

Sources: P the paper (arXiv 2411.05746), D derived here, R asked by a reviewer of the paper.
"""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from ctadam.analysis.verdicts import CLAIMS, CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence, Outcome
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS, load
from ctadam.storage.provenance import is_complete, write_derived
from ctadam.storage.store import DERIVED, check_derived, sources

__all__ = ["CLAIMS", "CONTRADICTED", "INCONCLUSIVE", "REPRODUCED", "Evidence", "Outcome"]

COLUMNS = ["id", "source", "claim", "statistic", "prediction", "value", "rule", "verdict", "note", "figure", "command"]

for _name in EXPERIMENTS:
    load(_name, "claims")
#: Stability, ε, trajectories, generalization, norms, k-Adam, long runs, then any other; within each by number.
_ORDER = "SETGNKL"
CLAIMS.sort(key=lambda claim: (_ORDER.find(claim.id[0]) % (len(_ORDER) + 1), claim.id[0], int(claim.id[1:])))


def judge(results, experiments=None, figure=None):
    """Judge every claim from the results of one scale.

    Args:
        results: directory of one scale, such as ``results/fresh/laptop``.
        experiments: only the claims of these; all if None.
        figure: only the claims that this figure shows; all if None.

    Returns:
        DataFrame with `COLUMNS`, a row a claim.

    Raises:
        ArtifactError: an experiment's tables are missing or damaged.
    """
    results = Path(results)
    if not results.is_dir():
        raise ArtifactError(f"no results in {results}")
    evidence, rows = {}, []
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


def ledger_path(results, figure=None):
    """Return where the ledger of a scale's results is: of all claims, or of those that one figure shows."""
    return Path(results) / (f"claims_{figure}.csv" if figure else "claims.csv")


def sources_of_ledger(ledger, results):
    """``{name: sha256}`` of all that a ledger is made from: raw runs and derived tables of its experiments, checked."""
    ids, found = set(ledger["id"]), {}
    for experiment in dict.fromkeys(claim.experiment for claim in CLAIMS if claim.id in ids):
        found |= sources(results, experiment, *DERIVED)
    return found


def write(ledger, results, figure=None):
    """Write a ledger beside the results that it judges, with a record of what it was made from; gives its path."""
    path = ledger_path(results, figure)
    write_derived(ledger, path, sources_of_ledger(ledger, results))
    return path


def read_ledger(path):
    """A ledger as it was written, all its cells text.

    Raises:
        ArtifactError: it is missing or was edited.
    """
    path = Path(path)
    if not is_complete(path):
        if not path.exists():
            raise ArtifactError(f"there is no ledger {path}: make it with `ctadam judge {path.parent}`")
        raise ArtifactError(
            f"the ledger {path} was edited, or its record is missing: make it again with `ctadam judge {path.parent}`"
        )
    return pd.read_csv(path, keep_default_na=False, dtype=str)


def check_ledger(results):
    """Raise an `ArtifactError` if the ledger of these results was edited, or judges other tables than lie there."""
    path = ledger_path(results)
    check_derived(path, sources_of_ledger(read_ledger(path), results), f"`ctadam judge {results}`")


def beside(ledger, shipped):
    """The ledger with the shipped values and verdicts in columns ``shipped`` and ``shipped_verdict`` before its own.

    Args:
        ledger: from `judge`.
        shipped: path of the shipped ledger.
    """
    other = read_ledger(shipped).set_index("id")
    ledger = ledger.copy()
    for column, before in (("shipped", "value"), ("shipped_verdict", "verdict")):
        values = ledger["id"].map(other[before]).fillna("")
        ledger.insert(ledger.columns.get_loc(before), column, values)
    return ledger
