"""Figure 3: test loss against C along the normal curve and the level curve through the usual pair (claims G1–G4)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy import stats

from ctadam.analysis import style
from ctadam.experiments.generalization.claims import (
    LEVEL,
    NORMAL,
    SHARES,
    at_chosen_rate,
    by_task,
    correlation,
    share_of_range,
)
from ctadam.storage.store import read_joined

TASKS = style.Table("experiments/generalization/figure.py: TASKS", {"text": "text", "images": "images"})
_COLORS = sns.color_palette("colorblind").as_hex()
#: Column with the choice of the learning rate -> look and name. The second is drawn inside the first, because they often agree.
VIEWS: dict[str, tuple[dict[str, Any], str]] = {
    "usual_rate": (
        {"color": _COLORS[0], "marker": "o", "ms": 5, "mfc": "w", "mew": 0.8, "lw": 0.9},
        "learning rate best for the usual pair (judged)",
    ),
    "own_rate": (
        {"color": _COLORS[1], "marker": "^", "ms": 2.5, "mew": 0, "lw": 0},
        "learning rate best for each pair",
    ),
}
#: The usual pair.
STAR: dict[str, Any] = {"marker": "*", "ms": 9, "color": "w", "mec": "k", "mew": 0.7, "ls": "", "zorder": 4}
#: Claim -> name of its difference.
NAMES = {"G2": "G2: usual pair", "G3": "G3: level curve", "G4": "G4: largest $C$"}
REGION, TARGET = "0.9", _COLORS[2]


def draw(results: str | Path) -> Figure:
    """Draw the figure from the predictions and measurements of ``generalization`` in the directory ``results``."""
    tasks = by_task(read_joined(results, "generalization"))
    TASKS.require(tasks)
    usual = next(iter(tasks.values())).query("curve == 'usual'").iloc[0]
    figure, axes = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 4.7), layout="constrained", width_ratios=(1.1, 1, 1))
    for row, (task, table) in zip(axes, tasks.items(), strict=True):
        name = TASKS[task]
        _normal(row[0], table)
        _level(row[1], table)
        _shares(row[2], table)
        for ax, title in zip(row, ("normal curve", "level curve", "differences"), strict=True):
            ax.set_title(f"{name}: {title}")
    low, high = np.transpose([ax.get_xlim() for ax in axes[:, 2]])
    for ax in axes[:, 2]:
        ax.set_xlim(low.min(), high.max())
    handles: list[Line2D | Patch] = [Line2D([], [], label=label, **look) for look, label in VIEWS.values()]
    handles += [
        Line2D([], [], label=rf"usual pair, $(\beta,\gamma)$ = ({usual.beta2:g}, {usual.beta1:g})", **STAR),
        Patch(color=REGION, lw=0, label="range of the normal curve, $C>0$"),
        Patch(color=TARGET, lw=0, alpha=0.4, label="claim holds"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.2, handletextpad=0.5)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _excess(table: pd.DataFrame, curves: tuple[str, ...], view: str = "usual_rate") -> pd.DataFrame:
    """Return the excess test loss over the usual pair with the same seed, as means over seeds.

    Args:
        table: measurements and predictions of one task.
        curves: see `ctadam.experiments.generalization.claims.at_chosen_rate`.
        view: key of `VIEWS`.

    Returns:
        DataFrame with ``C``, ``beta2``, ``mean`` and ``half``, half of the 95 % interval of the mean, sorted by ``beta2``. Points
        with a value that is not finite are left out.
    """
    runs = at_chosen_rate(table, curves, view)
    usual = runs[runs["curve"] == "usual"].set_index("seed")["loss_end"]
    runs["excess"] = runs["loss_end"] - runs["seed"].map(usual)
    groups = runs.groupby(["curve", "point"]).agg(
        C=("C", "first"), beta2=("beta2", "first"), mean=("excess", "mean"), se=("excess", "sem"), n=("excess", "size")
    )
    groups["half"] = stats.t.ppf(0.975, np.maximum(groups["n"] - 1, 1)) * groups["se"]
    return groups[np.isfinite(groups["mean"])].sort_values("beta2", kind="stable")


def _normal(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the excess loss against C along the normal curve, inside the region again in an inset, with G1's correlation."""
    # The losses outside the region hide the differences inside, which the claims judge.
    inset = ax.inset_axes((0.46, 0.33, 0.53, 0.5))
    for view, (look, _) in VIEWS.items():
        points = _excess(table, NORMAL, view)
        drawn = points.drop("usual")
        for part, rows in ((ax, drawn), (inset, drawn[drawn["C"] > 0])):
            if view == "usual_rate":
                band = points if part is ax else points[points["C"] > 0]
                ends = band["mean"] - band["half"], band["mean"] + band["half"]
                part.fill_between(band["C"], *ends, color=look["color"], alpha=0.25, lw=0)
            part.plot(rows["C"], rows["mean"], **look)
    usual = points.xs("usual", level="curve")
    for part in (ax, inset):
        part.plot(usual["C"], usual["mean"], **STAR)
    inset.margins(x=0.08)
    inset.set_title("$C>0$", fontsize=6, pad=2, loc="left")
    inset.tick_params(labelsize=6, pad=1.5, length=2)
    inset.axhline(0, color="0.7", lw=0.6, zorder=0)
    g1 = correlation(at_chosen_rate(table, NORMAL))
    text = rf"G1: $\rho={g1.estimate:.2f}$" + (rf" $[{g1.low:.2f},\,{g1.high:.2f}]$" if g1.n > 1 else "")
    ax.text(0.98, 0.98, text, ha="right", va="top", fontsize=7, transform=ax.transAxes)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"coefficient $C(\beta,\gamma)$", ylabel="excess test loss (nats)")


def _level(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the excess loss along the level curve, with the range along the normal curve inside the region as a band."""
    inside = _excess(table, NORMAL).query("C > 0")["mean"]
    ax.axhspan(inside.min(), inside.max(), color=REGION, lw=0)
    points = _excess(table, LEVEL)
    look, _ = VIEWS["usual_rate"]
    ax.errorbar(points["beta2"], points["mean"], points["half"], elinewidth=0.9, capsize=2, **look)
    ax.locator_params(axis="x", nbins=4)
    usual = points.xs("usual", level="curve")
    ax.plot(usual["beta2"], usual["mean"], **STAR)
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=rf"$\beta$ at $C$ = {points['C'].mean():.4f}", ylabel="excess test loss (nats)")


def _shares(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the differences of claims G2–G4 as shares of the range along the normal curve, with their targets."""
    ends = [-0.15, 0.65]
    if (contradicted := SHARES["G3"][1].contradicted_from) is not None:
        y = list(SHARES).index("G3")
        ax.plot([contradicted] * 2, [y - 0.3, y + 0.3], color="0.4", lw=0.8, ls=":")
    for y, (numerator, target) in enumerate(SHARES.values()):
        ax.plot([-1e3, target.high], [y, y], color=TARGET, lw=9, alpha=0.4, solid_capstyle="butt", scalex=False)
        level = share_of_range(table, numerator)
        if level.undecided:
            look: dict[str, Any] = {
                "fontsize": 7,
                "transform": ax.get_yaxis_transform(),
                "bbox": {"color": "w", "pad": 1},
            }
            ax.text(0.98, y, "undecided", ha="right", va="center", **look)
            continue
        errors = [[level.estimate - level.low], [level.high - level.estimate]]
        ax.errorbar(level.estimate, y, xerr=errors, color="k", marker="o", ms=3, mfc="w", lw=1, capsize=2.5)
        ends = [min(ends[0], 1.1 * level.low), max(ends[1], 1.1 * level.high)]
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlim=ends, ylim=(len(SHARES) - 0.5, -0.5), xlabel="share of the range, $C>0$")
    ax.set_yticks(range(len(SHARES)), [NAMES[id] for id in SHARES])
