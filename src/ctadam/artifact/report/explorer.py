"""The explorer: a page on which one moves (β, γ) and sees what both laws say, beside the runs that were really made."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctadam.artifact import report
from ctadam.artifact.report.html import render
from ctadam.errors import ArtifactError
from ctadam.storage.manifest import MANIFEST, root
from ctadam.storage.store import read_joined, read_runs
from ctadam.storage.tables import sort_rows

#: Pairs marked in the plane, in torch's order, and who uses them.
COMMON_PAIRS = (
    (0.9, 0.999, "torch's default"),
    (0.9, 0.99, "nanoGPT on characters"),
    (0.9, 0.98, "Transformer"),
    (0.9, 0.95, "GPT-3, Llama"),
    (0.95, 0.95, "SOAP"),
    (0.5, 0.999, "DCGAN"),
    (0.0, 0.99, "StyleGAN"),
)
#: Runs of one row of the explorer differ in their seed only.
_SETTINGS = ["variant", "tokenization", "beta1", "beta2", "eps", "state_dtype"]
#: Numbers of steps at which a run's largest update is embedded: evenly spaced, and for the start logarithmically.
_EVEN, _LOGARITHMIC = 32, 12


def _short(value: float, digits: int = 4) -> float | None:
    """Return a number with few significant digits, or None if it is not finite, which JSON cannot express."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def _row(group: pd.DataFrame, updates: pd.Series, scale: str) -> dict[str, Any]:
    """Return what the explorer shows of the runs with one setting."""
    first = group.iloc[0]
    count = int(first["steps"])
    at = np.unique(np.r_[np.linspace(0, count - 1, _EVEN), np.geomspace(1, count, _LOGARITHMIC) - 1].round())
    curve = updates.reindex(at.astype(int)).dropna()
    sizes = sorted({int(size) for size in group["batch_size"]} - {0})
    return {
        "betas": [_short(first["beta1"], 12), _short(first["beta2"], 12)],
        "scale": scale,
        "variant": first["variant"],
        "tokens": first["tokenization"],
        "eps": float(first["eps"]),
        "dtype": first["state_dtype"],
        "batch": sizes,
        "seeds": len(group),
        "steps": count,
        "diverged": int((group["diverged_at"] >= 0).sum()),
        "peak": _short(group["peak"].max()),
        "rate": _short(group["held_rate"].mean()),
        "bounds": [_short(first["bound_paper"]), _short(first["bound_exact"])],
        "rates": [_short(first["rate_paper"]), _short(first["rate_exact"])],
        "loss": _short(group["test_loss"].mean()),
        "curve": [[int(step) for step in curve.index], [_short(value, 3) for value in curve]],
    }


def growth_runs(results: str | Path, scale: str) -> list[dict[str, Any]]:
    """Return the growth runs of one scale, one entry per pair of betas and setting, averaged over seeds.

    Args:
        results: directory of the scale.
        scale: its name.

    Returns:
        List of dicts with finite numbers, text and None. ``curve`` holds steps and largest updates of the first seed; ``bounds``
        and ``rates`` are the predictions by the paper's law and the exact one.

    Raises:
        ArtifactError: if runs, predictions or measurements are missing or damaged.
    """
    table = read_joined(results, "growth")
    raw = read_runs(results, "growth")[["run", "step", "update_max"]].set_index("step")
    updates = dict(list(raw.groupby("run")["update_max"]))
    groups = sort_rows(table, ["run"]).groupby(_SETTINGS, sort=False)
    return [_row(group, updates[group["run"].iloc[0]], scale) for _, group in groups]


def data(checkout: str | Path | None) -> dict[str, Any]:
    """Return what the explorer's script needs: pairs in common use and the shipped growth runs, of the largest scale first.

    Args:
        checkout: directory of the checkout; None for an installation without runs.

    Raises:
        ArtifactError: if shipped results are damaged.
    """
    cached = Path(checkout or "") / "results" / "cached"
    runs: list[dict[str, Any]] = []
    for scale in () if checkout is None else report.HEADLINE_SCALES:
        if (cached / scale / MANIFEST).exists() and any((cached / scale / "growth").glob("shard-*.parquet")):
            runs += growth_runs(cached / scale, scale)
    return {"pairs": [{"betas": [b1, b2], "name": name} for b1, b2, name in COMMON_PAIRS], "runs": runs}


def page(checkout: str | Path | None) -> str:
    """Return the explorer as a self-contained HTML page of at most 300 kB."""
    return render("explorer.html", explorer=data(checkout))


def write(path: str | Path) -> Path:
    """Write the explorer with the checkout's shipped runs, where there is one, to a file, and return its path.

    Raises:
        ArtifactError: if it cannot be written, or shipped results are damaged.
    """
    path = Path(path)
    checkout: Path | None
    if path.is_dir():
        raise ArtifactError(f"cannot write {path}: it is a directory")
    try:
        checkout = root()
    except ArtifactError:
        checkout = None
    report.write_text(path, page(checkout))
    return path
