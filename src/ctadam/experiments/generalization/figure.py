"""Figure 3: test loss against C along the normal curve and the level curve through the usual pair (claims G1–G4)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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

TASKS = style.Table(
    "experiments/generalization/figure.py: TASKS",
    {"text": "text", "images": "images of digits", "photographs": "photographs"},
)
_COLORS = sns.color_palette("colorblind").as_hex()
#: Column with the choice of the learning rate -> look and name. The second is drawn inside the first, because they often agree.
VIEWS: dict[str, tuple[dict[str, Any], str]] = {
    "usual_rate": (
        {"color": _COLORS[0], "marker": "o", "markersize": 4.5, "mfc": "w", "mec": _COLORS[0], "mew": 0.8, "lw": 0.9},
        "learning rate best for the usual pair (judged)",
    ),
    "own_rate": (
        {"color": _COLORS[1], "marker": "^", "markersize": 2.5, "mew": 0, "lw": 0},
        "learning rate best for each pair",
    ),
}
#: The usual pair.
STAR: dict[str, Any] = {"marker": "*", "markersize": 8, "color": "w", "mec": "k", "mew": 0.7, "ls": "", "zorder": 4}
#: Claim -> name of the point or points whose loss it compares with the best.
NAMES = {"G2": "usual pair\n(G2)", "G3": "level curve\n(G3)", "G4": "largest $C$\n(G4)"}
TARGET = _COLORS[2]


def draw(results: str | Path) -> Figure:
    """Draw the figure from the predictions and measurements of ``generalization`` in the directory ``results``."""
    tasks = by_task(read_joined(results, "generalization"))
    TASKS.require(tasks)
    usual = next(iter(tasks.values())).query("curve == 'usual'").iloc[0]
    size = style.TEXT_WIDTH, 2.1 * len(tasks) + 0.5
    figure, axes = plt.subplots(len(tasks), 4, figsize=size, layout="constrained", squeeze=False)
    for row, (task, table) in zip(axes, tasks.items(), strict=True):
        _normal(row[0], table, TASKS[task])
        _curve(row[1], _excess(table, NORMAL).query("C > 0"), "C")
        row[1].set(xlabel=r"coefficient $C(\beta,\gamma)$", title="normal, $C>0$")
        level = _excess(table, LEVEL)
        _curve(row[2], level, "beta2")
        row[2].set(xlabel=rf"$\beta$ at $C={level['C'].mean():.3f}$", title="level curve")
        style.share_y(row[1:3])
        _shares(row[3], table)
    low, high = np.transpose([ax.get_xlim() for ax in axes[:, 3]])
    for ax in axes[:, 3]:
        ax.set_xlim(low.min(), high.max())
    handles: list[Any] = [style.handle(label, **look) for look, label in VIEWS.values()]
    handles += [style.handle(rf"usual pair $(\beta,\gamma)=({usual.beta2:g},\,{usual.beta1:g})$", **STAR)]
    handles += [Patch(color=TARGET, lw=0, alpha=0.4, label="claim holds")]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.2)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _excess(table: pd.DataFrame, curves: tuple[str, ...], view: str = "usual_rate") -> pd.DataFrame:
    """Return the runs on some curves with ``excess``, the test loss minus that of the usual pair with the same seed.

    Args:
        table: measurements and predictions of one task.
        curves: see `ctadam.experiments.generalization.claims.at_chosen_rate`.
        view: key of `VIEWS`.

    Returns:
        DataFrame with one row per pair and seed. Pairs with a value that is not finite are left out.
    """
    runs = at_chosen_rate(table, curves, view)
    usual = runs[runs["curve"] == "usual"].set_index("seed")["loss_end"]
    runs = runs.assign(excess=runs["loss_end"] - runs["seed"].map(usual))
    return runs[np.isfinite(runs["excess"]).groupby([runs["curve"], runs["point"]]).transform("all")]


def _curve(ax: Axes, runs: pd.DataFrame, x: str, view: str = "usual_rate") -> None:
    """Plot means over seeds of the excess loss with their intervals, and the usual pair, which has none."""
    look, _ = VIEWS[view]
    bars = {"errorbar": style.interval, "err_style": "bars", "err_kws": {"elinewidth": 0.8}}
    others = runs[runs["curve"] != "usual"]
    if view == "usual_rate":
        sns.lineplot(runs, x=x, y="excess", ax=ax, **bars, **look)
    else:
        sns.lineplot(others, x=x, y="excess", ax=ax, errorbar=None, **look)
    ax.plot(runs.loc[runs["curve"] == "usual", x].iloc[0], 0, **STAR)
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_ylabel("excess test loss (nats)")


def _normal(ax: Axes, table: pd.DataFrame, task: str) -> None:
    """Plot the excess loss against C along the whole normal curve, with G1's correlation."""
    for view in VIEWS:
        _curve(ax, _excess(table, NORMAL, view), "C", view)
    g1 = correlation(at_chosen_rate(table, NORMAL))
    # The ledger correlates C with minus the loss. The panel shows the loss.
    text = rf"$\rho(C,\mathrm{{loss}})={-g1.estimate:.2f}$"
    text += f"\n[{-g1.high:.2f}, {-g1.low:.2f}] (G1)".replace("-", "−") if g1.n > 1 else ""
    ax.text(0.98, 0.98, text, ha="right", va="top", fontsize=style.SMALL, transform=ax.transAxes)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"coefficient $C(\beta,\gamma)$", title=task)


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
            look: dict[str, Any] = {"fontsize": style.SMALL, "bbox": {"color": "w", "pad": 1}}
            ax.text(0.98, y, "undecided", ha="right", va="center", transform=ax.get_yaxis_transform(), **look)
            continue
        errors = [[level.estimate - level.low], [level.high - level.estimate]]
        ax.errorbar(level.estimate, y, xerr=errors, color="k", marker="o", ms=3, mfc="w", lw=1, capsize=2.5)
        ends = [min(ends[0], 1.1 * level.low), max(ends[1], 1.1 * level.high)]
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlim=ends, ylim=(len(SHARES) - 0.5, -0.5), xlabel="share of the range", title="loss over best")
    ax.set_yticks(range(len(SHARES)), [NAMES[id] for id in SHARES])
