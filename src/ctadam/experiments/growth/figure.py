"""Figure 2: stable region, growth outside it, growth rate against C, and a recipe that leaves the region (claims S1-S6, S11,
S14, S15)."""

from collections.abc import Sequence
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
from ctadam.analysis.rules import mean_over_seeds
from ctadam.experiments.growth.claims import ACROSS, USUAL_PAIRS, boundary_points, onset_interval
from ctadam.storage.store import read_joined, read_runs
from ctadam.storage.tables import sort_rows
from ctadam.theory import stability

_COLORS = sns.color_palette("colorblind").as_hex()
#: Offset in points and horizontal alignment of the labels of the usual pairs.
LABELS = [((0, -9), "right"), ((-6, -2), "right"), ((0, 6), "center"), ((0, 6), "center")]
#: Colour, marker and name of the runs with a batch-size rule, by variant.
VARIANTS = style.Table(
    "experiments/growth/figure.py: VARIANTS",
    {"rule": (_COLORS[4], "o", "rule"), "floor": (_COLORS[2], "s", "with the floor")},
)
#: Face colour by rank of ε: the recipe's own is filled.
FILLED = (True, False)


def draw(results: str | Path) -> Figure:
    """Return the figure.

    Args:
        results: directory of one scale, with the runs, predictions and measurements of ``growth``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs, table = read_runs(results, "growth"), read_joined(results, "growth")
    curve = table[table["variant"] == "curve"]
    # One line per point; lines are drawn in this order, so the fastest-growing runs come last and stay visible.
    first = sort_rows(curve[curve["seed"] == curve["seed"].min()], ["C", "run"], ascending=[False, True])
    coefficient = first.set_index("run")["C"]
    colors, norm = style.coefficient_scale(min(curve["C"].min(), -0.05), max(curve["C"].max(), 0.25))

    figure, axes = plt.subplots(3, 2, figsize=(style.TEXT_WIDTH, 7.9), layout="constrained")
    _region(axes[0, 0], table, colors, norm)
    _series(axes[0, 1], runs, coefficient, colors, norm, "update_max")
    axes[0, 1].set(title="largest update", ylabel=r"$\|u_n\|_\infty$", xlabel="step $n$")
    _rates(axes[1, 0], curve, table[table["variant"] == "pair"])
    _series(axes[1, 1], runs, coefficient, colors, norm, "displacement_max")
    axes[1, 1].set(
        title="largest change of a parameter", ylabel=r"$\|\theta_{n+1}-\theta_0\|_\infty$", xlabel="step $n$"
    )
    _rule(axes[2, 0], table, "peak")
    axes[2, 0].set(ylabel=r"largest update, $\max_n\|u_n\|_\infty$", title="batch-size rule: updates", yscale="log")
    axes[2, 0].yaxis.minorticks_off()
    _rule(axes[2, 1], table, "test_loss")
    axes[2, 1].set(ylabel="test loss (nats per token)", title="batch-size rule: loss")
    low, high = norm.vmin or 0.0, norm.vmax or 0.0
    ticks = [low, low / 2, 0, high / 2, high]
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes[:2], shrink=0.6, aspect=35, extend="both", ticks=ticks)
    bar.set_label(r"$C(\beta,\gamma)$: stable above 0")
    bar.ax.yaxis.set_major_formatter("{x:.3g}")
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _region(ax: Axes, table: pd.DataFrame, colors: Colormap, norm: Normalize) -> None:
    """Draw C over the commonly used part of the unit square, both boundaries, and the pairs of the runs."""
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
    curve = table[table["variant"] == "curve"].drop_duplicates("point")
    ax.plot(curve["beta2"], curve["beta1"], ".", ms=2.5, color=style.COLORS["curve"], label="normal curve, runs")
    look: dict[str, Any] = {"ls": "none", "mec": "k", "mew": 0.5, "color": "w", "clip_on": False, "zorder": 4}
    for i, ((b, g), (offset, side)) in enumerate(zip(USUAL_PAIRS, LABELS, strict=True)):
        ax.plot(b, g, marker="*", ms=7, label="usual pairs" if i == 0 else None, **look)
        ax.annotate(f"({b:g}, {g:g})", (b, g), offset, textcoords="offset points", ha=side, fontsize=6)
    own = table[table["variant"] == "pair"].drop_duplicates(["beta1", "beta2"])
    own = own[[pair not in USUAL_PAIRS for pair in zip(own["beta2"], own["beta1"], strict=True)]]
    if len(own):
        ax.plot(own["beta2"], own["beta1"], marker="D", ms=4, label="further pairs", **look)
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
        steps = runs[runs["run"] == run].dropna(subset=[column])
        ax.plot(steps["step"], steps[column], lw=0.6, color=colors(norm(coefficient[run])))
    ax.set_yscale("log")
    ax.set_xlim(0, runs.loc[runs["run"].isin(coefficient.index), "step"].max())


def _means(table: pd.DataFrame, keys: Sequence[str], column: str) -> pd.DataFrame:
    """Return mean and half width of the 95 % interval over seeds of a column, 0 where there are too few seeds."""
    rows = []
    for key, group in table.groupby(list(keys), sort=True):
        level = mean_over_seeds(group[column])
        half = 0.0 if level.undecided else (level.high - level.low) / 2
        rows.append(dict(zip(keys, key, strict=True)) | {"mean": level.estimate, "half": half})
    return pd.DataFrame(rows, columns=[*keys, "mean", "half"])


def _rates(ax: Axes, curve: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Draw both measured growth rates against C, both laws over them, and where a hinge fitted to the held rates leaves 0."""
    look: dict[str, Any] = {"fmt": "o", "lw": 0.8, "mew": 0.8, "mfc": "none", "zorder": 2}
    slopes, held = (_means(curve, ["point", "C"], column) for column in ("rate", "held_rate"))
    ax.errorbar(slopes["C"], slopes["mean"], slopes["half"], ms=4.5, color="0.6", label="slope in the window", **look)
    ax.errorbar(held["C"], held["mean"], held["half"], ms=2.5, color=style.COLORS["measured"], label="same row", **look)
    for (beta2, beta1, c), rows in pairs.groupby(["beta2", "beta1", "C"]):
        rate = float(rows["held_rate"].mean())
        ax.plot(c, rate, "*", ms=7, mec="k", mew=0.5, color="w", zorder=4)
        ax.annotate(
            f"({beta2:g}, {beta1:g})", (c, rate), (0, 6), textcoords="offset points", ha="left", fontsize=5, rotation=60
        )
    c = np.sort(curve["C"].unique())
    exact = curve.drop_duplicates("C").set_index("C").loc[c]
    for law, name in (("paper", r"paper: $\max(0,-C/2)$"), ("exact", r"exact: $\max(0,\ln\gamma/\!\sqrt{\beta})$")):
        ax.plot(c, exact[f"rate_{law}"], style.LINES[law], color=style.COLORS[law], label=name, zorder=3)
    rates = boundary_points(curve)
    if len(rates) and len(rates.columns) == ACROSS:
        onset, low, high = onset_interval(rates.columns.to_numpy(dtype=np.float64), rates)
        y = -0.08 * curve["rate_exact"].max()
        ax.plot([low, high], [y, y], "-", lw=2.5, color=_COLORS[1], solid_capstyle="butt", zorder=4)
        ax.plot(onset, y, "|", ms=7, mew=1.2, color=_COLORS[1], label="onset, 95 % interval", zorder=4)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"$C(\beta,\gamma)$", ylabel="growth rate per step", title="rate against $C$")
    ax.legend(loc="upper right")


def _rule(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw a measurement against the batch size for which the recipe sets β, by the recipe and with the floor."""
    rule, floor = (table[table["variant"] == name] for name in VARIANTS)
    sizes = np.sort(rule["batch_size"].unique())
    styles = style.by_rank("experiments/growth/figure.py: FILLED", FILLED, sorted(rule["eps"].unique()))
    for eps, filled in styles.items():
        for variant, rows in (("rule", rule), ("floor", floor)):
            color, marker, name = VARIANTS[variant]
            rows = rows[rows["eps"] == eps]
            if variant == "floor":
                # Its β is the same at all batch sizes at which the rule's is smaller.
                outside = np.sort(rule.loc[(rule["eps"] == eps) & (rule["C"] < 0), "batch_size"].unique())
                rows = pd.concat([rows.assign(batch_size=size) for size in outside])
            shift = 0.97 if filled else 1.03
            look: dict[str, Any] = {"ms": 3.5, "mew": 0.8, "color": color, "mfc": color if filled else "w"}
            ax.plot(rows["batch_size"] * shift, rows[column], marker, label=rf"{name}, $\epsilon$ = {eps:g}", **look)
            means = (
                rows.groupby("batch_size")[column].mean()
                if column == "test_loss"
                else rows.groupby("batch_size")[column].median()
            )
            ax.plot(means.index * shift, means, "-", lw=0.8, color=color, alpha=1.0 if filled else 0.5)
    if column == "peak":
        inside = rule[rule["C"] > 0].drop_duplicates("batch_size").sort_values("batch_size")
        ax.plot(
            inside["batch_size"],
            inside["bound_exact"],
            style.LINES["exact"],
            color=style.COLORS["exact"],
            zorder=3,
            label="exact bound",
        )
        if len(floor):
            outside = sizes[sizes > inside["batch_size"].max()] if len(inside) else sizes
            bound = floor["bound_paper"].iloc[0]
            ax.plot(
                outside,
                [bound] * len(outside),
                style.LINES["paper"],
                color=style.COLORS["paper"],
                zorder=3,
                label=r"paper's bound, $C\to 0^+$",
            )
    ax.set(xscale="log", xlabel="batch size $B$ given to the rule")
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
    ax.xaxis.minorticks_off()
    ax.legend(loc="upper left", fontsize=6)
