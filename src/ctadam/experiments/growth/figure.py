"""Figure 2: stable region, growth outside it, and growth rate against C (paper, section 3; claims S1-S6)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from ctadam.analysis import style
from ctadam.analysis.slopes import half_width
from ctadam.storage.store import read_joined, read_runs
from ctadam.storage.tables import sort_rows
from ctadam.theory import stability

#: Commonly used pairs (β, γ), each with the offset of its label in points and its horizontal alignment.
USUAL: dict[tuple[float, float], tuple[tuple[float, float], str]] = {
    (0.999, 0.9): ((0, -9), "right"),
    (0.99, 0.9): ((-6, -2), "right"),
    (0.95, 0.9): ((0, 6), "center"),
    (0.95, 0.95): ((0, 6), "center"),
}


def draw(results: str | Path) -> Figure:
    """Return the figure.

    Args:
        results: directory of one scale, with the runs, predictions and measurements of ``growth``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs = read_runs(results, "growth")
    runs = runs[runs["variant"] == "curve"]
    table = read_joined(results, "growth").query("variant == 'curve'")
    # Lines are drawn in this order, so the fastest-growing runs come last and stay visible.
    coefficient = sort_rows(table, ["C", "run"], ascending=[False, True]).set_index("run")["C"]
    colors, norm = style.coefficient_scale(min(table["C"].min(), -0.05), max(table["C"].max(), 0.25))

    figure, axes = plt.subplots(2, 2, figsize=(style.TEXT_WIDTH, 5.4), layout="constrained")
    _region(axes[0, 0], table, colors, norm)
    _series(axes[0, 1], runs, coefficient, colors, norm, "update_max")
    axes[0, 1].set(title="largest update", ylabel=r"$\|u_n\|_\infty$", xlabel="step $n$")
    _rates(axes[1, 0], table)
    _series(axes[1, 1], runs, coefficient, colors, norm, "param_max")
    axes[1, 1].set(title="largest parameter", ylabel=r"$\|\theta_{n+1}\|_\infty$", xlabel="step $n$")
    low, high = norm.vmin or 0.0, norm.vmax or 0.0
    ticks = [low, low / 2, 0, high / 2, high]
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, shrink=0.6, aspect=35, extend="both", ticks=ticks)
    bar.set_label(r"$C(\beta,\gamma)$: stable above 0")
    bar.ax.yaxis.set_major_formatter("{x:.3g}")
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _region(ax: Axes, table: pd.DataFrame, colors: Colormap, norm: Normalize) -> None:
    """Draw C over the commonly used part of the unit square, both boundaries, and the runs' points on the normal curve."""
    beta, gamma = np.meshgrid(np.linspace(0.9, 0.9998, 300), np.linspace(0.82, 0.9998, 300))
    c = stability.stability_coefficient(beta1=gamma, beta2=beta)
    assert norm.vmin is not None and norm.vmax is not None  # `style.coefficient_scale` sets both
    levels = np.concatenate([np.linspace(norm.vmin, 0, 6), np.linspace(0, norm.vmax, 6)[1:]])
    filled = ax.contourf(beta, gamma, c, levels, cmap=style.paler(colors), norm=norm, extend="both")
    filled.set_edgecolor("face")  # avoids hairlines between the levels in PDF viewers
    gammas = np.linspace(0.82, 0.9998, 300)
    laws: tuple[tuple[stability.Law, str], ...] = (("paper", r"paper: $C=0$"), ("exact", r"exact: $\gamma^2=\beta$"))
    for law, name in laws:
        boundary = stability.boundary_beta2(beta1=gammas, law=law)
        ax.plot(boundary, gammas, style.LINES[law], color=style.COLORS[law], lw=1.6, label=name)
    once = table.drop_duplicates("point")
    ax.plot(once["beta2"], once["beta1"], ".", ms=2.5, color=style.COLORS["curve"], label="normal curve, runs")
    for i, ((b, g), (offset, side)) in enumerate(USUAL.items()):
        look: dict[str, Any] = {"ms": 7, "mec": "k", "mew": 0.5, "color": "w", "clip_on": False, "zorder": 4}
        ax.plot(b, g, "*", label="usual pairs" if i == 0 else None, **look)
        ax.annotate(f"({b:g}, {g:g})", (b, g), offset, textcoords="offset points", ha=side, fontsize=6)
    ax.set(xlim=(0.9, 1), ylim=(0.82, 1), xlabel=r"$\beta$ (beta2)", ylabel=r"$\gamma$ (beta1)", title="stable region")
    ax.legend(loc="lower left", frameon=True, framealpha=0.85, edgecolor="none", handlelength=1.6, borderpad=0.3)


def _series(
    ax: Axes, runs: pd.DataFrame, coefficient: pd.Series, colors: Colormap, norm: Normalize, column: str
) -> None:
    """Draw one line per run, coloured by C.

    Args:
        ax: the panel.
        runs: raw table with one row per step.
        coefficient: C of each run, indexed by run, in drawing order.
        colors, norm: colour scale of C.
        column: the column of ``runs`` to draw.
    """
    for run in coefficient.index:
        steps = runs[runs["run"] == run]
        ax.plot(steps["step"], steps[column], lw=0.6, color=colors(norm(coefficient[run])))
    ax.set_yscale("log")
    ax.set_xlim(0, runs["step"].max())


def _rates(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the measured growth rate against C, and both laws over it."""
    table = sort_rows(table, ["C", "run"])
    look = {"fmt": "o", "ms": 3, "mfc": "none", "lw": 0.8, "mew": 0.8, "color": style.COLORS["measured"], "zorder": 2}
    half = half_width(table["rate_se"], table["rate_df"])
    ax.errorbar(table["C"], table["rate"], half, label="measured, 95 % interval", **look)
    for law, name in (("exact", r"exact: $\max(0,\ln\gamma/\!\sqrt{\beta})$"), ("paper", r"paper: $\max(0,-C/2)$")):
        ax.plot(table["C"], table[f"rate_{law}"], style.LINES[law], color=style.COLORS[law], label=name, zorder=3)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"$C(\beta,\gamma)$", ylabel="growth rate per step", title="rate against $C$")
    handles, labels = ax.get_legend_handles_labels()
    order = [labels.index(next(x for x in labels if x.startswith(word))) for word in ("measured", "paper", "exact")]
    ax.legend([handles[i] for i in order], [labels[i] for i in order], loc="upper right")
