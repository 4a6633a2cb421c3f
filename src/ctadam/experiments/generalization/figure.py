"""Figure 3: test loss against C along the normal curve, and along level curves of C (claims G1-G4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from ctadam.analysis import style
from ctadam.experiments.generalization.claims import correlation, view
from ctadam.storage.store import read_joined
from ctadam.storage.tables import sort_rows

TASKS = style.Table("experiments/generalization/figure.py: TASKS", {"text": "text", "images": "images"})
_COLORS = sns.color_palette("colorblind").as_hex()
#: Choice of the learning rate (the same for all pairs, or the best for each) -> color and marker.
VIEWS = {"fixed": (_COLORS[0], "o"), "tuned": (_COLORS[1], "^")}
#: Color and marker of the level curves, by decreasing C.
LEVELS = [(_COLORS[2], "s"), (_COLORS[4], "D"), (_COLORS[7], "v"), (_COLORS[8], "P")]
#: Markers of the usual pairs, in the order of the configuration.
USUAL = ["*", "X", "P", "d"]


def draw(results: str | Path) -> Figure:
    """Draw the figure from the predictions and measurements of ``generalization`` in the directory ``results``."""
    table = read_joined(results, "generalization")
    TASKS.require(table["task"])
    figure, axes = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 5.1), layout="constrained")
    for row, task in zip(axes, TASKS, strict=True):
        _against_c(row[0], table, task, "loss_end", np.subtract)
        row[0].set(ylabel="excess test loss (nats)", title=f"{TASKS[task]}: after the last step")
        _against_c(row[1], table, task, "steps_to_target", np.divide)
        target = table.loc[table["task"] == task, "target"].iloc[0]
        row[1].set(ylabel="relative steps", title=f"{TASKS[task]}: until loss {target:.3g}")
        _levels(row[2], table, task)
    _legend(figure, table)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _legend(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the legend that all panels share."""
    lr = table[table["fixed"]].groupby("task")["lr"].first()
    rates = (
        ", ".join(f"{lr[task]:g} ({name})" for task, name in TASKS.items()) if lr.nunique() > 1 else f"{lr.iloc[0]:g}"
    )
    names = {"fixed": f"one learning rate, {rates}", "tuned": "learning rate tuned per pair"}
    handles = [
        Line2D([], [], color=color, marker=marker, mfc="w", lw=0.8, label=names[which])
        for which, (color, marker) in VIEWS.items()
    ]
    usual = table[table["curve"] == "usual"].drop_duplicates("point")
    usual = sort_rows(usual, ["point"])
    handles += [
        Line2D(
            [], [], ls="", marker=marker, ms=6, color="w", mec="k", mew=0.7, label=f"({pair.beta2:g}, {pair.beta1:g})"
        )
        for pair, marker in style.by_rank(
            "experiments/generalization/figure.py: USUAL", USUAL, usual.itertuples()
        ).items()
    ]
    title = r"usual pairs are $(\beta,\gamma)$; excess and relative: compared with the first of them"
    look: dict[str, Any] = {"ncols": 6, "columnspacing": 1.2, "handletextpad": 0.4, "title_fontsize": 7}
    figure.legend(handles=handles, loc="outside lower center", title=title, **look)


def _compared(
    table: pd.DataFrame,
    task: str,
    curve: str,
    which: str,
    column: str,
    by: Callable[[Any, Any], Any],
    level: float | None = None,
) -> pd.DataFrame:
    """Return a column relative to the usual pair with the same seed, as means over seeds.

    Args:
        table: measurements and predictions of the experiment.
        task, curve, which, level: as for `ctadam.experiments.generalization.claims.view`.
        column: the measured column.
        by: comparison with the usual pair, `numpy.subtract` or `numpy.divide`.

    Returns:
        DataFrame indexed by ``point`` with ``C``, ``beta2``, ``mean``, ``sd``, ``count`` and ``half``, half of the 95 % interval
        of the mean. Points with a value that is not finite are left out.
    """
    some = view(table, task, curve, which, level)
    usual = view(table, task, "usual", which).query("point == 0").set_index("seed")[column]
    some = some.assign(value=by(some[column], some["seed"].map(usual)))
    groups = some.groupby("point").agg(
        C=("C", "first"), beta2=("beta2", "first"), mean=("value", "mean"), sd=("value", "std"), count=("value", "size")
    )
    groups["half"] = stats.t.ppf(0.975, np.maximum(groups["count"] - 1, 1)) * groups["sd"] / np.sqrt(groups["count"])
    return groups[np.isfinite(groups["mean"])]


def _against_c(ax: Axes, table: pd.DataFrame, task: str, column: str, by: Callable[[Any, Any], Any]) -> None:
    """Plot a column relative to the usual pair against C, along the normal curve and for the usual pairs."""
    for i, (which, (color, marker)) in enumerate(VIEWS.items()):
        points = _compared(table, task, "normal", which, column, by)
        ax.fill_between(
            points["C"], points["mean"] - points["half"], points["mean"] + points["half"], color=color, alpha=0.25, lw=0
        )
        ax.plot(points["C"], points["mean"], marker, ms=2.6, mfc="w", mew=0.7, color=color)
        value, low, high = correlation(view(table, task, "normal", which), loss=column)
        look = {"ha": "right", "va": "top", "fontsize": 6.5, "color": color}
        ax.text(0.98, 0.98 - 0.08 * i, rf"$\rho={value:.2f}\ [{low:.2f},\,{high:.2f}]$", transform=ax.transAxes, **look)
    usual = _compared(table, task, "usual", "fixed", column, by)
    for pair, marker in style.by_rank("experiments/generalization/figure.py: USUAL", USUAL, usual.itertuples()).items():
        ax.plot(pair.C, pair.mean, marker, ms=6, color="w", mec="k", mew=0.7, zorder=4)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.axhline(by(1.0, 1.0), color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"$C(\beta,\gamma)$")


def _levels(ax: Axes, table: pd.DataFrame, task: str) -> None:
    """Plot the test loss along level curves, with the range along the normal curve inside the region as a band."""
    inside = _compared(table, task, "normal", "fixed", "loss_end", np.subtract).query("C > 0")["mean"]
    ax.axhspan(inside.min(), inside.max(), color="0.9", lw=0, label=r"normal curve, $C>0$")
    levels = sorted(table["level"].dropna().unique(), reverse=True)
    for level, (color, marker) in style.by_rank("experiments/generalization/figure.py: LEVELS", LEVELS, levels).items():
        points = _compared(table, task, "level", "fixed", "loss_end", np.subtract, level)
        look = {"color": color, "marker": marker, "ms": 3.5, "mfc": "w", "mew": 0.8, "lw": 0.9, "elinewidth": 0.6}
        ax.errorbar(points["beta2"], points["mean"], points["half"], label=f"$C$ = {level:g}", **look)
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"$\beta$ (beta2)", ylabel="excess test loss (nats)", title=f"{TASKS[task]}: level curves of $C$")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.15 * (high - low))  # room for the legend
    ax.legend(loc="upper left", handlelength=1.4, fontsize=6, labelspacing=0.3)
