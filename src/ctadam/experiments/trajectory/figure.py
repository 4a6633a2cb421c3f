"""Figure 1: how closely the differential equations track the optimizer (paper, section 2; claims T1, T2, T4-T6)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctadam.analysis import style
from ctadam.experiments.trajectory.claims import KERNELS, crossings
from ctadam.experiments.trajectory.measure import START
from ctadam.storage.store import read_joined, read_runs

MODELS = style.Table("experiments/trajectory/figure.py: MODELS", {"mlp": "MLP", "transformer": "transformer"})
#: Name of each equation (order, kernel), in the order of the legend.
EQUATIONS = style.Table(
    "experiments/trajectory/figure.py: EQUATIONS",
    {
        (1, "paper"): "1st order, paper's kernel",
        (1, "exact"): "1st order, exact kernel",
        (2, "paper"): "2nd order, paper's kernel (the paper's equation)",
        (2, "exact"): "2nd order, exact kernel",
    },
)
PAPERS = style.EQUATIONS[2, "paper"]
MEASURED = "0.35"
#: Looks in the panel of ratios, which belong to a kernel and not to an equation.
RATIOS = {"paper": {"color": "0.15", "marker": "v"}, "exact": {"color": "0.6", "marker": "p"}}


def draw(results: str | Path) -> Figure:
    """Return the figure.

    Args:
        results: directory of one scale, with the runs, predictions and measurements of ``trajectory``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs, table = read_runs(results, "trajectory"), read_joined(results, "trajectory")
    flows = table[table["variant"] == "flow"]
    flows = flows.assign(equation=flows[["order", "kernel"]].apply(tuple, axis=1))
    MODELS.require(flows["model"])
    for looks in (EQUATIONS, style.EQUATIONS):
        looks.require(flows["equation"])
    pictured = runs[runs["weight_0"].notna() & (runs["weight_decay"] == 0)]
    model, plain = pictured["model"].iloc[0], flows[flows["weight_decay"] == 0]

    figure, axes = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 4.7), layout="constrained")
    _weights(axes[0, 0], pictured)
    _r_squared(axes[0, 1], flows[flows["equation"] == (2, "paper")])
    _sharpness(axes[0, 2], runs[runs["model"] == model], table[table["model"] == model])
    for ax, name in zip(axes[1], MODELS, strict=False):
        _errors(ax, plain[plain["model"] == name])
        ax.set_title(f"{MODELS[name]}, step {plain['steps'].max()}")
    style.share_y(axes[1, :2])
    _ratios(axes[1, 2], plain)
    for ax in (axes[0, 1], *axes[1]):
        style.rates_axis(ax, plain["lr"])
    equations = [style.handle(name, **style.EQUATIONS[key]) for key, name in EQUATIONS.items()]
    figure.legend(handles=equations, loc="outside upper center", ncols=2)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _weights(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw single weights: dots for the optimizer, lines for the paper's equation."""
    names = [name for name in map(str, runs) if name.startswith("weight_") and name != "weight_decay"]
    weights = runs.melt(["variant", "step"], names, "weight", "value")
    discrete, equation = (weights[weights["variant"] == variant] for variant in ("discrete", "flow"))
    every = max(1, runs["step"].max() // 20)
    dots = discrete[discrete["step"] % every == 0]
    sns.scatterplot(dots, x="step", y="value", s=9, color=MEASURED, linewidth=0, ax=ax)
    line: dict[str, Any] = {"units": "weight", "estimator": None, "lw": 0.9, "color": PAPERS["color"]}
    sns.lineplot(equation, x="step", y="value", zorder=3, ax=ax, **line)
    title = rf"Adam, {MODELS[runs['model'].iloc[0]]}, $\eta={runs['lr'].iloc[0]:g}$"
    ax.set(xlabel="step $n$", ylabel=r"weight $\theta_n$", title=title)
    ax.margins(x=0)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    handles = [style.handle("optimizer", ls="", marker=".", color=MEASURED)]
    handles += [style.handle("paper's equation", lw=0.9, color=PAPERS["color"])]
    ax.legend(handles=handles, loc="upper left", handlelength=1.2)


def _r_squared(ax: Axes, papers: pd.DataFrame) -> None:
    """Draw 1 − R² of the paper's equation against the learning rate: every seed, and lines through their means (T1, T2)."""
    optimizer = np.where(papers["weight_decay"] == 0, "Adam", "AdamW")
    papers = papers.assign(rest=1 - papers["r2_median"], optimizer=optimizer)
    for (model, name), rows in papers.groupby(["model", "optimizer"]):
        face = PAPERS["color"] if name == "Adam" else "w"
        # Side by side, because the two hardly differ.
        rows = rows.assign(lr=rows["lr"] * (0.94 if name == "Adam" else 1.06))
        ax.plot(rows["lr"], rows["rest"], ls="", ms=3, mfc=face, mew=0.7, **PAPERS)
        line = {"linestyle": style.MODEL_LINES[model], "lw": 0.9, "color": PAPERS["color"]}
        sns.lineplot(rows, x="lr", y="rest", errorbar=None, ax=ax, **line)
    ax.axhline(0.01, color="0.15", lw=0.8, ls=":")
    ax.annotate(
        "$R^2=0.99$",
        (0, 0.01),
        (3, 2),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        fontsize=style.SMALL,
    )
    ax.set(yscale="log", ylabel="$1-R^2$, median over weights", title="paper's equation")
    handles = [style.handle(name, ls="", mfc=face, **PAPERS) for name, face in (("Adam", None), ("AdamW", "w"))]
    handles += [style.handle(name, color=PAPERS["color"], ls=style.MODEL_LINES[key]) for key, name in MODELS.items()]
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
    ax.legend(handles=handles, loc="upper left", ncols=2, handlelength=1.6, columnspacing=1)


def _errors(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the final relative error against the learning rate, geometric mean over seeds with intervals (T4)."""
    good = table[np.isfinite(table["error_end"]) & (table["error_end"] > 0)]
    if len(good):
        style.means(ax, good, "equation", style.EQUATIONS, x="lr", y="error_end", log_scale=True)
    ax.axhline(0.05, color="0.15", lw=0.8, ls=":", zorder=0)
    ax.set_ylabel(r"$\|\theta_{\mathrm{eq}}-\theta_n\|\,/\,\|\theta_n-\theta_0\|$")


def _ratios(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the first-order error over the second-order one with the same kernel, geometric mean over seeds (T5)."""
    errors = table.set_index(["model", "kernel", "lr", "seed", "order"])["error_end"].unstack("order")
    ratios = (errors[1] / errors[2]).rename("ratio").reset_index()
    ratios = ratios[np.isfinite(ratios["ratio"]) & (ratios["ratio"] > 0)]
    ax.set(xscale="log", yscale="log")
    for model, rows in ratios.groupby("model"):
        style.means(ax, rows, "kernel", RATIOS, x="lr", y="ratio", linestyle=style.MODEL_LINES[model])
    ax.axhline(1, color="0.15", lw=0.8, ls=":", zorder=0)
    ticks = [tick for tick in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10) if ax.get_ylim()[0] <= tick <= ax.get_ylim()[1]]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.minorticks_off()
    ax.set(ylabel="error ratio, 1st / 2nd order", title="both models")
    handles = [style.handle(name, **RATIOS[kernel]) for kernel, name in KERNELS.items()]
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
    ax.legend(handles=handles, loc="upper left", ncols=2, columnspacing=0.8, handlelength=1.2, borderaxespad=0)


def _sharpness(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw η times the sharpness along the optimizer's path, the limits, and where each equation leaves (T6).

    Lines are means over seeds, without step 0, at which nothing has been averaged yet. A marker stands on the line where an
    equation leaves: the median over seeds, with a bar from the first to the last. Equations that are above the tolerance at
    `START` in every run have left before it; they stand side by side on the left, at the height of the line at `START`.
    """
    paths = runs[runs["sharpness"].notna() & (runs["step"] > 0)].assign(value=lambda t: t["lr"] * t["sharpness"])
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": style.SMALL, "annotation_clip": False}
    lines: dict[Any, pd.Series] = {lr: rows.groupby("step")["value"].mean() for lr, rows in paths.groupby("lr")}
    for lr, line in lines.items():
        ax.plot(line.index, line, lw=0.9, color=MEASURED)
        place = min(int(np.searchsorted(line.index, START + 5)), len(line) - 1)
        falls = line.iloc[min(place + 1, len(line) - 1)] < line.iloc[place]
        label = rf"$\eta={lr:g}$" if lr == max(lines) else f"{lr:g}"
        x, side = (-4, "right") if place == len(line) - 1 else (4, "left")
        at = (line.index[place], line.iloc[place])
        ax.annotate(label, at, (x, -7 if falls else -3), va="top", ha=side, **text)
    flows = crossings(table, runs)
    # Runs that neither cross nor leave have no place; those that cross and stay are judged at the end of the run.
    flows = flows[(flows["crossed_at"].notna() | (flows["above_from"] >= 0)) & ~flows["lost"]]
    for i, (key, look) in enumerate(style.EQUATIONS.items()):
        size = 5.5 if key[1] == "paper" else 3  # the kernels leave together: one marker inside the other
        marker: dict[str, Any] = {"ms": size, "mfc": "none", "mew": 0.8, "clip_on": False, "zorder": 4, **look}
        for lr, rows in flows[(flows["order"] == key[0]) & (flows["kernel"] == key[1])].groupby("lr"):
            line, left = lines[lr], rows["left_at"]
            if left.max() <= START:
                ax.plot((i + 0.9) * START / 4.6, np.interp(START, line.index, line), ls="", **marker)
                continue
            median = left.median()
            spread = [[median - left.min()], [left.max() - median]]
            ax.errorbar(median, np.interp(median, line.index, line), xerr=spread, ls="", elinewidth=0.8, **marker)
    limits = table[table["variant"] == "flow"].groupby("order")["curvature_limit"].max()
    for order, limit in limits.items():
        ax.axhline(limit, color="0.15", lw=0.8, ls="--")
        name = f"limit,\n{'1st' if order == 1 else '2nd'} order"
        ax.annotate(name, (1, limit), (2, 0), xycoords=ax.get_yaxis_transform(), va="center", **text)
    ax.axvline(START, color="0.8", lw=0.6, zorder=0)
    ax.set(yscale="log", xlabel="step $n$", xlim=(0, runs["step"].max()), title="where the tracking ends")
    low, high = ax.get_ylim()
    ax.set_ylim(0.7 * low, 1.2 * high)  # room for the labels
    ax.set_ylabel(r"$\eta\,\times$ preconditioned sharpness")
