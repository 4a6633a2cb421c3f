"""The ledger: every claim, what was predicted, what was measured, and the verdict by a rule fixed before the run.

A module an experiment, a function a claim. It sees the raw runs, predictions and measurements of one scale and returns its
outcome; the decorator carries what the ledger says about it. Verdicts: ``reproduced``, ``contradicted``, and
``inconclusive`` where the interval covers both or the scale cannot decide. A contradicted claim is a result, not an error.

Sources: P the paper (arXiv 2411.05746), D derived here, R asked by a reviewer of the paper.
"""

import importlib
from pathlib import Path

import pandas as pd

from ctadam.claims.rules import CLAIMS, CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence, Outcome
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS

__all__ = [
    "CLAIMS", "COLUMNS", "CONTRADICTED", "INCONCLUSIVE", "REPRODUCED", "Evidence", "Outcome", "as_text", "beside", "judge",
]  # fmt: skip

COLUMNS = [
    "id", "source", "claim", "statistic", "prediction", "value", "rule", "verdict", "note", "figure", "command",
]  # fmt: skip

for _name in EXPERIMENTS:
    importlib.import_module(f"ctadam.claims.{_name}")
#: Stability, ε, trajectories, generalization, norms, k-Adam, long runs; within each by number.
CLAIMS.sort(key=lambda claim: ("SETGNKL".index(claim.id[0]), int(claim.id[1:])))


def judge(results, experiments=None):
    """Judge every claim from the results of one scale.

    Args:
        results: directory of one scale, such as ``results/fresh/laptop``.
        experiments: only the claims of these; all if None.

    Returns:
        DataFrame with `COLUMNS`, a row a claim.

    Raises:
        ArtifactError: an experiment's tables are missing or damaged.
    """
    results = Path(results)
    if not results.is_dir():
        raise ArtifactError(f"no results in {results}")
    evidence, rows = {}, []
    for claim in (claim for claim in CLAIMS if experiments is None or claim.experiment in experiments):
        outcome = claim.judge(evidence.setdefault(claim.experiment, Evidence(results, claim.experiment)))
        rows.append(
            {
                "id": claim.id, "source": claim.source, "claim": claim.text, "statistic": claim.statistic,
                "prediction": outcome.prediction, "value": outcome.value, "rule": claim.rule,
                "verdict": outcome.verdict, "note": outcome.note, "figure": claim.figure,
                "command": f"snakemake --cores 1 {claim.figure or 'claims'}",
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def beside(ledger, shipped):
    """The ledger with the shipped values in a column ``shipped`` before its own.

    Args:
        ledger: from `judge`.
        shipped: path of the shipped ledger.
    """
    try:
        other = pd.read_csv(shipped, keep_default_na=False).set_index("id")["value"]
    except (OSError, KeyError, pd.errors.ParserError) as error:
        raise ArtifactError(f"cannot read the shipped ledger {shipped}: {error}") from error
    ledger = ledger.copy()
    ledger.insert(ledger.columns.get_loc("value"), "shipped", ledger["id"].map(other).fillna(""))
    return ledger


def as_text(ledger):
    """The ledger for a terminal: a few lines a claim, verdicts in a column that can be scanned."""
    lines = []
    for row in ledger.to_dict("records"):
        lines.append(f"{row['id']:<4} {row['verdict']:<13} [{row['source']}] {row['claim']}")
        shipped = f"  (shipped: {row['shipped']})" if row.get("shipped") else ""
        if row["value"]:
            lines.append(f"{'':18} predicted {row['prediction']}; measured {row['value']}{shipped}")
        if row["note"]:
            lines.append(f"{'':18} {row['note']}")
    counts = ledger["verdict"].value_counts()
    total = ", ".join(f"{counts.get(v, 0)} {v}" for v in (REPRODUCED, CONTRADICTED, INCONCLUSIVE))
    return "\n".join([*lines, f"{len(ledger)} claims: {total}"])
