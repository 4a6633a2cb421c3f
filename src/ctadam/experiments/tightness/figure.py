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

_COLORS = sns.color_palette("colorblind").as_hex()
#: Colour and marker by the gradients of the runs, or by the model that is trained.
LOOKS = {
    "worst gradients": {"color": _COLORS[2], "marker": "o"},
    "random gradients": {"color": _COLORS[1], "marker": "."},
    "gradients that stop": {"color": "0.3", "marker": "X"},
    "language model": {"color": _COLORS[4], "marker": "s"},
    "quadratic": {"color": "0.65", "marker": "o"},
    "paper's bound": {"color": style.COLORS["paper"], "marker": "d"},
}


def draw(results: str | Path) -> Figure:
    """Draw the figure from the tightness, growth and quadratic runs in the directory ``results`` (claims S7, S8, S13, K3)."""
    draws = read_joined(results, "tightness")
    stages = _with_unstable_stage(draws[draws["kind"] == "kadam"], results)
    figure, axes = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 4.5), layout="constrained")
    _chosen(axes[0, 0], draws)
    _training(axes[0, 1], results)
    _wedge(axes[0, 2], draws[draws["kind"] == "wedge"])
    _edges(axes[1, 0], draws)
    _last(axes[1, 1], stages)
    _elsewhere(axes[1, 2], stages)
    kinds = ("worst gradients", "random gradients", "gradients that stop")
    handles = [style.handle(kind, ls="", mew=0, **LOOKS[kind]) for kind in kinds]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), markerscale=1.5, handletextpad=0.2)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _points(ax: Axes, x: Any, y: Any, kind: str, **look: Any) -> None:
    """Draw one point per run, with the look of its kind."""
    options: dict[str, Any] = {"ms": 3, "mew": 0, "ls": "", "rasterized": True, **LOOKS[kind], **look}
    ax.plot(x, y, **options)


def _legend(ax: Axes, loc: Any) -> None:
    """Draw a legend with an opaque background, because it may cover points."""
    look: dict[str, Any] = {"frameon": True, "framealpha": 0.9, "edgecolor": "none"}
    ax.legend(loc=loc, markerscale=1.8, handletextpad=0.2, **look)


def _chosen(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot the update over the exact bound at each draw's own step, for worst-case and random gradients (S7)."""
    ratio, n1 = draws["update"] / draws["bound_exact"], draws["step"] + 1
    for kind in ("worst", "random"):
        chosen = draws["kind"] == kind
        _points(ax, n1[chosen], ratio[chosen], f"{kind} gradients", ms=2)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 3), xlabel="step $n+1$", ylabel=r"$|u_n|$ / exact bound")
    ax.set_title("chosen gradients (S7)")


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
    _points(ax, where[shown], quadratic["ratio_late"][shown], "quadratic", ms=1.2, label="quadratic")
    _points(ax, c, closest, "language model", ms=2.5, label="language model")
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(xlim=(low, high), ylim=(0, 1.05), xlabel=r"coefficient $C(\beta,\gamma)$")
    ax.set(ylabel="late update / exact bound", title="training runs")
    _legend(ax, "lower right")


def _wedge(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot the worst-case update and the paper's bound between the laws, over the limit of the exact bound (S8)."""
    growth = -draws["C"] / 2 * (draws["step"] + 1)
    for column, kind in (("bound_paper", "paper's bound"), ("update", "worst gradients")):
        _points(ax, growth, draws[column] / draws["limit_exact"], kind, label=kind if column == "bound_paper" else None)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(xscale="log", yscale="log", xlim=(1e-2, 2e3), ylim=(1e-3, 1e6), xlabel="growth exponent $n|C|/2$")
    ax.set(ylabel="$|u_n|$ or bound / exact limit", title=r"$C<0$, but $\gamma^2<\beta$ (S8)")
    _legend(ax, "lower right")


def _edges(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot the update of RMSprop under worst-case gradients, and of sign descent, with the bound 1/√(1−β) (S13)."""
    kinds = (("rmsprop", "worst gradients", "RMSprop"), ("sign", "random gradients", "sign descent"))
    for kind, gradients, name in kinds:
        rows = draws[draws["kind"] == kind]
        star = {"marker": "*", "ms": 9, "zorder": 4} if kind == "sign" else {}
        _points(ax, 1 - rows["beta2"], rows["update"], gradients, label=name, **star)
    rest = np.geomspace((1 - draws.loc[draws["kind"] == "rmsprop", "beta2"]).min(), 1, 101)
    look = {"color": style.COLORS["exact"], "lw": 0.9, "zorder": 3}
    ax.plot(rest, rest**-0.5, style.LINES["exact"], label=r"$1/\!\sqrt{1-\beta}$", **look)
    ax.set(xscale="log", yscale="log", xlabel=r"$1-\beta$", ylabel="update $|u_n|$", yticks=(1, 2, 5, 10))
    ax.yaxis.set_major_formatter("{x:g}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.set_title(r"edge $\gamma=0$ (S13)")
    ax.legend(loc="lower left", handletextpad=0.4)


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
    """Plot k-Adam's growth rate after the gradients have stopped against the rate of the unstable stage (K3)."""
    draws = draws[draws["rate"].notna()]
    last = draws["place"] == draws["k"]
    for chosen, name, face in ((last, "last", None), (~last, "another", "w")):
        look: dict[str, Any] = {
            "mfc": face,
            "mew": 0.6,
            "marker": "o" if face is None else "s",
            "label": f"{name} stage",
        }
        rows = draws[chosen]
        _points(ax, rows["own_rate"], rows["rate"], "gradients that stop", **look)
    ends = np.array([0, draws["own_rate"].max()])
    look = {"color": style.COLORS["exact"], "lw": 0.9, "zorder": 3}
    ax.plot(ends, ends, style.LINES["exact"], label=r"$\ln\gamma/\!\sqrt{\beta}$", **look)
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"$\ln\gamma/\!\sqrt{\beta}$ of unstable stage", ylabel="growth rate of $|u^{(k)}_n|$")
    ax.set_title("$k$-Adam, growth (K3)")
    _legend(ax, "upper left")


def _elsewhere(ax: Axes, draws: pd.DataFrame) -> None:
    """Plot k-Adam's update over the last stage's bound against the growth that an earlier, unstable stage alone would have."""
    draws = draws[draws["place"] != draws["k"]]
    ratio, growth = draws["update"] / draws["bound_exact"], draws["own_rate"] * (draws["step"] + 1)
    for stops, kind in ((True, "gradients that stop"), (False, "random gradients")):
        chosen = (draws["silent"] >= 0) == stops
        _points(ax, growth[chosen], ratio[chosen], kind)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(yscale="log", xlabel=r"$n\ln\gamma/\!\sqrt{\beta}$ of unstable stage")
    ax.set(ylabel=r"$|u^{(k)}_n|$ / last stage's bound", title="$k$-Adam, bound (K3)")
