"""Figure 8: the growth in practice. Location of the largest update, limits of its growth, long runs (claims S10, E1, E2, L1)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from ctadam.analysis import style
from ctadam.analysis.seeds import over_seeds
from ctadam.storage.store import read_joined, read_runs
from ctadam.storage.tables import sort_rows
from ctadam.theory import stability

_COLORS = sns.color_palette("colorblind").as_hex()
#: Colour and marker by rank of ε.
EPS = [(_COLORS[0], "o"), (_COLORS[2], "s"), (_COLORS[1], "^"), (_COLORS[4], "D")]
#: Line style by precision of the state.
DTYPES = style.Table("experiments/practice/figure.py: DTYPES", {"float64": "-", "float32": ":"})
#: Name, colour and marker by variant of the growth runs.
TOKENS = style.Table(
    "experiments/practice/figure.py: TOKENS",
    {"curve": ("words", _COLORS[4], "o"), "characters": ("characters", _COLORS[7], "^")},
)
#: Alternating colours of the rows that hold the largest update.
ROWS = (_COLORS[0], _COLORS[9])
#: Number of words with the largest update that are labelled.
NAMED = 4


def draw(results: str | Path) -> Figure:
    """Return the figure.

    Args:
        results: directory of one scale, with the runs, predictions and measurements of ``practice`` and ``growth``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs = read_runs(results, "practice")
    table = read_joined(results, "practice")
    first = table["seed"] == table.loc[table["variant"] == "epsilon", "seed"].iloc[0]
    epsilon = table[(table["variant"] == "epsilon") & first]

    figure = plt.figure(figsize=(style.TEXT_WIDTH, 7.6), layout="constrained")
    # Separate subfigures keep the long labels of the last panel from narrowing the other rows.
    subfigures: Any = figure.subfigures(2, 1, height_ratios=[2, 1.05])
    upper, lower = subfigures
    axes = [*upper.subplots(2, 2).flat, *lower.subplots(1, 2)]
    bare = epsilon[(epsilon["eps"] == 0) & (epsilon["state_dtype"] == "float64")].iloc[0]
    _holders(axes[0], runs[runs["run"] == bare["run"]], bare)
    _tokens(axes[1], results)
    _ended(axes[2], runs, epsilon)
    _unseen(axes[3], runs, epsilon[epsilon["state_dtype"] == "float64"])
    _long(axes[4], runs, table[table["variant"] == "long"])
    _protection(axes[5], table[table["variant"] != "long"], bare)
    style.label_panels(axes)
    for ax in axes:
        sns.despine(ax=ax)
        if ax.get_yscale() == "log":
            ax.yaxis.minorticks_off()  # too dense over many decades
    axes[5].xaxis.minorticks_off()
    return figure


def _rows(table: pd.DataFrame) -> Iterator[Any]:
    """Iterate over the rows of a table, with its columns as attributes."""
    return table.itertuples()


def _steady(values: Iterable[float]) -> np.ndarray:
    """Round to nine digits, so that pixels do not depend on memory alignment, which affects the last bits of `numpy.exp`."""
    return np.array([float(f"{value:.9g}") for value in values])


def _spans(steps: pd.DataFrame) -> list[pd.DataFrame]:
    """Split the steps of a run into maximal stretches during which the largest update stays in the same row."""
    same = (steps["update_tensor"] == steps["update_tensor"].shift()) & (
        steps["update_row"] == steps["update_row"].shift()
    )
    return [part for _, part in steps.groupby((~same).cumsum())]


def _holders(ax: Axes, steps: pd.DataFrame, run: pd.Series) -> None:
    """Draw the largest update of one run, coloured by row, and the exact rate through its longest stretches in one row."""
    steps = steps[np.isfinite(steps["update_max"])]
    spans = _spans(steps)
    for i, part in enumerate(spans):
        ax.plot(part["step"], part["update_max"], "-", lw=2.4, color=ROWS[i % 2])
    named = sorted(spans, key=len, reverse=True)[:NAMED]
    for part in named:
        n, middle = part["step"].to_numpy(), part.iloc[len(part) // 2]
        rise = np.exp(run["rate_exact"] * (n - middle["step"])) * stability.prefactor(
            beta1=run["beta1"], beta2=run["beta2"], step=n
        )
        rise /= stability.prefactor(beta1=run["beta1"], beta2=run["beta2"], step=middle["step"])
        ax.plot(n, _steady(middle["update_max"] * rise), style.LINES["paper"], color="k", lw=0.8, zorder=3)
        # A row without a token is labelled with its tensor, without the block's name.
        word = middle["token"] or middle["update_tensor"].split(".", 2)[-1]
        unseen = f", {middle['unseen']}" if middle["token"] else ""
        arrow = {"arrowstyle": "-", "color": "0.4", "lw": 0.5, "shrinkA": 0, "shrinkB": 1}
        look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 5.5, "arrowprops": arrow}
        ax.annotate(f"{word}{unseen}", (middle["step"], middle["update_max"]), (12, -11), **look)
    turns = tuple(Line2D([], [], color=color, lw=2.4) for color in ROWS)
    slope = Line2D([], [], color="k", lw=0.8, ls=style.LINES["paper"])
    handles: list[Any] = [turns, slope]
    look = {"loc": "upper left", "handler_map": {tuple: HandlerTuple(ndivide=None, pad=0)}}
    ax.legend(handles, ["largest update, by row", r"slope $\ln\gamma/\!\sqrt{\beta}$"], **look)
    ax.set(
        yscale="log", xlabel="step $n$", ylabel=r"$\|u_n\|_\infty$", title="token with the largest update, steps unseen"
    )
    ax.set(xlim=(0, steps["step"].max()), ylim=(0.1, None))


def _tokens(ax: Axes, results: str | Path) -> None:
    """Draw the growth rates with word and with character tokens against C, at the unstable points, and the paper's rate."""
    table = read_joined(results, "growth")
    low = table.loc[table["variant"] == "characters", "C"].max()
    table = table[table["variant"].isin(["curve", "characters"]) & (table["C"] <= low + 0.02)]
    TOKENS.require(table["variant"])
    for variant, (name, color, marker) in TOKENS.items():
        points = sort_rows(table[table["variant"] == variant], ["C", "seed"]).groupby("C", sort=True)["rate"]
        mean, low, high = np.array([over_seeds(rates) for _, rates in points]).T
        # No interval with one seed.
        halves = [np.where(np.isfinite(end), np.abs(end - mean), 0.0) for end in (low, high)]
        look: dict[str, Any] = {"fmt": marker, "ms": 4, "mfc": "w", "mew": 0.9, "lw": 0.8, "color": color}
        ax.errorbar(points.mean().index.to_numpy(), mean, halves, label=name, **look)
    c = np.array([table["C"].min(), 0.0, table["C"].max()])
    rate = np.maximum(0.0, -c / 2)
    ax.plot(c, rate, style.LINES["paper"], color=style.COLORS["paper"], zorder=3, label=r"$|C|/2$ (paper)")
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"$C(\beta,\gamma)$", ylabel="growth rate per step", title="words and characters")
    ax.legend(loc="lower left")


def _eps_styles(table: pd.DataFrame) -> dict[float, tuple[str, str]]:
    """Return colour and marker of each ε in the table."""
    return style.by_rank("experiments/practice/figure.py: EPS", EPS, sorted(table["eps"].unique()))


def _eps_handles(styles: dict[float, tuple[str, str]]) -> list[Line2D]:
    """Return one legend handle per ε."""
    return [
        Line2D([], [], color=color, marker=marker, mfc="w", ms=3.5, label=rf"$\epsilon$ = {eps:g}")
        for eps, (color, marker) in styles.items()
    ]


def _ended(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw the largest update against the step, for every ε and precision of the state."""
    styles = _eps_styles(table)
    for run in _rows(table):
        steps = runs[runs["run"] == run.run]
        color, marker = styles[run.eps]
        every = max(1, len(steps) // 8)
        look: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "ms": 3,
            "mfc": "w",
            "lw": 1,
            "markevery": (every // 2, every),
        }
        ax.plot(steps["step"], steps["update_max"], DTYPES[run.state_dtype], **look)
    lines = [Line2D([], [], color="0.3", ls=ls, label=f"state {dtype}") for dtype, ls in DTYPES.items()]
    ax.legend(handles=[*_eps_handles(styles), *lines], loc="upper left", ncols=2, columnspacing=1)
    ax.set(yscale="log", xlabel="step $n$", ylabel=r"$\|u_n\|_\infty$", title=r"$\epsilon$ and precision")
    ax.set_xlim(0, runs.loc[runs["run"].isin(table["run"]), "step"].max())


def _unseen(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw the largest update against the number of steps for which its token has been unseen.

    The lines show a coordinate that receives one gradient and none after it: m/√v starts at (1−γ)/√(1−β) and then follows
    the exact law with ε. The unknown size of that gradient is fitted to the peak with the largest ε. The other lines are
    predictions.
    """
    styles = _eps_styles(table)
    pair = {"beta1": table["beta1"].iloc[0], "beta2": table["beta2"].iloc[0]}
    a, b = -np.log(pair["beta1"]), -0.5 * np.log(pair["beta2"])
    start = (1 - pair["beta1"]) / np.sqrt(1 - pair["beta2"])
    at: Any = table["eps"].idxmax()
    largest = table.loc[at]
    root = 1.0
    if largest["eps"] > 0 and largest["cap"] > 0:
        # The cap grows like (root/ε)^((b−a)/b).
        root = (largest["peak"] / (start * largest["cap"])) ** (b / (b - a))
    top = 1
    for run in _rows(table):
        steps = runs[(runs["run"] == run.run) & (runs["unseen"] > 0)]
        color, marker = styles[run.eps]
        ax.plot(steps["unseen"], steps["update_max"], marker, ms=3.5, mew=0.5, mfc="none", color=color, rasterized=True)
        top = max(top, steps["unseen"].max() if len(steps) else 1)
    j = np.arange(int(top) + 1)
    for run in _rows(table):
        line = _steady(start * np.exp(-a * j) / (np.exp(-b * j) + run.eps / root))
        ax.plot(j, line, style.LINES["exact"], color="k", lw=0.8, zorder=3)
    lines = [Line2D([], [], color="k", lw=0.8, label="one gradient, then none")]
    ax.legend(handles=[*_eps_handles(styles), *lines], loc="upper left")
    ax.set(
        xlabel="steps for which its token is unseen",
        ylabel=r"$\|u_n\|_\infty$",
        title="cap of the growth by $\\epsilon$",
    )
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.1)


def _long(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw long runs at points of the normal curve, coloured by C, and growth at the exact rate from step 0."""
    colors, norm = style.coefficient_scale(min(table["C"].min(), -0.005), max(table["C"].max(), 0.005))
    limits = np.log10([0.1, 30 * table["peak"].max()])
    length = table["steps"].max()
    ends = []
    for c in sorted(table["C"].unique()):
        point = sort_rows(table[table["C"] == c], ["seed"])
        color, last_updates = colors(norm(c)), []
        for run in _rows(point):
            steps = runs[(runs["run"] == run.run) & np.isfinite(runs["update_max"])]
            ax.plot(steps["step"], steps["update_max"], lw=0.5, color=color)
            last_updates.append(steps["update_max"].iloc[-1])
            if run.diverged_at >= 0:
                ax.plot(steps["step"].iloc[-1], last_updates[-1], "x", ms=5, mew=1.2, color=color)
        rate = point["rate_exact"].iloc[0]
        if rate > 0:
            last = min(length, limits[1] * np.log(10) / rate)
            for ink, width in (("w", 2.2), ("k", 0.9)):
                ax.plot([0, last], [1, np.exp(rate * last)], style.LINES["paper"], lw=width, color=ink, zorder=3)
        ends.append([np.log10(np.median(last_updates)), f"$C = {c:.3f}$", color])
    # Label each line at its end, moved up where two labels would overlap.
    below = -np.inf
    for end, name, color in sorted(ends, key=lambda end: end[0]):
        below = max(end, below + 0.055 * (limits[1] - limits[0]))
        look: dict[str, Any] = {
            "textcoords": "offset points",
            "va": "center",
            "fontsize": 6,
            "color": color,
            "annotation_clip": False,
        }
        ax.annotate(name, (1, (below - limits[0]) / (limits[1] - limits[0])), (3, 0), xycoords="axes fraction", **look)
    handles = [
        Line2D([], [], color="0.3", lw=0.5, label="largest update, by seed"),
        Line2D([], [], color="k", lw=0.9, ls=style.LINES["paper"], label="exact rate"),
    ]
    ax.legend(handles=handles, loc="upper left", handlelength=1.4, borderaxespad=0.1)
    ax.set(yscale="log", xlabel="step $n$", ylabel=r"$\|u_n\|_\infty$", title="long runs")
    ax.set(xlim=(0, length), ylim=10**limits)


def setting(run: Any, bare: pd.Series) -> str:
    """Return the label of a run: ε, state precision, and its other differences from the bare unstable run.

    Args:
        run: row of the joined table, with its columns as attributes.
        bare: row of the run with ε = 0, float64 state and no safeguard.
    """
    parts = [rf"$\epsilon$ = {run.eps:g}", f"{run.state_dtype}"]
    if run.precision != "float32":
        parts.append(f"gradients {run.precision}")
    if np.isfinite(run.clip):
        parts.append(f"clip {run.clip:g}")
    if run.weight_decay > 0:
        parts.append(rf"$\lambda$ = {run.weight_decay:g}")
    if run.lr != bare.lr:
        parts.append(rf"$\eta$ = {run.lr:g}")
    if (run.beta1, run.beta2) != (bare.beta1, bare.beta2):
        parts.append(f"pair ({run.beta2:g}, {run.beta1:g})")
    return ", ".join(parts)


def _protection(ax: Axes, table: pd.DataFrame, bare: pd.Series) -> None:
    """Draw the largest update under every setting, with the final test loss (mean over seeds) at the right."""
    table = table.assign(setting=[setting(run, bare) for run in _rows(table)])
    styles = _eps_styles(table)
    groups = table.groupby("setting").agg(
        peak=("peak", lambda x: np.log(x).mean()), loss=("test_loss", "mean"), eps=("eps", "first")
    )
    # Rounding makes the order reproducible: some settings have equal peaks whose logarithms differ in the last digit.
    groups = sort_rows(groups.reset_index().round({"peak": 9}), ["peak", "setting"], ascending=[False, True])
    groups = groups.set_index("setting")
    for y, (name, group) in enumerate(groups.iterrows()):
        peaks = table.loc[table["setting"] == name, "peak"]
        color, marker = styles[group["eps"]]
        ax.plot(peaks, [y] * len(peaks), marker, ms=3.5, mfc="w", mew=0.9, color=color)
        _beside(ax, y, f"{group['loss']:.3f}")
    _beside(ax, -1, "loss")
    ax.set_yticks(range(len(groups)), groups.index, fontsize=5.5)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set(xscale="log", xlabel=r"largest update, $\max_n\|u_n\|_\infty$", title="effect of each setting")
    ax.grid(axis="y", lw=0.3, color="0.85")


def _beside(ax: Axes, y: float, text: str) -> None:
    """Write a text to the right of the panel, at height ``y`` in data coordinates."""
    look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 5.5, "annotation_clip": False}
    ax.annotate(text, (1.0, y), (3, 0), xycoords=("axes fraction", "data"), **look)
