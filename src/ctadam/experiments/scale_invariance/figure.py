"""Figure 4: norms and directions of scale-invariant weights (arXiv 2411.05746, on normalization; claims N1-N9)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from ctadam.analysis import style
from ctadam.storage.store import read_joined, read_runs
from ctadam.storage.tables import sort_rows

_SETS = sns.color_palette("colorblind").as_hex()
#: Norm law -> label, color, line and marker, in the order of the legend.
LAWS = {
    "paper": (r"paper: $\|u\|^2$", style.COLORS["paper"], "--", "o"),
    "unsmoothed": (r"unsmoothed: $\|g/\!\sqrt{v}\|^2$", _SETS[1], "-.", "s"),
    "inertial": (r"inertial: from $\|u\|^2$ and $\gamma$", style.COLORS["exact"], "-", "^"),
}
#: Optimizer for weights of fixed norm -> label, color, line and marker, in the order of the legend.
OPPONENTS = style.Table(
    "experiments/scale_invariance/figure.py: OPPONENTS",
    {
        "adam": ("Adam", "0.35", ":", "x"),
        "2adam": (r"2-Adam, $\gamma_2=0$", style.COLORS["paper"], "--", "o"),
        "unsmoothed": (r"… averaging $(g/\!\sqrt{v})^2$", _SETS[1], "-.", "s"),
        "inertial": (r"… rate over $\sqrt{(1+\gamma)/(1-\gamma)}$", style.COLORS["exact"], "-", "^"),
        "tensor": ("… and one average per weight", _SETS[2], (0, (5, 1, 1, 1, 1, 1)), "D"),
    },
)
BATCHINGS = {"minibatch": "-", "full": "--"}
MODEL_MARKERS = style.Table(
    "experiments/scale_invariance/figure.py: MODEL_MARKERS", {"transformer": "o", "cnn": "s", "mlp": "^", "linear": "D"}
)


def draw(results: str | Path) -> Figure:
    """Draw the figure from the runs, predictions and measurements of ``scale_invariance`` in the directory ``results``."""
    runs = read_runs(results, "scale_invariance")
    table = read_joined(results, "scale_invariance")
    MODEL_MARKERS.require(table["model"])
    OPPONENTS.require(set(runs["optimizer"].dropna()) - {"free"})  # the free one is the reference, not a curve
    laws, pairs = table[table["variant"] == "law"], table[table["variant"] == "pair"]
    figure, axes = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 5.1), layout="constrained")
    _along(axes[0, 0], runs, laws)
    _errors(axes[0, 1], laws)
    _cosines(axes[0, 2], runs)
    _angles(axes[1, 0], laws)
    _distances(axes[1, 1], runs, pairs)
    _over_gamma(axes[1, 2], pairs)
    known = [
        Line2D([], [], color=color, ls=line, marker=marker, ms=3.5, mfc="w", label=name)
        for name, color, line, marker in LAWS.values()
    ]
    known.append(Line2D([], [], color="0.8", lw=4, label="(a) measured; (b) Assumption 2's part"))
    others = [
        Line2D([], [], color=color, ls=line, marker=marker, ms=3.5, mfc="w", label=name)
        for name, color, line, marker in OPPONENTS.values()
    ]
    look = {"ncols": 4, "title": "norm laws, (a), (b)", "columnspacing": 1.2, "title_fontsize": 7}
    figure.legend(loc="outside upper center", handles=known, **look)
    look = {"title": "weights of fixed norm, (e), (f)", "title_fontsize": 7, "columnspacing": 1.0, "handlelength": 2.2}
    figure.legend(ncols=5, loc="outside lower center", handles=others, **look)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _usual(runs: pd.DataFrame) -> float:
    """Return the γ of the runs that is closest to 0.9."""
    gammas = runs["beta1"].unique()
    return gammas[np.abs(gammas - 0.9).argmin()]


def _along(ax: Axes, runs: pd.DataFrame, laws: pd.DataFrame) -> None:
    """Plot ‖W‖² of one weight, measured and by each law, for minibatches, least decay, largest learning rate and first seed."""
    gamma = _usual(laws)
    some = laws[(laws["model"] == "transformer") & (laws["batching"] == "minibatch") & (laws["beta1"] == gamma)]
    chosen = sort_rows(some, ["weight_decay", "lr", "seed"], ascending=[True, False, True]).iloc[0]
    records = runs[(runs["run"] == chosen["run"]) & (runs["record"] == "norm")]
    queries = next(weight for weight in records["weight"] if weight.endswith("queries"))
    records = records[records["weight"] == queries]
    every = max(1, len(records) // 12)
    ax.plot(records["step"], records["norm_sq"], color="0.75", lw=4, solid_capstyle="butt", zorder=1)
    for law, (_, color, line, marker) in LAWS.items():
        look = {"ls": line, "color": color, "marker": marker, "ms": 3.5, "mfc": "w", "markevery": every}
        ax.plot(records["step"], records[f"law_{law}"], **look)
    ax.set(xlabel="step $n$", ylabel=r"$\|W_n\|^2$", xlim=(0, records["step"].max()))
    ax.set_title(f"queries, $\\gamma={gamma:g}$")


def _log_axis(ax: Axes) -> None:
    """Make the y-axis logarithmic, with a few plain numbers as tick labels."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _gamma_axis(ax: Axes, gammas: np.ndarray) -> None:
    """Label an x-axis whose positions 0, 1, … are the values of γ."""
    ax.set_xticks(range(len(gammas)), [f"{g:g}" for g in gammas])
    ax.set(xlim=(-0.4, len(gammas) - 0.6), xlabel=r"momentum $\gamma$ (beta1)")


def _errors(ax: Axes, laws: pd.DataFrame) -> None:
    """Plot the largest relative error of each law against γ, with runs as points and medians as lines."""
    gammas = np.sort(laws["beta1"].unique())
    for i, (law, (_, color, line, marker)) in enumerate(LAWS.items()):
        medians = []
        for x, gamma in enumerate(gammas):
            values = np.sort(laws.loc[laws["beta1"] == gamma, f"error_{law}"])
            spread = np.linspace(-0.04, 0.04, len(values)) + (i - 1) * 0.16
            ax.plot(x + spread, values, ".", ms=2, mew=0, color=color, alpha=0.5, zorder=1)
            medians.append(np.median(values))
        look = {"ls": line, "color": color, "marker": marker, "ms": 4, "mfc": "w", "zorder": 2}
        ax.plot(np.arange(len(gammas)) + (i - 1) * 0.16, medians, **look)
    part = laws.groupby("beta1")["coarse_error"].median()
    ax.plot(range(len(gammas)), part[gammas], color="0.8", lw=4, solid_capstyle="butt", zorder=0)
    ax.axhline(0.05, color="0.6", lw=0.7, ls=":", zorder=0)
    ax.set(ylabel=r"largest error of $\|W\|^2$", title="norm laws, all runs")
    _log_axis(ax)
    _gamma_axis(ax, gammas)


def _cosines(ax: Axes, runs: pd.DataFrame) -> None:
    """Plot the cosines of weights and past gradients against the age of the gradient; random directions give 1."""
    cosines = runs[(runs["record"] == "cosine") & (runs["lag"] > 0)]
    scaled = cosines.assign(square=cosines["dimension"] * cosines["cosine"] ** 2)
    colors = sns.color_palette("viridis", cosines["beta1"].nunique() + 1)
    for (gamma, some), color, marker in zip(scaled.groupby("beta1"), colors, "os^D" * 9, strict=False):
        mean = some.groupby("lag")["square"].mean() ** 0.5
        ax.plot(mean.index, mean, marker=marker, ms=3.5, mfc="w", color=color, label=rf"$\gamma={gamma:g}$")
    chance = (cosines["dimension"] * cosines["random_cosine"] ** 2).groupby(cosines["lag"]).mean() ** 0.5
    ax.plot(chance.index, chance, ":", color="0.3", label="random")
    ax.set(
        xlabel=r"age of the gradient, $t-\tau$", ylabel=r"$\sqrt{d}\,\cos(W(t),g(\tau))$, r.m.s.", title="Assumption 1"
    )
    _log_axis(ax)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(loc="lower right", handlelength=1.4, labelspacing=0.25, borderpad=0.1)


def _angles(ax: Axes, laws: pd.DataFrame) -> None:
    """Plot the angle per step over the paper's steady-state value against γ, for runs that have reached the steady state."""
    gammas = np.sort(laws["beta1"].unique())
    decayed = laws[laws["angle_paper"].notna()]
    kept = (1 - decayed["lr"] * decayed["weight_decay"]) ** (2 * decayed["angle_window_start"])
    steady = decayed[kept <= 0.05]
    for model, marker in MODEL_MARKERS.items():
        for batching, fill in (("minibatch", True), ("full", False)):
            some = steady[(steady["model"] == model) & (steady["batching"] == batching)]
            x = np.searchsorted(gammas, some["beta1"]) + 0.12 * (0.5 - fill)
            look: dict[str, Any] = {
                "ms": 4,
                "color": "0.15",
                "mfc": "0.15" if fill else "w",
                "mew": 0.8,
                "ls": "",
                "zorder": 3,
            }
            ax.plot(x, some["angle"] / some["angle_paper"], marker, **look)
    ax.plot(range(len(gammas)), np.ones(len(gammas)), "--", color=style.COLORS["paper"], zorder=1)
    ax.plot(range(len(gammas)), ((1 - gammas) / (1 + gammas)) ** 0.5, "-", color=style.COLORS["exact"], zorder=2)
    handles = [
        Line2D([], [], ls="--", color=style.COLORS["paper"], label=r"paper: $\sqrt{2\eta\lambda}$"),
        Line2D(
            [], [], color=style.COLORS["exact"], label=r"inertial: $\sqrt{2\eta\lambda\,\frac{1-\gamma}{1+\gamma}}$"
        ),
    ]
    handles += [
        Line2D([], [], ls="", marker=marker, ms=3.5, color="0.15", label=model)
        for model, marker in MODEL_MARKERS.items()
        if model in set(steady["model"])
    ]
    ax.legend(handles=handles, loc="lower left", labelspacing=0.2, handlelength=1.4, borderpad=0.1, fontsize=6)
    ax.set(ylabel=r"angle per step / $\sqrt{2\eta\lambda}$", title="steady turning", yscale="log")
    ax.set_ylim(bottom=0.012)
    _log_axis(ax)
    _gamma_axis(ax, gammas)


def _shown(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the panel with training curves: linear map, minibatches, largest decay and learning rate."""
    model = "linear" if "linear" in set(pairs["model"]) else pairs["model"].iloc[0]
    some = pairs[(pairs["model"] == model) & (pairs["batching"] == "minibatch")]
    return some[(some["weight_decay"] == some["weight_decay"].max()) & (some["lr"] == some["lr"].max())]


def _distances(ax: Axes, runs: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Plot the distance of the directions from AdamW during training, for γ close to 0.9, as means over seeds."""
    shown = _shown(pairs)
    gamma = _usual(shown)
    chosen = shown.loc[shown["beta1"] == gamma, "run"]
    records = runs[runs["run"].isin(chosen) & (runs["record"] == "pair") & (runs["step"] > 0)]
    for name, (_, color, line, marker) in OPPONENTS.items():
        mean = records[records["optimizer"] == name].groupby("step")["direction_distance"].mean()
        look = {"color": color, "marker": marker, "ms": 3.5, "mfc": "w", "lw": 1, "markevery": max(1, len(mean) // 6)}
        ax.plot(mean.index, mean, ls=line, **look)
    one = shown.iloc[0]
    ax.set(xlabel="step $n$", xlim=(0, records["step"].max()))
    _log_axis(ax)
    ax.set_ylabel(r"$\|\hat W_{\mathrm{fixed}}-\hat W_{\mathrm{AdamW}}\|$")
    ax.set_title(f"$\\gamma={gamma:g}$, $\\eta={one['lr']:g}$, $\\lambda={one['weight_decay']:g}$")


def _over_gamma(ax: Axes, pairs: pd.DataFrame) -> None:
    """Plot the distance from AdamW over that of Adam against γ.

    Points are medians over the settings and seeds in which weight decay has an effect. Full batches are pale.
    """
    felt = pairs[pairs["remembered"] <= 0.05]
    felt = felt if len(felt) else pairs
    gammas = np.sort(pairs["beta1"].unique())
    for name, (_, color, line, marker) in OPPONENTS.items():
        ratio = (felt[f"direction_{name}"] / felt["direction_adam"]).groupby([felt["batching"], felt["beta1"]]).median()
        ax.plot(range(len(gammas)), ratio["minibatch"], ls=line, color=color, marker=marker, ms=4, mfc="w", zorder=2)
        ax.plot(
            np.arange(len(gammas)) + 0.15, ratio["full"], marker, ms=3.5, color=color, mfc="none", alpha=0.5, zorder=1
        )
    ax.set(ylabel="distance / Adam's", title="minibatch (pale: full)")
    _log_axis(ax)
    _gamma_axis(ax, gammas)
