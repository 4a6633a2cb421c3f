"""Figure 5: k-Adam by learning rate, strategy and number of stages (claims K1, K2, K6, K7)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctadam.analysis import style
from ctadam.experiments.k_sweep.claims import RATES
from ctadam.experiments.k_sweep.measure import pairs, tuned
from ctadam.storage.store import read_csv

#: Networks, by the column ``norm``: name, and colour of the marker's face; None is the colour of the strategy.
NETWORKS = style.Table(
    "experiments/k_sweep/figure.py: NETWORKS",
    {False: ("without normalization layers", None), True: ("with normalization layers", "w")},
)
ADAM = {"Adam": {"color": "0.15", "marker": "X"}}


def draw(results: str | Path) -> Figure:
    """Draw the figure from the measurements of ``k_sweep`` in the directory ``results``."""
    table = read_csv(results, "k_sweep", "measurements")
    style.STRATEGIES.require(table["strategy"])
    NETWORKS.require(table["norm"])
    optimizer = table["strategy"].where(table["k"] > 1, "Adam")
    table = table.assign(error=1 - table["accuracy"], optimizer=optimizer)
    networks = dict(list(table.groupby("norm")))
    plain = pairs(next(iter(networks.values())))
    # Beyond the rates of K1, losses of up to the whole accuracy would hide the gains; panel (a) shows these rates.
    plain = plain[plain["lr"] <= max(RATES)]

    figure, grid = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 4.4), layout="constrained")
    for ax, (norm, rows) in zip(grid[0], networks.items(), strict=False):
        _errors(ax, rows[rows["k"] <= 2], "lr", dodge=0)
        ax.set(xlabel=r"learning rate $\eta$", title=NETWORKS[norm][0])
    _by_stages(grid[0, 2], table)
    _gains(grid[1, 0], plain, "gain", "at equal learning rates (K1)")
    _gains(grid[1, 1], plain, "raised_gain", "at equal step sizes (K6)")
    _tuned_gains(grid[1, 2], tuned(table))
    looks = ADAM | {f"$k$-Adam {name}": look for name, look in style.STRATEGIES.items()}
    style.share_y(grid[0])
    style.share_y(grid[1, :2])
    handles = [style.handle(name, **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    style.label_panels(grid.flat)
    sns.despine(figure)
    return figure


def _errors(ax: Axes, table: pd.DataFrame, x: str, **options: Any) -> None:
    """Plot the mean test error of each optimizer. The axis is linear, because intervals can reach 0."""
    ax.set_xscale("log")
    style.means(ax, table, "optimizer", style.STRATEGIES | ADAM, x=x, y="error", **options)
    ax.set(ylabel="test error", ylim=(min(0, ax.get_ylim()[0]), None))


def _by_stages(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the test error against k, at the learning rate at which all k are trained."""
    larger = table.loc[table["k"] > 2, "lr"]
    table = table[table["lr"].isin(larger if len(larger) else table.loc[table["k"] == 2, "lr"].head(1))]
    for norm, rows in table.groupby("norm"):
        name, face = NETWORKS[norm]
        _errors(ax, rows, "k", linestyle="--" if norm else "-", markerfacecolor=face)
        label = name.removesuffix(" layers")
        ax.plot([], [], "--o" if norm else "-o", ms=3.5, lw=1, color="0.4", mfc=face, label=label)
    ks = sorted(table["k"].unique())
    ax.set(xlabel="number of stages $k$", title=rf"larger $k$ (K2), $\eta={table['lr'].iloc[0]:g}$")
    ax.set_xticks(ks, ks)
    ax.minorticks_off()
    ax.legend(loc="upper left")


def _gains(ax: Axes, compared: pd.DataFrame, column: str, title: str) -> None:
    """Plot the gain of 2-Adam over Adam against its learning rate, without the rates that lack a seed's comparison."""
    compared = compared[compared[column].notna().groupby([compared["strategy"], compared["lr"]]).transform("all")]
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    style.means(ax, compared, "strategy", style.STRATEGIES, x="lr", y=column, log_scale=(True, False))
    ax.set(xlabel=r"learning rate $\eta$ of 2-Adam", ylabel="gain in accuracy over Adam", title=title)


def _tuned_gains(ax: Axes, best: pd.DataFrame) -> None:
    """Plot the gain of 2-Adam over Adam, each at the learning rate that is best on the other seeds (K7)."""
    adam = best[best["k"] == 1].set_index(["norm", "seed"])["accuracy"].rename("adam")
    gains = best[best["k"] == 2].join(adam, on=["norm", "seed"])
    gains["gain"] = gains["accuracy"] - gains["adam"]
    names = list(style.STRATEGIES)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    for norm, rows in gains.groupby("norm"):
        rows = rows.assign(place=rows["strategy"].map(names.index) + (0.17 if norm else -0.17))
        ax.plot(rows["gain"], rows["place"], "o", ms=2, mew=0, color="0.65")
        look = {"linestyle": "none", "markerfacecolor": NETWORKS[norm][1]}
        style.means(ax, rows, "strategy", style.STRATEGIES, x="gain", y="place", orient="y", **look)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlabel="gain in accuracy over Adam", ylabel="", title="at tuned rates (K7)")
