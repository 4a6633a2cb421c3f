"""Figure 1: how closely the differential equations track the optimizer (paper, section 2; claims T1, T2, T4-T6)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctadam.analysis import style
from ctadam.analysis.seeds import over_seeds
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
        (2, "paper"): "2nd order, paper's kernel",
        (2, "exact"): "2nd order, exact kernel",
    },
)
PAPERS = (2, "paper")
MEASURED = "0.35"
#: Fill of the markers in the panel of ratios, by kernel.
FILLS = style.Table("experiments/trajectory/figure.py: FILLS", {"paper": "0.15", "exact": "w"})


def draw(results: str | Path) -> Figure:
    """Return the figure.

    Args:
        results: directory of one scale, with the runs, predictions and measurements of ``trajectory``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs = read_runs(results, "trajectory")
    table = read_joined(results, "trajectory")
    flows = table[table["variant"] == "flow"]
    MODELS.require(flows["model"])
    EQUATIONS.require(flows[["order", "kernel"]].itertuples(index=False, name=None))
    pictured = runs[runs["weight_0"].notna()]
    decays = sorted(pictured["weight_decay"].unique())
    plain = flows[flows["weight_decay"] == decays[0]]

    figure, axes = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 5.2), layout="constrained")
    for ax, decay in zip(axes[0], (decays[0], decays[-1]), strict=False):
        _weights(ax, pictured[pictured["weight_decay"] == decay])
        name = "Adam" if decay == 0 else f"AdamW, $\\lambda={decay:g}$"
        ax.set_title(f"{name}: {MODELS[pictured['model'].iloc[0]]}")
    _r_squared(axes[0, 2], flows[(flows["order"] == PAPERS[0]) & (flows["kernel"] == PAPERS[1])])
    slopes = _errors(axes[1, 0], plain)
    _ratios(axes[1, 1], plain)
    shown = pictured["model"].iloc[0]
    _sharpness(axes[1, 2], runs[runs["model"] == shown], table[table["model"] == shown])
    axes[1, 2].set_title(f"curvature: {MODELS[shown]}")

    equations = [
        Line2D(
            [],
            [],
            mfc="w",
            label=f"{name} ({', '.join(f'{slopes[m, key]:.2f}' for m in MODELS)})",
            **style.EQUATIONS[key],
        )
        for key, name in EQUATIONS.items()
    ]
    models = [Line2D([], [], color="0.3", ls=style.MODEL_LINES[key], label=name) for key, name in MODELS.items()]
    title = "equation (slopes of ln error on ln $\\eta$ in (d): " + ", ".join(MODELS.values()) + ")"
    look: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "title": title, "title_fontsize": 7}
    figure.legend(handles=[*equations, *models], **look)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _weights(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw single weights: dots for the optimizer, lines for the paper's equation (second order, paper's kernel)."""
    names = [name for name in map(str, runs) if name.startswith("weight_") and name != "weight_decay"]
    discrete, equation = runs[runs["variant"] == "discrete"], runs[runs["variant"] == "flow"]
    every = max(1, len(discrete) // 20)
    for name in names:
        ax.plot(discrete["step"][::every], discrete[name][::every], ".", ms=3, color=MEASURED)
        ax.plot(equation["step"], equation[name], "-", lw=0.9, color=style.EQUATIONS[PAPERS]["color"])
    ax.set(xlabel="step $n$", xlim=(0, runs["step"].max()))
    ax.set_ylabel(rf"weight $\theta_n$, $\eta={runs['lr'].iloc[0]:g}$")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.22 * (high - low))  # room for the legend
    handles = [
        Line2D([], [], ls="", marker=".", ms=4, color=MEASURED, label="optimizer"),
        Line2D([], [], color=style.EQUATIONS[PAPERS]["color"], lw=0.9, label="paper's equation"),
    ]
    ax.legend(handles=handles, loc="upper left", handlelength=1.2, borderaxespad=0.1)


def _r_squared(ax: Axes, papers: pd.DataFrame) -> None:
    """Draw 1 − R² of the paper's equation against the learning rate: every seed, and lines through their means."""
    look: dict[str, Any] = {"color": style.EQUATIONS[PAPERS]["color"], "marker": style.EQUATIONS[PAPERS]["marker"]}
    for (model, decay), rows in papers.groupby(["model", "weight_decay"]):
        fill, shift = (look["color"], 1 / 1.07) if decay == 0 else ("w", 1.07)  # side by side: the two hardly differ
        rows = rows.assign(rest=1 - rows["r2_median"], lr=shift * rows["lr"])
        ax.plot(rows["lr"], rows["rest"], ls="", ms=3, mfc=fill, mew=0.7, **look)
        mean = rows.groupby("lr")["rest"].mean()
        ax.plot(mean.index, mean, style.MODEL_LINES[model], lw=0.9, color=look["color"])
    ax.axhline(0.01, color="0.15", lw=0.8, ls=":")
    _rates(ax, papers)
    ax.set(yscale="log", ylabel="$1-R^2$, median over weights")
    ax.set_title("weight by weight")
    handles = [
        Line2D([], [], ls="", ms=3.5, mfc=fill, mew=0.7, label=name, **look)
        for fill, name in ((look["color"], "Adam"), ("w", "AdamW"))
    ]
    handles += [Line2D([], [], color="0.15", lw=0.8, ls=":", label="$R^2=0.99$")]
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.15)  # room for the legend
    ax.legend(handles=handles, loc="upper left", handlelength=1.2, borderaxespad=0.1)


def _means(rows: pd.DataFrame, column: str) -> Iterator[tuple[float, float, float, float]]:
    """Yield (lr, mean, low, high) of a column over seeds; a single seed's interval is its value."""
    for lr in sorted(rows["lr"].unique()):
        mean, low, high = over_seeds(rows.loc[rows["lr"] == lr, column])
        yield (lr, mean, low, high) if np.isfinite(high - low) else (lr, mean, mean, mean)


def _line(ax: Axes, rows: pd.DataFrame, column: str, model: str, **changes: Any) -> None:
    """Draw exp of the mean over seeds of a column against the learning rate, with its interval; ``changes`` are of the look."""
    lr, mean, low, high = np.array(list(_means(rows, column))).T
    spread = [np.exp(mean) - np.exp(low), np.exp(high) - np.exp(mean)]
    look: dict[str, Any] = {"lw": 1.0, "ms": 3.5, "mfc": "w", "elinewidth": 0.7, "ls": style.MODEL_LINES[model]}
    ax.errorbar(lr, np.exp(mean), spread, **(look | changes))


def _errors(ax: Axes, table: pd.DataFrame) -> dict[tuple[str, tuple[int, str]], float]:
    """Draw the final relative error against the learning rate, geometric mean over seeds with intervals.

    Returns:
        Slope of ln(error) on ln(η), by model and (order, kernel); NaN with fewer than two learning rates.
    """
    slopes = {}
    for model in MODELS:
        for key in EQUATIONS:
            rows = table[(table["model"] == model) & (table["order"] == key[0]) & (table["kernel"] == key[1])]
            rows = rows[np.isfinite(rows["error_end"]) & (rows["error_end"] > 0)]
            rows = rows.assign(log=np.log(rows["error_end"]))
            several = rows["lr"].nunique() > 1
            slopes[model, key] = np.polyfit(np.log(rows["lr"]), rows["log"], 1)[0] if several else np.nan
            if len(rows):
                _line(ax, rows, "log", model, **style.EQUATIONS[key])
    ax.axhline(0.05, color="0.15", lw=0.8, ls=":", zorder=0)
    _rates(ax, table)
    ax.set(yscale="log", ylabel=r"$\|\theta_{\mathrm{eq}}-\theta_n\|\,/\,\|\theta_n-\theta_0\|$")
    ax.set_title(f"all weights, step {table['steps'].max()}")
    return slopes


def _ratios(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the first-order error over the second-order one with the same kernel, geometric mean over seeds with intervals."""
    errors = np.log(table.set_index(["model", "kernel", "lr", "seed", "order"])["error_end"].unstack("order"))
    ratios = (errors[1] - errors[2]).rename("log").reset_index()
    for (model, kernel), rows in ratios[np.isfinite(ratios["log"])].groupby(["model", "kernel"]):
        _line(ax, rows, "log", model, **_kernel(kernel))
    ax.axhline(1, color="0.15", lw=0.8, ls=":", zorder=0)
    _rates(ax, table)
    ax.set(yscale="log", ylabel="error of 1st order / 2nd order")
    ax.set_title("second against first order")
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if ax.get_ylim()[0] <= tick <= ax.get_ylim()[1]]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    handles = [Line2D([], [], ls="", label=name, **_kernel(kernel)) for kernel, name in KERNELS.items()]
    ax.legend(handles=handles, loc="lower right", handlelength=1.2, borderaxespad=0.1)


def _kernel(kernel: str) -> dict[str, Any]:
    """Return the look of a ratio, which belongs to a kernel and not to an equation."""
    return {"color": "0.15", "marker": "v", "ms": 3.5, "mfc": FILLS[kernel]}


def _sharpness(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw η times the sharpness along the optimizer's path, the limits, and where each equation leaves.

    Lines are means over seeds, without step 0, at which nothing has been averaged yet. A marker stands on the line where an
    equation leaves: the median over seeds, with a bar from the first to the last. Equations that are above the tolerance at
    `START` in every run have left before it; they stand side by side on the left, at the height of the line at `START`.
    """
    paths = runs[runs["sharpness"].notna() & (runs["step"] > 0)].assign(value=lambda t: t["lr"] * t["sharpness"])
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6, "color": "0.2", "annotation_clip": False}
    lines: dict[Any, pd.Series] = {lr: rows.groupby("step")["value"].mean() for lr, rows in paths.groupby("lr")}
    for lr, line in lines.items():
        ax.plot(line.index, line, lw=0.9, color=MEASURED)
        place = min(int(np.searchsorted(line.index, START + 5)), len(line) - 1)
        falls = line.iloc[min(place + 1, len(line) - 1)] < line.iloc[place]
        ax.annotate(f"{lr:g}", (line.index[place], line.iloc[place]), (4, -7 if falls else -3), va="top", **look)
    flows = crossings(table, runs)
    # Runs that neither cross nor leave have no place; those that cross and stay are judged at the end of the run.
    flows = flows[(flows["crossed_at"].notna() | (flows["above_from"] >= 0)) & ~flows["lost"]]
    for i, (key, name) in enumerate(style.EQUATIONS.items()):
        size = 5.5 if key[1] == "paper" else 3  # the kernels leave together: one marker inside the other
        marker: dict[str, Any] = {"ms": size, "mfc": "none", "mew": 0.8, "clip_on": False, "zorder": 4, **name}
        for lr, rows in flows[(flows["order"] == key[0]) & (flows["kernel"] == key[1])].groupby("lr"):
            line, left = lines[lr], rows["left_at"]
            if left.max() <= START:
                ax.plot((i + 0.9) * START / 4.6, np.interp(START, line.index, line), ls="", **marker)
                continue
            median = left.median()
            spread = [[median - left.min()], [left.max() - median]]
            ax.errorbar(median, np.interp(median, line.index, line), xerr=spread, ls="", elinewidth=0.8, **marker)
    for limit in sorted(set(table.loc[table["variant"] == "flow", "curvature_limit"].round(1))):
        ax.axhline(limit, color="0.15", lw=0.8, ls="--")
        ax.annotate(f"{limit:g}", (1, limit), (2, 0), xycoords=("axes fraction", "data"), va="center", **look)
    ax.axvline(START, color="0.8", lw=0.6, zorder=0)
    ax.set(yscale="log", xlabel="step $n$", xlim=(0, runs["step"].max()))
    low, high = ax.get_ylim()
    ax.set_ylim(0.7 * low, 1.2 * high)  # room for the labels
    ax.set_ylabel(r"$\eta\,\times$ preconditioned sharpness")


def _rates(ax: Axes, table: pd.DataFrame) -> None:
    """Set up the axis of learning rates."""
    rates = sorted(table["lr"].unique())
    ax.set(xscale="log", xlabel=r"learning rate $\eta$")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
