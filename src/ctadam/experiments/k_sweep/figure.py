"""Figure 5: test error of k-Adam against k for four strategies, with and without normalization layers (claims K1, K2)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ctadam.analysis import style
from ctadam.analysis.seeds import over_seeds
from ctadam.experiments.k_sweep.measure import differences
from ctadam.storage.store import read_csv, read_runs

TITLES = style.Table(
    "experiments/k_sweep/figure.py: TITLES", {False: "without normalization layers", True: "with normalization layers"}
)
ADAM: dict[str, Any] = {"color": "0.15", "marker": "*", "ms": 7}


def draw(results: str | Path) -> Figure:
    """Draw the figure from the runs and measurements of ``k_sweep`` in the directory ``results``."""
    runs, table = read_runs(results, "k_sweep"), read_csv(results, "k_sweep", "measurements")
    style.STRATEGIES.require(table["stages"])
    networks = sorted(table["norm"].unique())
    # A square of panels for two networks, a row for one.
    shape, height = ((2, 2), 5.2) if len(networks) > 1 else ((1, 3), 2.9)
    figure, axes = plt.subplots(*shape, figsize=(style.TEXT_WIDTH, height), layout="constrained")
    *by_stages, curves, gains = axes.flat
    for ax, norm in zip(by_stages, networks, strict=True):
        _by_stages(ax, table[table["norm"] == norm])
        ax.set_title(TITLES[norm])
    # The limit follows the means, because intervals over few seeds can reach 0, which a log axis cannot show.
    least = (1 - table.groupby(["norm", "k", "stages"])["accuracy"].mean()).min()
    for ax in by_stages:
        ax.set_ylim(least / 1.5, 1)
    _curves(curves, runs[runs["norm"] == networks[0]], several=len(networks) > 1)
    _gains(gains, table)
    handles, labels = by_stages[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=1.8)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _plain(ax: Axes) -> None:
    """Format the ticks of a logarithmic y-axis as plain numbers."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _by_stages(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the test error after the last step against k.

    The axis is logarithmic, so that errors of a few per cent and collapsed runs are both visible.
    """
    table = table.assign(error=1 - table["accuracy"])
    adam = table.query("k == 1")["error"]
    strategies = list(style.STRATEGIES)
    k = sorted(table["k"].unique())
    mean, low, high = over_seeds(adam)
    if np.isfinite(low):
        ax.axhspan(low, high, color="0.15", alpha=0.12, lw=0)
    ax.axhline(mean, color="0.15", lw=0.8, ls=":")
    ax.plot([1], [mean], ls="none", label="$k=1$: Adam", zorder=4, **ADAM)
    for i, strategy in enumerate(strategies):
        runs = table[(table["stages"] == strategy) & (table["k"] > 1)]
        found = {n: over_seeds(group["error"]) for n, group in runs.groupby("k")}
        if not found:
            continue
        x, means = np.array([*found]), np.array([f[0] for f in found.values()])
        half = np.array([f[2] - f[0] if np.isfinite(f[2]) else 0.0 for f in found.values()])
        look: dict[str, Any] = {"lw": 0.9, "elinewidth": 0.7, "zorder": 3} | style.STRATEGIES[strategy]
        ax.errorbar(x + 0.1 * (i - 1.5), means, half, label=strategy, **look)
    ax.set(xlabel="stages $k$", ylabel="test error at the end", yscale="log", xlim=(0.5, max(k) + 0.5))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(ax)


def _curves(ax: Axes, runs: pd.DataFrame, several: bool) -> None:
    """Plot the test error during training for Adam, k = 2 and the largest k, as means over seeds."""
    runs = runs[runs["test_score"].notna()]
    most = runs["k"].max()

    def line(rows: pd.DataFrame, **look: Any) -> None:
        mean = 1 - rows.groupby("step")["test_score"].mean()
        ax.plot(mean.index + 1, mean, lw=1.0, **look)

    lines = {most: ":", 2: "-"}  # one entry if there is no larger k
    for k, line_style in lines.items():
        for strategy, strategy_look in style.STRATEGIES.items():
            some = runs[(runs["k"] == k) & (runs["stages"] == strategy)]
            if len(some):
                line(some, ls=line_style, ms=3, **strategy_look)
    line(runs[runs["k"] == 1], ls="-", **{**ADAM, "ms": 5}, zorder=4)
    for k, line_style in sorted(lines.items()):
        ax.plot([], [], line_style, color="0.4", lw=1.0, label=f"$k={k}$")
    ax.legend(loc="lower left", handlelength=2.4)
    ax.set(xlabel="step", ylabel="test error", yscale="log")
    _plain(ax)
    ax.set_title("training curves" + (", without normalization" if several else ""))


def _gains(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the accuracy of k = 2 minus that of k = 1 with the same seed."""
    found = differences(table)
    strategies = [s for s in style.STRATEGIES if any(key[1] == s for key in found)]
    networks = sorted({norm for norm, _ in found})
    for norm in networks:
        for i, strategy in enumerate(strategies):
            values = found.get((norm, strategy))
            if values is None or not len(values):
                continue
            y = i + (0.14 if norm else -0.14) * (len(networks) > 1)
            look: dict[str, Any] = {"lw": 1.2, "zorder": 3} | style.STRATEGIES[strategy]
            ax.plot(values, np.full(len(values), y), ".", ms=2.5, mew=0, color="0.6", zorder=1)
            mean, _, high = over_seeds(values)
            half = high - mean if np.isfinite(high) else 0.0
            ax.errorbar(mean, y, xerr=half, mfc="w" if norm else look["color"], **look)
    if len(networks) > 1:
        for fill, label in (("0.4", "without"), ("w", "with normalization layers")):
            ax.plot([], [], "o", color="0.4", mfc=fill, label=label)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handletextpad=0.2, columnspacing=1.0)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_yticks(range(len(strategies)), strategies)
    ax.set_ylim(len(strategies) - 0.5, -0.5)
    ax.set(xlabel="accuracy, $k=2$ minus Adam", title="gain of the second stage")
