"""Figure 2: stable region, growth outside it, growth rate against C, and a recipe that leaves the region (claims S1-S6, S11,
S14, S15)."""

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
VARIANTS = {"rule": (_COLORS[4], "o", "rule"), "floor": (_COLORS[2], "s", "with the floor")}
#: Whether markers are filled, by rank of ε.
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
    rule, floor = (table[table["variant"] == name] for name in VARIANTS)
    _peaks(axes[2, 0], rule, floor)
    _losses(axes[2, 1], rule, floor)
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
        # The dashed line over the solid one, because they nearly coincide.
        look: dict[str, Any] = {"color": style.COLORS[law], "lw": 1.6, "zorder": 3 if law == "paper" else 2}
        ax.plot(boundary, gammas, style.LINES[law], label=name, **look)
    curve = table[table["variant"] == "curve"].drop_duplicates("point")
    ax.plot(curve["beta2"], curve["beta1"], ".", ms=2.5, color=style.COLORS["curve"], label="normal curve, runs")
    for i, (pair, (offset, side)) in enumerate(zip(USUAL_PAIRS, LABELS, strict=True)):
        _mark(ax, pair, *pair, offset, side, label="usual pairs" if i == 0 else None)
    own = table[table["variant"] == "pair"].drop_duplicates(["beta2", "beta1"])
    further = [pair for pair in zip(own["beta2"], own["beta1"], strict=True) if pair not in USUAL_PAIRS]
    for i, pair in enumerate(further):
        _mark(ax, pair, *pair, (0, 6), "center", label="further pairs" if i == 0 else None)
    ax.set(xlim=(0.9, 1), ylim=(0.82, 1), xlabel=r"$\beta$ (beta2)", ylabel=r"$\gamma$ (beta1)", title="stable region")
    ax.legend(loc="lower left", frameon=True, framealpha=0.85, edgecolor="none", handlelength=1.6, borderpad=0.3)


def _mark(
    ax: Axes,
    pair: tuple[float, float],
    x: float,
    y: float,
    offset: Any,
    side: str,
    label: str | None = None,
    **text: Any,
) -> None:
    """Draw the marker of a pair (β, γ) and write its numbers beside it, ``offset`` points away."""
    marker, size = ("*", 7) if pair in USUAL_PAIRS else ("D", 4)
    ax.plot(x, y, marker, ms=size, mec="k", mew=0.5, color="w", clip_on=False, zorder=4, label=label)
    name = f"({pair[0]:g}, {pair[1]:g})"
    ax.annotate(name, (x, y), offset, textcoords="offset points", ha=side, fontsize=6, **text)


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


def _means(table: pd.DataFrame, key: str, column: str) -> pd.DataFrame:
    """Return mean and half width of the 95 % interval over seeds of a column; the interval is empty with too few seeds."""
    levels = [(value, mean_over_seeds(rows[column])) for value, rows in table.groupby(key, sort=True)]
    halves = [np.nan if level.undecided else (level.high - level.low) / 2 for _, level in levels]
    return pd.DataFrame({key: [x for x, _ in levels], "mean": [y.estimate for _, y in levels], "half": halves})


def _rates(ax: Axes, curve: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Draw both measured growth rates against C, both laws over them, and where a hinge fitted to the held rates leaves 0."""
    # Further inside, the same row rarely holds the largest update for two steps.
    repeated = curve[curve.groupby("point")["seed"].transform("nunique") == curve["seed"].nunique()]
    slopes, held = _means(curve, "C", "rate"), _means(repeated, "C", "held_rate")
    look: dict[str, Any] = {"fmt": "o", "lw": 0.8, "mew": 0.8, "mfc": "none", "zorder": 2}
    ax.errorbar(slopes["C"], slopes["mean"], slopes["half"], ms=4.5, color="0.6", label="slope in the window", **look)
    ax.errorbar(held["C"], held["mean"], held["half"], ms=2.5, color=style.COLORS["measured"], label="same row", **look)
    for _, rows in pairs.groupby(["beta2", "beta1"]):
        pair = (float(rows["beta2"].iloc[0]), float(rows["beta1"].iloc[0]))
        _mark(ax, pair, rows["C"].iloc[0], rows["rate"].mean(), (0, -6), "center", va="top", rotation=90)
    laws = curve.drop_duplicates("C").sort_values("C", kind="stable")
    for law, name in (("paper", r"paper: $\max(0,-C/2)$"), ("exact", r"exact: $\max(0,\ln\gamma/\!\sqrt{\beta})$")):
        order = 4 if law == "paper" else 3
        ax.plot(laws["C"], laws[f"rate_{law}"], style.LINES[law], color=style.COLORS[law], label=name, zorder=order)
    top = float(laws["rate_exact"].max())
    rates = boundary_points(curve)
    if len(rates) and len(rates.columns) == ACROSS:
        onset, low, high = onset_interval(rates.columns.to_numpy(dtype=np.float64), rates)
        ax.plot([low, high], [-0.1 * top] * 2, "-", lw=2.5, color=_COLORS[1], solid_capstyle="butt", zorder=4)
        ax.plot(onset, -0.1 * top, "|", ms=7, mew=1.2, color=_COLORS[1], label="onset, 95 % interval", zorder=4)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"$C(\beta,\gamma)$", ylabel="growth rate per step", title="rate against $C$")
    ax.set_ylim(bottom=min(-0.55 * top, ax.get_ylim()[0]))
    # Measurements first; matplotlib lists error bars after lines.
    handles, labels = ax.get_legend_handles_labels()
    listed = sorted(range(len(labels)), key=lambda i: ("slo", "sam", "pap", "exa", "ons").index(labels[i][:3]))
    ax.legend([handles[i] for i in listed], [labels[i] for i in listed], loc="upper right")


def _by_eps(rule: pd.DataFrame) -> list[tuple[pd.DataFrame, float, dict[str, Any]]]:
    """Return for each ε the rule's runs, a factor that keeps markers apart, and their look; the recipe's own ε is filled."""
    styles = style.by_rank("experiments/growth/figure.py: FILLED", FILLED, sorted(rule["eps"].unique()))
    return [
        (rule[rule["eps"] == eps], 0.97 if filled else 1.03, {"fillstyle": "full" if filled else "none", "mew": 0.8})
        for eps, filled in styles.items()
    ]


def _batch_sizes(ax: Axes, rule: pd.DataFrame) -> None:
    """Label the axis of batch sizes."""
    sizes = np.sort(rule["batch_size"].unique())
    ax.set(xscale="log", xlabel="batch size $B$ given to the rule")
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes], rotation=45)
    ax.xaxis.minorticks_off()
    ax.legend(loc="upper left", fontsize=6)


def _peaks(ax: Axes, rule: pd.DataFrame, floor: pd.DataFrame) -> None:
    """Draw the largest update against the batch size, by the recipe and with the floor, and the bounds."""
    for by_rule, shift, look in _by_eps(rule):
        # The floor gives the same pair at all batch sizes at which the rule's C is negative.
        lowered = by_rule.loc[by_rule["C"] < 0, ["batch_size"]].drop_duplicates()
        repaired = floor[floor["eps"] == by_rule["eps"].iloc[0]].drop(columns="batch_size").merge(lowered, how="cross")
        for (color, marker, name), rows in zip(VARIANTS.values(), (by_rule, repaired), strict=True):
            at, label = rows["batch_size"] * shift, rf"{name}, $\epsilon$ = {by_rule['eps'].iloc[0]:g}"
            ax.plot(at, rows["peak"], marker, ms=3.5, color=color, label=label, **look)
            middle = rows["peak"].groupby(at).median()
            ax.plot(middle.index, middle, "-", lw=0.8, color=color)
    inside = rule[rule["C"] > 0].drop_duplicates("batch_size").sort_values("batch_size", kind="stable")
    outside = np.sort(rule.loc[rule["C"] < 0, "batch_size"].unique())
    bounds: tuple[tuple[stability.Law, Any, Any, str], ...] = (
        ("exact", inside["batch_size"], inside["bound_exact"], "exact bound"),
        ("paper", outside, np.full(len(outside), floor["bound_paper"].iloc[0]), r"paper's bound, $C\to 0^+$"),
    )
    for law, x, y, name in bounds:
        ax.plot(x, y, style.LINES[law], color=style.COLORS[law], zorder=3, label=name)
    ax.set(yscale="log", ylabel=r"largest update, $\max_n\|u_n\|_\infty$", title="batch-size rule: updates")
    ax.yaxis.minorticks_off()
    _batch_sizes(ax, rule)


def _losses(ax: Axes, rule: pd.DataFrame, floor: pd.DataFrame) -> None:
    """Draw the recipe's test loss minus that with the floor, same seed and ε, against the batch size."""
    color, marker, _ = VARIANTS["rule"]
    reference = floor[["seed", "eps", "test_loss"]].rename(columns={"test_loss": "reference"})
    rule = rule.merge(reference, on=["seed", "eps"])
    rule["difference"] = rule["test_loss"] - rule["reference"]
    for rows, shift, look in _by_eps(rule):
        means = _means(rows, "batch_size", "difference")
        label = rf"rule, $\epsilon$ = {rows['eps'].iloc[0]:g}"
        at = means["batch_size"] * shift
        ax.plot(rows["batch_size"] * shift, rows["difference"], ".", ms=2, color="0.6", zorder=1)
        ax.errorbar(at, means["mean"], means["half"], fmt=marker, ms=4, lw=0.8, color=color, label=label, **look)
    ax.axhline(0, color=VARIANTS["floor"][0], lw=1, label="with the floor")
    ax.set(ylabel="test loss minus the floor's (nats)", title="batch-size rule: loss")
    _batch_sizes(ax, rule)
