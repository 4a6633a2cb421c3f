"""Figures 2, 10 and 11: stable region and growth rate, growth during training, and a batch-size rule for β.

Figure 2 shows claims S3-S5 and S11, figure 10 claims S1, S2 and S6, figure 11 claims S14 and S15.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ctadam.analysis import style
from ctadam.experiments.growth.claims import ACROSS, USUAL_PAIRS, boundary_points, onset_interval
from ctadam.storage.store import read_joined, read_runs
from ctadam.storage.tables import sort_rows
from ctadam.theory import stability

_COLORS = sns.color_palette("colorblind").as_hex()
LAWS: tuple[tuple[stability.Law, str, str], ...] = (
    ("exact", r"exact: $\gamma^2=\beta$", r"exact: $\ln\gamma/\!\sqrt{\beta}$"),
    ("paper", r"paper: $C=0$", "paper: $-C/2$"),
)
#: Colour and marker of the runs with a batch-size rule, by variant, and their names.
VARIANTS = {"rule": {"color": _COLORS[4], "marker": "o"}, "floor": {"color": _COLORS[2], "marker": "s"}}
NAMES = {"rule": "batch-size rule", "floor": r"rule with floor under $\beta$"}
#: Faces of the markers, by rank of ε; None is the variant's colour.
FACES = (None, "w")
#: Offset in points and horizontal alignment of the labels of the usual pairs.
LABELS = [((0, -11), "center"), ((0, -11), "center"), ((0, -11), "center"), ((0, 6), "center")]
#: Number of runs in figure 10 over which the predicted growth is drawn.
PREDICTED = 3


def draw(results: str | Path) -> Figure:
    """Return figure 2.

    Args:
        results: directory of one scale, with the runs, predictions and measurements of ``growth``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    table = read_joined(results, "growth")
    figure, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 3.1), layout="constrained")
    _region(axes[0], table)
    _rates(axes[1], table[table["variant"] == "curve"], table[table["variant"] == "pair"])
    style.label_panels(axes)
    sns.despine(figure)
    return figure


def draw_growth(results: str | Path) -> Figure:
    """Return figure 10, from the same results."""
    runs, table = read_runs(results, "growth"), read_joined(results, "growth")
    curve = table[table["variant"] == "curve"]
    # One line per point; lines are drawn in this order, so the fastest-growing runs come last and stay visible.
    first = sort_rows(curve[curve["seed"] == curve["seed"].min()], ["C", "run"], ascending=[False, True])
    figure, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 2.7), layout="constrained")
    norm, colors = Normalize(min(first["C"].min(), -0.01), 0), sns.color_palette("flare_r", as_cmap=True)
    for ax, column in zip(axes, ("update_max", "displacement_max"), strict=True):
        _series(ax, runs, first, column, lambda c: colors(norm(c)) if c < 0 else "0.75")
    axes[0].set(title="largest update", ylabel=r"$\|u_n\|_\infty$")
    axes[1].set(title="largest change of a parameter", ylabel=r"$\|\theta_{n+1}-\theta_0\|_\infty$")
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, aspect=30)
    bar.set_label(r"$C(\beta,\gamma)$ of runs outside the region")
    handles = [style.handle(r"inside, $C>0$", color="0.75")]
    handles += [style.handle(r"predicted growth, rate $\ln\gamma/\!\sqrt{\beta}$", color="k", ls="--", lw=0.9)]
    axes[0].legend(handles=handles, loc="upper left")
    style.label_panels(axes)
    sns.despine(figure)
    return figure


def draw_batch_size_rule(results: str | Path) -> Figure:
    """Return figure 11, from the same results."""
    table = read_joined(results, "growth")
    rule, floor = (table[table["variant"] == name] for name in VARIANTS)
    faces = style.by_rank("experiments/growth/figure.py: FACES", FACES, sorted(rule["eps"].unique()))
    # The floor gives the same pair at all batch sizes at which the rule's C is negative.
    lowered = rule.loc[rule["C"] < 0, ["batch_size", "eps"]].drop_duplicates()
    runs = pd.concat([rule, floor.drop(columns="batch_size").merge(lowered, on="eps")])
    reference = floor[["seed", "eps", "test_loss"]].rename(columns={"test_loss": "reference"})
    paired = rule.merge(reference, on=["seed", "eps"])
    paired["difference"] = paired["test_loss"] - paired["reference"]

    figure, axes = plt.subplots(1, 3, figsize=(style.TEXT_WIDTH, 2.9), layout="constrained")
    for ax, rows, column in zip(axes, (runs, runs, paired), ("peak", "test_loss", "difference"), strict=True):
        ax.set(xscale="log", yscale="log" if column == "peak" else "linear")
        for i, (eps, face) in enumerate(faces.items()):
            own = rows[rows["eps"] == eps]
            own = own.assign(batch_size=own["batch_size"] * 1.08**i)  # beside those with the first ε
            look = {"linestyle": "-" if face is None else "--", "markerfacecolor": face}
            style.means(ax, own, "variant", VARIANTS, x="batch_size", y=column, **look)
        sizes = np.sort(rule["batch_size"].unique())
        ax.set_xticks(sizes, [f"{size:g}" for size in sizes], rotation=45)
        ax.xaxis.minorticks_off()
        ax.set_xlabel("batch size $B$ given to the rule")
    _bounds(axes[0], rule, floor)
    axes[0].set(ylabel=r"largest update, $\max_n\|u_n\|_\infty$", title="largest update (S14)")
    axes[1].set(ylabel="test loss (nats)", title="test loss")
    axes[2].axhline(0, color=VARIANTS["floor"]["color"], lw=1)
    axes[2].set(ylabel="test loss, rule minus floor (nats)", title="same seeds (S15)")
    handles = [style.handle(NAMES[name], **look) for name, look in VARIANTS.items()]
    handles += [
        style.handle(rf"$\epsilon$ = {eps:g}", color="0.4", marker="o", mfc=face, ls="-" if face is None else "--")
        for eps, face in faces.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    style.label_panels(axes)
    sns.despine(figure)
    return figure


def _region(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the stable region with both boundaries, the pairs in common use, the batch-size rule and the pairs of the runs.

    The axes are logarithmic in 1 − β and 1 − γ, which are one over the averages' lengths.
    """
    rule = table[table["variant"] == "rule"].drop_duplicates("batch_size").sort_values("batch_size", kind="stable")
    floor = table[table["variant"] == "floor"].drop_duplicates("beta2")
    own = table[table["variant"] == "pair"].drop_duplicates(["beta2", "beta1"])
    curve = table[table["variant"] == "curve"].drop_duplicates("point")
    betas = [*rule["beta2"], *own["beta2"], 0.75]
    left, right, bottom, top = 1 - min(betas) + 0.05, 3e-4, 0.25, 6e-3
    gamma = 1 - np.geomspace(bottom, top, 200)
    ax.fill_betweenx(1 - gamma, 1 - stability.boundary_beta2(beta1=gamma, law="exact"), left, color="#f6ddd5", lw=0)
    for law, name, _ in LAWS:
        boundary = stability.boundary_beta2(beta1=gamma, law=law)
        ax.plot(1 - boundary, 1 - gamma, style.LINES[law], color=style.COLORS[law], lw=1.4, label=name)
    ax.plot(1 - curve["beta2"], 1 - curve["beta1"], ".", ms=2.5, color="0.5", label="pairs of (b)")
    ax.plot(1 - rule["beta2"], 1 - rule["beta1"], lw=0.8, **VARIANTS["rule"], label=NAMES["rule"], ms=4)
    ax.plot(1 - floor["beta2"], 1 - floor["beta1"], ls="", **VARIANTS["floor"], label=NAMES["floor"], ms=4, zorder=4)
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": style.SMALL}
    ends: Any = rule.iloc[[0, -1]].itertuples()
    for row, side in zip(ends, ("right", "left"), strict=True):
        ax.annotate(f"$B={row.batch_size:g}$", (1 - row.beta2, 1 - row.beta1), (0, -12), ha=side, **text)
    for pair, (offset, side) in zip(USUAL_PAIRS, LABELS, strict=True):
        _mark(ax, pair, 1 - pair[0], 1 - pair[1])
        ax.annotate(f"({pair[0]:g}, {pair[1]:g})", (1 - pair[0], 1 - pair[1]), offset, ha=side, **text)
    for pair in zip(own["beta2"], own["beta1"], strict=True):
        if pair not in USUAL_PAIRS:
            _mark(ax, pair, 1 - pair[0], 1 - pair[1])
            ax.annotate(f"({pair[0]:g}, {pair[1]:g})", (1 - pair[0], 1 - pair[1]), (0, 6), ha="center", **text)
    ax.plot([], [], "*", ms=7, mec="k", mew=0.5, color="w", label=r"pairs $(\beta,\gamma)$ in common use")
    ax.text(0.02, 0.98, "updates\ncan grow", transform=ax.transAxes, va="top")
    ax.text(0.98, 0.04, "updates are bounded", transform=ax.transAxes, ha="right")
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top), title="stable region")
    ax.set(xlabel=r"$\beta$ (beta2)", ylabel=r"$\gamma$ (beta1)")
    for axis, ticks in ((ax.xaxis, (0.8, 0.9, 0.95, 0.98, 0.99, 0.999)), (ax.yaxis, (0.8, 0.9, 0.95, 0.98, 0.99))):
        axis.set_ticks([1 - tick for tick in ticks], [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    ax.legend(loc="upper right", handlelength=1.6, labelspacing=0.3, borderaxespad=0)


def _mark(ax: Axes, pair: tuple[float, float], x: float, y: float) -> None:
    """Draw the marker of a pair (β, γ): a star if it is in common use."""
    marker, size = ("*", 7) if pair in USUAL_PAIRS else ("D", 4)
    ax.plot(x, y, marker, ms=size, mec="k", mew=0.5, color="w", zorder=5)


def _rates(ax: Axes, curve: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Draw both measured growth rates against C, both laws over them, and where a hinge fitted to the held rates leaves 0."""
    # Further inside, the same row rarely holds the largest update for two steps.
    repeated = curve[curve.groupby("point")["seed"].transform("nunique") == curve["seed"].nunique()]
    looks = {"rate": {"color": "0.6", "marker": "o"}, "held_rate": {"color": style.COLORS["measured"], "marker": "."}}
    for (column, look), rows in zip(looks.items(), (curve, repeated), strict=True):
        rows = rows[np.isfinite(rows[column])].assign(kind=column)
        face: dict[str, Any] = {"markerfacecolor": "w"} if column == "rate" else {}
        style.means(ax, rows, "kind", {column: look}, x="C", y=column, linestyle="none", zorder=2, **face)
    for _, rows in pairs.groupby(["beta2", "beta1"]):
        _mark(ax, (float(rows["beta2"].iloc[0]), float(rows["beta1"].iloc[0])), rows["C"].iloc[0], rows["rate"].mean())
    beta2 = np.linspace(curve["beta2"].min(), curve["beta2"].max(), 1001)
    through: Any = curve[["beta1", "beta2"]].iloc[0].to_dict()
    pair: dict[str, Any] = {"beta1": stability.normal_curve(through=through, beta2=beta2), "beta2": beta2}
    c = stability.stability_coefficient(**pair)
    laws = []
    for law, _, name in LAWS:
        line: dict[str, Any] = {"color": style.COLORS[law], "lw": 1.2, "ls": style.LINES[law]}
        ax.plot(c, stability.growth_rate(**pair, law=law), zorder=4, **line)
        laws.append(style.handle(name, **line))
    top = float(curve["rate_exact"].max())
    handles = [
        style.handle("measured, slope of the maximum", ls="", mfc="w", **looks["rate"]),
        style.handle("measured, same row", ls="", **looks["held_rate"]),
        *laws,
    ]
    across = boundary_points(curve)
    if len(across) and len(across.columns) == ACROSS:
        onset, low, high = onset_interval(across.columns.to_numpy(dtype=np.float64), across)
        ax.plot([low, high], [-0.1 * top] * 2, "-", lw=2.5, color=_COLORS[1], solid_capstyle="butt", zorder=4)
        ax.plot(onset, -0.1 * top, "|", ms=7, mew=1.2, color=_COLORS[1], zorder=4)
        handles.append(style.handle("onset, 95 % interval", ls="", marker="|", mew=1.2, ms=7, color=_COLORS[1]))
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.legend(handles=handles, loc="upper right")
    ax.set(xlabel=r"coefficient $C(\beta,\gamma)$", ylabel=r"growth rate of $\|u_n\|_\infty$ per step")
    ax.set_title("growth rate")


def _series(ax: Axes, runs: pd.DataFrame, points: pd.DataFrame, column: str, color: Any) -> None:
    """Draw one line per run, coloured by C, and the predicted growth over the last steps of the fastest-growing runs.

    Args:
        ax: the panel.
        runs: raw table with one row per step.
        points: joined table of the runs, in drawing order.
        column: the column of ``runs`` to draw.
        color: function from C to the colour.
    """
    steps = runs[runs["run"].isin(points["run"])].dropna(subset=[column])
    order = list(points["run"])
    palette = {run: color(c) for run, c in zip(points["run"], points["C"], strict=True)}
    sns.lineplot(steps, x="step", y=column, hue="run", hue_order=order, palette=palette, lw=0.7, legend=False, ax=ax)
    outside = points[(points["C"] < 0) & points["window_start"].notna()]
    fastest: Any = outside.iloc[:: -max(1, len(outside) // PREDICTED)].itertuples()
    for row in fastest:
        own = steps[(steps["run"] == row.run) & (steps["step"] >= row.window_start) & (steps[column] > 0)]
        growth = row.rate_exact * (own["step"] - own["step"].mean())
        line = np.exp(growth + np.log(own[column]).mean())
        ax.plot(own["step"], _steady(line), "--", color="k", lw=0.9, zorder=3)
    ax.set(yscale="log", xlim=(0, steps["step"].max()), xlabel="step $n$")


def _steady(values: ArrayLike) -> np.ndarray:
    """Round to nine digits, so that pixels do not depend on memory alignment, which affects the last bits of `numpy.exp`."""
    return np.array([float(f"{value:.9g}") for value in np.asarray(values)])


def _bounds(ax: Axes, rule: pd.DataFrame, floor: pd.DataFrame) -> None:
    """Draw the bounds of the largest update: the exact one inside the region, the paper's on its boundary."""
    inside = rule[rule["C"] > 0].drop_duplicates("batch_size").sort_values("batch_size", kind="stable")
    outside = np.sort(rule.loc[rule["C"] < 0, "batch_size"].unique())
    bounds: tuple[tuple[stability.Law, Any, Any, str], ...] = (
        ("exact", inside["batch_size"], inside["bound_exact"], "exact bound"),
        ("paper", outside, np.full(len(outside), floor["bound_paper"].iloc[0]), r"paper's bound, $C\to 0^+$"),
    )
    handles = []
    for law, x, y, name in bounds:
        look = {"ls": style.LINES[law], "color": style.COLORS[law], "lw": 1.2}
        ax.plot(x, y, zorder=4, **look)
        handles.append(style.handle(name, **look))
    ax.yaxis.minorticks_off()
    ax.legend(handles=handles, loc="upper left")
