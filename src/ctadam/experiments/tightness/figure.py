"""Figure 7: tightness of the bound for chosen gradients, training runs, pairs between the laws, edges and k stages."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ctadam.analysis import style
from ctadam.storage.store import read_joined, read_runs
from ctadam.theory import stability

#: Legends that may cover points have an opaque background.
_OVER_POINTS = {"handletextpad": 0.2, "frameon": True, "framealpha": 1, "edgecolor": "none"}
_SETS = sns.color_palette("colorblind").as_hex()


def draw(results: str | Path) -> Figure:
    """Draw the figure from the tightness, growth and quadratic runs in the directory ``results`` (claims S7, S8, S13, K3)."""
    draws = read_joined(results, "tightness")
    stages = _with_unstable_stage(draws[draws["kind"] == "kadam"], results)
    figure, axes = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 4.6), layout="constrained")
    _chosen(axes[0, 0], draws)
    _training(axes[0, 1], results)
    _wedge(axes[0, 2], draws[draws["kind"] == "wedge"])
    _edges(axes[1, 0], draws)
    _last(axes[1, 1], stages)
    _elsewhere(axes[1, 2], stages)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _chosen(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot the update over the exact bound at each draw's own step, for worst-case and random gradients."""
    ratio, n1 = draws["update"] / draws["bound_exact"], draws["step"] + 1
    for kind, name, color, marker in (("worst", "worst gradients", _SETS[0], "o"), ("random", "random", _SETS[1], ".")):
        chosen = draws["kind"] == kind
        ax.plot(n1[chosen], ratio[chosen], marker, ms=2.5, mew=0, color=color, label=name, rasterized=True, alpha=0.5)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 3), xlabel="step $n+1$", ylabel=r"$|u_n|$ / exact bound")
    ax.set_title("chosen gradients")
    legend = ax.legend(loc="lower left", markerscale=2, **_OVER_POINTS)
    handles: Any = legend.legend_handles
    for handle in handles:
        handle.set_alpha(1)


def _training(ax: Axes, results: str | Path) -> None:
    """Plot the largest ratio of update to exact bound in the second half of each training run against C.

    Early steps are uninformative: update and bound are both 1 at the first step, and the next few gradients resemble each other.
    """
    runs = read_runs(results, "growth")
    runs = runs[runs["variant"] == "curve"]
    runs = runs[(runs["step"] >= (runs["step"].max() + 1) // 2) & np.isfinite(runs["update_max"])]
    arguments: dict[str, Any] = {name: runs[name].to_numpy() for name in ("beta1", "beta2", "step")}
    bound = stability.update_bound(**arguments, law="exact")
    closest = (runs["update_max"] / bound).groupby(runs["run"]).max()
    pair = runs.drop_duplicates("run").set_index("run")[["beta1", "beta2"]]
    c = stability.stability_coefficient(**pair)
    quadratic = read_runs(results, "quadratic", ["run", "beta1", "beta2", "ratio_late"])
    where = stability.stability_coefficient(beta1=quadratic["beta1"], beta2=quadratic["beta2"])
    low, high = c.min() - 0.01, c.max() + 0.01
    shown = (where >= low) & (where <= high)
    look = {"ms": 2.5, "mew": 0, "color": _SETS[7], "rasterized": True}
    ax.plot(where[shown], quadratic["ratio_late"][shown], ".", label="quadratic", **look)
    ax.plot(c, closest, "o", ms=3.5, mfc="none", mew=0.9, color=_SETS[2], label="language model")
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(xlim=(low, high), ylim=(0, 1.03), xlabel=r"$C(\beta,\gamma)$", ylabel=r"late $\|u_n\|_\infty$ / exact bound")
    ax.set_title("training runs")
    ax.legend(loc="lower right", markerscale=1.6, **_OVER_POINTS)


def _wedge(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot the worst-case update and the paper's bound between the laws, both divided by the limit of the exact bound."""
    growth = -draws["C"] / 2 * (draws["step"] + 1)
    for column, name, color, marker in (
        ("bound_paper", "paper's bound", style.COLORS["paper"], "x"),
        ("update", "worst gradients", _SETS[0], "o"),
    ):
        look = {"ms": 2.5, "mew": 0 if marker == "o" else 0.5, "color": color, "rasterized": True}
        ax.plot(growth, draws[column] / draws["limit_exact"], marker, label=name, **look)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(xscale="log", yscale="log", xlim=(1e-2, 2e3), ylim=(1e-3, 1e6), xlabel=r"paper's law: $n\,|C|/2$")
    ax.set_ylabel(r"over the exact bound, $n\to\infty$")
    ax.set_title(r"$C<0$, but $\gamma^2<\beta$")
    ax.legend(loc="lower right", markerscale=1.5, handletextpad=0.2)


def _edges(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot the update of RMSprop under worst-case gradients, and of sign descent, with the bound 1/√(1−β)."""
    for kind, name, color, marker in (("rmsprop", "RMSprop", _SETS[0], "o"), ("sign", "sign descent", _SETS[1], "*")):
        rows = draws[draws["kind"] == kind]
        look = {"ms": 3.5 if marker == "o" else 7, "mew": 0, "color": color}
        ax.plot(1 - rows["beta2"], rows["update"], marker, label=name, **look)
    rest = np.geomspace((1 - draws.loc[draws["kind"] == "rmsprop", "beta2"]).min(), 1, 101)
    look = {"color": style.COLORS["exact"], "lw": 0.9, "zorder": 3}
    ax.plot(rest, rest**-0.5, style.LINES["exact"], label=r"$1/\!\sqrt{1-\beta}$", **look)
    ax.set(xscale="log", yscale="log", xlabel=r"$1-\beta$", ylabel="$|u_n|$", yticks=(1, 2, 5, 10))
    ax.yaxis.set_major_formatter("{x:g}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.set_title(r"edge $\gamma=0$")
    ax.legend(loc="upper right", handletextpad=0.4)


def _with_unstable_stage(draws: pd.DataFrame, results: str | Path) -> pd.DataFrame:
    """Return the runs with k stages and a column ``own_rate``, the growth rate of the unstable stage by the exact law."""
    runs = read_runs(results, "tightness", ["run", "kind", "gammas", "betas"]).set_index("run")
    place = draws["place"].astype(int) - 1
    pair: dict[str, Any] = {
        beta: np.array([runs.loc[run, name][i] for run, i in zip(draws["run"], place, strict=True)])
        for beta, name in (("beta1", "gammas"), ("beta2", "betas"))
    }
    return draws.assign(own_rate=stability.growth_rate(**pair, law="exact"))


def _last(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot k-Adam's growth rate after the gradients have stopped against the rate of the unstable stage, by its position."""
    draws = draws[draws["rate"].notna()]
    last = draws["place"] == draws["k"]
    for chosen, name, color, marker in ((last, "last", _SETS[0], "o"), (~last, "any other", _SETS[1], "x")):
        look = {"ls": "none", "ms": 3, "mew": 0 if marker == "o" else 0.7, "color": color, "rasterized": True}
        ax.plot(draws.loc[chosen, "own_rate"], draws.loc[chosen, "rate"], marker, label=name, **look)
    ends = np.array([0, draws["own_rate"].max()])
    look = {"color": style.COLORS["exact"], "lw": 0.9, "zorder": 3}
    ax.plot(ends, ends, style.LINES["exact"], label=r"$\ln\gamma/\!\sqrt{\beta}$", **look)
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"$\ln\gamma/\!\sqrt{\beta}$ of that stage", ylabel="growth rate of $|u^{(k)}_n|$")
    ax.set_title("$k$-Adam: unstable stage is …")
    ax.legend(loc="upper left", **_OVER_POINTS)


def _elsewhere(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot k-Adam's update over the last stage's bound against the growth that an earlier, unstable stage alone would have."""
    draws = draws[draws["place"] != draws["k"]]
    ratio, growth = draws["update"] / draws["bound_exact"], draws["own_rate"] * (draws["step"] + 1)
    for stops, name, color, marker in ((True, "gradients stop", _SETS[1], "x"), (False, "random", _SETS[7], "+")):
        chosen = (draws["silent"] >= 0) == stops
        look = {"ls": "none", "ms": 3, "mew": 0.7, "color": color, "rasterized": True}
        ax.plot(growth[chosen], ratio[chosen], marker, label=name, **look)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(yscale="log", xlabel=r"$n\ln\gamma/\!\sqrt{\beta}$ of that stage")
    ax.set_ylabel(r"$|u^{(k)}_n|$ / bound of last stage")
    ax.set_title("unstable stage not last")
    ax.legend(loc="lower left", **_OVER_POINTS)
