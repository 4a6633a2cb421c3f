"""Figure 5: k-Adam by learning rate, size of its steps and number of stages (claims K1, K2, K6, K7)."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from ctadam.analysis import style
from ctadam.analysis.seeds import over_seeds
from ctadam.experiments.k_sweep.claims import RATES, STRATEGIES
from ctadam.experiments.k_sweep.measure import pairs, tuned
from ctadam.storage.store import read_csv

TITLES = style.Table(
    "experiments/k_sweep/figure.py: TITLES", {False: "without normalization layers", True: "with normalization layers"}
)
ADAM: dict[str, Any] = {"color": "0.15", "marker": "*", "ms": 6}
#: Shift of each strategy's points, so that intervals do not cover each other.
SHIFTS = dict(zip(STRATEGIES, np.linspace(-1.0, 1.0, len(STRATEGIES)), strict=True))


def draw(results: str | Path) -> Figure:
    """Draw the figure from the measurements of ``k_sweep`` in the directory ``results``."""
    table = read_csv(results, "k_sweep", "measurements")
    table = table.assign(error=1 - table["accuracy"])
    style.STRATEGIES.require(table["strategy"])
    networks = sorted(table["norm"].unique())
    plain = table[table["norm"] == networks[0]]
    panels: list[Callable[[Axes], None]] = [partial(_by_rate, table=table[table["norm"] == norm]) for norm in networks]
    panels += [partial(_by_step_size, table=plain), partial(_gains, table=plain), partial(_by_stages, table=table)]
    panels += [partial(_best_gains, table=table)]
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(style.TEXT_WIDTH, 2.35 * rows + 0.3), layout="constrained")
    for ax, panel in zip(axes.flat, panels, strict=False):
        panel(ax)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=1.8)
    style.label_panels(figure.axes)
    sns.despine(figure)
    return figure


def _optimizers(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Yield the name, runs and look of 2-Adam with each strategy, and of Adam last, so that it is drawn on top."""
    for strategy, look in style.STRATEGIES.items():
        runs = table[(table["k"] == 2) & (table["strategy"] == strategy)]
        if len(runs):
            yield strategy, runs, look
    yield "Adam", table[table["k"] == 1], ADAM


def _intervals(groups: Any) -> pd.DataFrame:
    """Return ``mean``, ``low`` and ``high`` over seeds of each group; the ends equal the mean where there is no interval."""
    intervals = {}
    for key, values in groups:
        mean, low, high = over_seeds(values)
        intervals[key] = (mean, low, high) if np.isfinite(low) else (mean, mean, mean)
    return pd.DataFrame.from_dict(intervals, orient="index", columns=["mean", "low", "high"])


def _points(ax: Axes, x: Any, intervals: pd.DataFrame, **look: Any) -> None:
    """Plot means with their intervals."""
    ends = np.array([intervals["mean"] - intervals["low"], intervals["high"] - intervals["mean"]])
    ax.errorbar(x, intervals["mean"], ends, **{"lw": 0.9, "elinewidth": 0.7, "ms": 3.5, "zorder": 3} | look)


def _error_axis(ax: Axes) -> None:
    """Set a logarithmic axis of errors with plain numbers. Intervals can reach 0, which it cannot show."""
    lines = [y for line in ax.lines for y in np.asarray(line.get_ydata(), dtype=float) if y > 0]
    ax.set(ylabel="test error at the end", yscale="log", ylim=(min(lines) / 2, 1.05))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _by_rate(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the test error of Adam and 2-Adam against the learning rate."""
    for name, runs, look in _optimizers(table):
        intervals = _intervals(runs.groupby("lr")["error"])
        label = f"$k$-Adam {name}" if name in SHIFTS else name
        _points(ax, intervals.index * 1.02 ** SHIFTS.get(name, 0.0), intervals, label=label, **look)
    ax.set(xlabel=r"learning rate $\eta$", xscale="log", title=TITLES[table["norm"].iloc[0]])
    _error_axis(ax)


def _by_step_size(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the same test error against the size of the steps."""
    for _, runs, look in _optimizers(table):
        size = (runs["lr"] * runs["update_rms"]).groupby(runs["lr"]).mean()
        _points(ax, size, _intervals(runs.groupby("lr")["error"]), **look)
    ax.set(
        xlabel=r"step size $\eta\,\times$ r.m.s. of the update", xscale="log", title="the errors of (a), by step size"
    )
    _error_axis(ax)


def _gains(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the gain of 2-Adam over Adam at the same learning rate (K1), and with Adam's rate raised (K6).

    Beyond the rates of K1, losses of up to the whole accuracy would hide the gains; panel (a) shows these rates.
    """
    compared = pairs(table)
    compared = compared[compared["lr"] <= max(RATES)]
    for strategy, look in style.STRATEGIES.items():
        own = compared[compared["strategy"] == strategy]
        for column, fill, line in (("gain", look["color"], "-"), ("raised_gain", "w", ":")):
            # One seed beyond Adam's learning rates leaves the others without a comparison.
            runs = own.groupby("lr").filter(lambda rows, column=column: rows[column].notna().all())
            if len(runs):
                intervals = _intervals(runs.groupby("lr")[column])
                _points(ax, intervals.index * 1.05 ** SHIFTS[strategy], intervals, mfc=fill, ls=line, **look)
    for fill, label in (("0.4", "equal rates"), ("w", "equal steps")):
        ax.plot([], [], "o", ms=3.5, color="0.4", mfc=fill, label=label)
    ax.legend(loc="upper right", handletextpad=0.2)
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"learning rate $\eta$ of 2-Adam", xscale="log")
    ax.set(ylabel="gain in accuracy over Adam", title="gain of the second stage, network of (a)")


def _by_stages(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the test error against k, at the learning rate at which all k are trained."""
    larger = table.loc[table["k"] > 2, "lr"]
    table = table[table["lr"].isin(larger if len(larger) else table.loc[table["k"] == 2, "lr"].head(1))]
    networks = sorted(table["norm"].unique())
    for norm in networks:
        runs, line = table[table["norm"] == norm], "--" if norm else "-"
        for strategy, look in style.STRATEGIES.items():
            intervals = _intervals(runs[(runs["k"] > 1) & (runs["strategy"] == strategy)].groupby("k")["error"])
            if len(intervals):
                fill = {"mfc": "w"} if norm else {}
                _points(ax, intervals.index * 1.015 ** SHIFTS[strategy], intervals, ls=line, **look, **fill)
        _points(ax, [1], _intervals(runs[runs["k"] == 1].groupby("k")["error"]), **ADAM, mfc="w" if norm else "0.15")
        ax.plot(
            [], [], line, marker="o", ms=3.5, color="0.4", mfc="w" if norm else "0.4", label=TITLES[norm].split()[0]
        )
    ks = sorted(table["k"].unique())
    ax.set(xlabel="stages $k$", xscale="log", title=rf"larger $k$, $\eta={table['lr'].iloc[0]:g}$")
    ax.set_xticks(ks, ks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(loc="best", handlelength=2.4, title="normalization layers", title_fontsize=7)
    _error_axis(ax)


def _best_gains(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the gain of 2-Adam over Adam, each at the learning rate that is best on the other seeds (K7)."""
    best = tuned(table).set_index("seed")
    networks = sorted(best["norm"].unique())
    for i, (strategy, look) in enumerate(style.STRATEGIES.items()):
        for norm in networks:
            rows = best[best["norm"] == norm]
            second = rows[(rows["k"] == 2) & (rows["strategy"] == strategy)]["accuracy"]
            gain = (second - rows[rows["k"] == 1]["accuracy"]).dropna()
            if len(gain):
                y = i + (0.14 if norm else -0.14) * (len(networks) > 1)
                ax.plot(gain, np.full(len(gain), y), "o", ms=2, mew=0, color="0.6", zorder=4)
                mean, low, high = over_seeds(gain)
                ends = [[mean - low], [high - mean]] if np.isfinite(low) else None
                ax.errorbar(mean, y, xerr=ends, lw=1.2, ms=4, zorder=3, **look, mfc="w" if norm else look["color"])
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_yticks(range(len(style.STRATEGIES)), list(style.STRATEGIES))
    ax.set_ylim(len(style.STRATEGIES) - 0.5, -0.5)
    ax.set(xlabel="gain in accuracy over Adam", title="each at its own best learning rate")
