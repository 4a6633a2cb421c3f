"""Figures 4 and 12: norms and directions of scale-invariant weights (arXiv 2411.05746, on normalization).

Figure 4 shows claims N1-N4 and N8, figure 12 claims N5, N6, N9 and N10.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from ctadam.analysis import style
from ctadam.experiments.scale_invariance.claims import (
    MAIN_MODEL,
    by_gamma,
    by_model,
    coarse_level,
    growth,
    growth_level,
    of_main_model,
)
from ctadam.storage.store import read_joined, read_runs
from ctadam.theory import scale_invariance as theory

#: Norm law -> colour and marker, name and line.
LAWS = {
    "paper": {"color": style.COLORS["paper"], "marker": "o"},
    "inertial": {"color": style.COLORS["exact"], "marker": "s"},
}
LAW_NAMES = {"paper": "paper's law", "inertial": "inertial law"}
LINES = {"paper": "--", "inertial": "-"}
#: Optimizer for weights of fixed norm -> colour, marker and line, in the order of the legend. The laws' colours are theirs.
OPTIMIZERS = style.Table(
    "experiments/scale_invariance/figure.py: OPTIMIZERS",
    {
        "adam": {"color": "0.35", "marker": "", "linestyle": ":"},
        "2adam": {**LAWS["paper"], "linestyle": "--"},
        "2adam_inertial": {**LAWS["inertial"], "linestyle": "-"},
    },
)
#: Names of these optimizers.
NAMES = {
    "adam": "Adam, constant rate",
    "2adam": "2-Adam (paper's law)",
    "2adam_inertial": "2-Adam, rate\n" + r"over $\sqrt{f}$ (inertial law)",
}
MODEL_MARKERS = style.Table(
    "experiments/scale_invariance/figure.py: MODEL_MARKERS", {"transformer": "o", "cnn": "s", "mlp": "^", "linear": "D"}
)
#: Looks of the two quantities in the steady state.
STEADY = {"norm": {"color": style.COLORS["measured"], "marker": "o"}, "angle": {"color": "0.6", "marker": "v"}}
TARGET = Patch(color="0.9", lw=0, label="target of the claim")


def draw(results: str | Path) -> Figure:
    """Draw figure 4 from the runs, predictions and measurements of ``scale_invariance`` in the directory ``results``."""
    runs, table = read_runs(results, "scale_invariance"), read_joined(results, "scale_invariance")
    MODEL_MARKERS.require(table["model"])
    shares = growth(table)
    figure, axes = plt.subplots(2, 2, figsize=(style.TEXT_WIDTH, 4.6), layout="constrained")
    _norm(axes[0, 0], runs)
    _fractions(axes[0, 1], of_main_model(shares))
    _cosines(axes[1, 0], runs)
    _coarse(axes[1, 1], shares)
    handles: list[Artist] = [
        style.handle("measured", ls="", marker="o", color=style.COLORS["measured"], mfc="w"),
        *(style.handle(LAW_NAMES[law], ls=LINES[law], **look) for law, look in LAWS.items()),
        TARGET,
    ]
    figure.legend(loc="outside upper center", handles=handles, ncols=4)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def draw_directions(results: str | Path) -> Figure:
    """Draw figure 12 from the same results."""
    runs, table = read_runs(results, "scale_invariance"), read_joined(results, "scale_invariance")
    OPTIMIZERS.require(runs["optimizer"].dropna())
    fixed = table[table["variant"] == "fixed_norm"]
    models = list(fixed["model"].unique())
    figure, grid = plt.subplots(2, 3, figsize=(style.TEXT_WIDTH, 4.6), layout="constrained")
    first, second, third, *ratios = grid.flat
    _path_ratios(first, of_main_model(growth(table)))
    _steady(second, table[table["variant"] == "steady"])
    _distances(third, runs, fixed)
    for ax, model in zip(ratios, models, strict=False):
        _distance_ratios(ax, fixed[fixed["model"] == model])
        ax.set_title(f"{model} (N6, N9)")
    style.share_y(ratios[: len(models)])
    for ax in ratios[len(models) : -1]:
        ax.remove()
    ratios[-1].set_axis_off()
    handles: list[Artist] = [style.handle(name, **OPTIMIZERS[key]) for key, name in NAMES.items()]
    handles += [
        style.handle(rf"$\lambda={decay:g}$ in (d), (e)", ls="", marker="o", color="0.35", mfc=face)
        for decay, face in _faces(fixed).items()
    ]
    ratios[-1].legend(handles=[*handles, TARGET], loc="center left", labelspacing=0.8)
    style.label_panels([first, second, third, *ratios[: len(models)]])
    sns.despine(figure)
    return figure


def _log_axis(ax: Axes) -> None:
    """Make the y-axis logarithmic, with a few plain numbers as tick labels."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _memory(gamma: Any) -> Any:
    """Return the place of γ on its axis: the length of the average, 1/(1 − γ)."""
    return 1 / (1 - gamma)


def _gamma_axis(ax: Axes, gammas: Iterable[float]) -> None:
    """Label an x-axis whose places are those of `_memory`."""
    gammas = sorted(set(gammas))
    places = [_memory(gamma) for gamma in gammas]
    ax.set(xscale="log", xlabel=r"momentum $\gamma$", xlim=(0.75, 1.35 * max(places)))
    ax.set_xticks(places, [f"{gamma:g}" for gamma in gammas])
    ax.xaxis.minorticks_off()


def _smooth(gammas: pd.Series) -> np.ndarray:
    """Return values of γ for the curve of a prediction."""
    return 1 - 1 / np.geomspace(1, _memory(gammas.max()), 101)


def _usual(gammas: pd.Series) -> float:
    """Return the γ that is closest to 0.9."""
    return min(sorted(gammas.unique()), key=lambda gamma: abs(gamma - 0.9))


def _norm(ax: Axes, runs: pd.DataFrame) -> None:
    """Plot ‖W‖² of the first queries, measured and by each law, for minibatches without decay and the first seed."""
    records = runs[(runs["variant"] == "law") & (runs["record"] == "norm") & (runs["batching"] == "minibatch")]
    records = of_main_model(records)
    records = records[records["beta1"] == (gamma := _usual(records["beta1"]))]
    queries = next(weight for weight in records["weight"] if weight.endswith("queries"))
    records = records[(records["weight"] == queries) & (records["seed"] == records["seed"].min())]
    look: dict[str, Any] = {"ms": 4, "mfc": "w", "mew": 0.9, "clip_on": False}
    ax.plot(records["step"], records["norm_sq"], MODEL_MARKERS[MAIN_MODEL], color=style.COLORS["measured"], **look)
    for law, line in LINES.items():
        ax.plot(records["step"], records[f"law_{law}"], ls=line, color=LAWS[law]["color"], zorder=3)
    ax.set(xlabel="step $n$", ylabel=r"squared norm $\|W_n\|^2$", xlim=(0, records["step"].max()))
    ax.set_title(f"one weight matrix, $\\gamma={gamma:g}$")


def _fractions(ax: Axes, shares: pd.DataFrame) -> None:
    """Plot the growth fractions of both laws against γ for the main model (N3, N4, N8)."""
    ax.axhspan(0.9, 1.1, color="0.9", lw=0, zorder=0)
    ax.set(xscale="log")
    for law, look in LAWS.items():
        kept = [rows for _, rows in by_gamma(shares) if not _still(growth_level(rows, law, ""))]
        if kept:
            rows = pd.concat(kept).assign(law=law, memory=lambda t: _memory(t["beta1"]))
            style.means(ax, rows, "law", {law: look}, x="memory", y=law, linestyle="none")
    gamma = _smooth(shares["beta1"])
    predictions = {"paper": (1 - gamma) / (1 + gamma), "inertial": np.ones_like(gamma)}  # by the inertial law
    for law, line in LINES.items():
        ax.plot(_memory(gamma), predictions[law], ls=line, color=LAWS[law]["color"], lw=1, zorder=4)
    ax.set(ylabel="predicted / measured growth", title=f"growth of the norm, {MAIN_MODEL}")
    _log_axis(ax)
    _gamma_axis(ax, shares["beta1"])


def _still(level: Any) -> bool:
    """Return whether a level is undecided because the norm hardly changes, which makes ratios meaningless."""
    return level.undecided.startswith("the norm")


def _coarse(ax: Axes, shares: pd.DataFrame) -> None:
    """Plot the share of the growth that ⟨W, g/√v⟩ adds against the model, as judged (N2)."""
    ax.axvspan(-0.1, 0.1, color="0.9", lw=0, zorder=0)
    models = [model for model in MODEL_MARKERS if model in set(shares["model"])]
    for model, rows in by_model(shares):
        level = coarse_level(rows, model)
        if _still(level) or not np.isfinite(level.estimate):
            continue
        look = {"color": style.COLORS["measured"], "marker": MODEL_MARKERS[model], "ms": 4, "mfc": "w"}
        low, high = (level.low, level.high) if np.isfinite(level.low) else (level.estimate, level.estimate)
        ends = [[level.estimate - low], [high - level.estimate]]
        ax.errorbar(level.estimate, models.index(model), xerr=ends, lw=1, zorder=3, **look)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_yticks(range(len(models)), models)
    ax.set_ylim(len(models) - 0.5, -0.5)
    ax.set(xlabel=r"share of the growth by $\langle W, g/\sqrt{v}\rangle$", title="Assumption 2 (N2)")


def _cosines(ax: Axes, runs: pd.DataFrame) -> None:
    """Plot the cosines of weights and past gradients against the age of the gradient; random directions give 1 (N1)."""
    cosines = of_main_model(runs[(runs["record"] == "cosine") & (runs["lag"] > 0)])
    cosines = cosines.assign(square=cosines["dimension"] * cosines["cosine"].astype(float) ** 2)
    means = (cosines.groupby(["beta1", "lag"])["square"].mean() ** 0.5).rename("cosine").reset_index()
    sns.lineplot(
        means, x="lag", y="cosine", hue=means["beta1"].map(str), palette="viridis", marker=".", mew=0, ms=7, ax=ax
    )
    ax.axhline(1, color="0.3", ls=":", lw=1)
    ax.set(xlabel="age of the gradient in steps", ylabel=r"$\sqrt{d}$ × cosine, r.m.s.", title="Assumption 1 (N1)")
    ax.set_xscale("log")
    _log_axis(ax)
    ages = sorted(cosines["lag"].unique().astype(int))
    ax.set_xticks(ages, ages)
    ax.xaxis.minorticks_off()
    ax.annotate(
        "random directions", (ages[-1], 1), (0, -9), textcoords="offset points", ha="right", fontsize=style.SMALL
    )
    handles = [
        style.handle(rf"$\gamma={float(g):g}$", color=line.get_color())
        for g, line in zip(sorted(means["beta1"].unique()), ax.lines, strict=False)
    ]
    ax.legend(handles=handles, loc="lower right", handlelength=1.2)


def _path_ratios(ax: Axes, shares: pd.DataFrame) -> None:
    """Plot the path of the direction over the paper's against γ for the main model (N5)."""
    ax.axhspan(0.95, 1.05, color="0.9", lw=0, zorder=0)
    ax.axhline(1, color=style.COLORS["paper"], ls="--", lw=1)
    rows = shares[np.isfinite(shares["path_ratio"])].assign(of="", memory=_memory(shares["beta1"]))
    ax.set(xscale="log")
    style.means(
        ax,
        rows,
        "of",
        {"": {"color": style.COLORS["measured"], "marker": "o"}},
        x="memory",
        y="path_ratio",
        linestyle="none",
    )
    ax.set(ylabel="path of the direction / paper's", title=f"{MAIN_MODEL} (N5)")
    _gamma_axis(ax, shares["beta1"])


def _steady(ax: Axes, runs: pd.DataFrame) -> None:
    """Plot ‖W‖² and angle per step in the steady state over the predictions of the inertial law against γ (N10)."""
    ax.axhspan(0.9, 1.1, color="0.9", lw=0, zorder=0)
    ratios = {
        "norm": runs["window_norm_sq"] / (runs["norm_inertial"] * runs["window_update_sq"]),
        "angle": runs["angle"] / runs["angle_inertial"],
    }
    rows = pd.concat([runs[["beta1"]].assign(quantity=name, ratio=ratio) for name, ratio in ratios.items()])
    rows = rows[np.isfinite(rows["ratio"])].assign(memory=lambda t: _memory(t["beta1"]))
    ax.set(xscale="log")
    style.means(ax, rows, "quantity", STEADY, x="memory", y="ratio", linestyle="none")
    gamma = _smooth(runs["beta1"])
    rates: Any = runs[["lr", "weight_decay"]].iloc[0].to_dict()
    factor = theory.amplification(beta1=gamma, **rates)
    angle = theory.steady_angular_step(**rates) / theory.steady_angular_step(beta1=gamma, **rates)
    for ratio, law in ((1 / factor, "paper"), (angle, "paper"), (np.ones_like(gamma), "inertial")):
        ax.plot(_memory(gamma), ratio, ls=LINES[law], color=LAWS[law]["color"], lw=1, zorder=4)
    handles = [
        style.handle(name, ls="", **STEADY[key]) for key, name in (("norm", r"$\|W\|^2$"), ("angle", "angle per step"))
    ]
    ax.legend(handles=handles, loc="lower left", handlelength=0.8)
    ax.set(ylabel="measured / inertial law", title="steady state (N10)")
    _log_axis(ax)
    _gamma_axis(ax, runs["beta1"])


def _distances(ax: Axes, runs: pd.DataFrame, fixed: pd.DataFrame) -> None:
    """Plot the distance from AdamW during training: linear map, γ close to 0.9, least decay, means over seeds."""
    model = "linear" if "linear" in set(fixed["model"]) else fixed["model"].iloc[0]
    gamma, decay = _usual(fixed["beta1"]), fixed["weight_decay"].min()
    chosen = fixed[(fixed["model"] == model) & (fixed["beta1"] == gamma) & (fixed["weight_decay"] == decay)]
    records = runs[runs["run"].isin(chosen["run"]) & (runs["step"] > 0)]
    for name, look in OPTIMIZERS.items():
        mean = records[records["optimizer"] == name].groupby("step")["direction_distance"].mean()
        ax.plot(mean.index, mean, color=look["color"], ls=look["linestyle"])
    ax.set(xlabel="step $n$", xlim=(0, records["step"].max()), ylabel="distance from AdamW")
    _log_axis(ax)
    ax.set_title(f"{model}, $\\gamma={gamma:g}$, $\\lambda={decay:g}$")


def _faces(fixed: pd.DataFrame) -> dict[float, str | None]:
    """Return the face of the markers by decay: filled for the largest."""
    decays = sorted(fixed["weight_decay"].unique())
    return {decay: None if decay == decays[-1] else "w" for decay in decays}


def _distance_ratios(ax: Axes, fixed: pd.DataFrame) -> None:
    """Plot the distance from AdamW over that of Adam against γ for one model, geometric means over seeds (N6, N9)."""
    ax.axhspan(1e-9, 1, color="0.9", lw=0, zorder=0)
    ax.axhline(1, color=OPTIMIZERS["adam"]["color"], ls=OPTIMIZERS["adam"]["linestyle"], lw=1)
    rows = fixed.melt(
        ["beta1", "weight_decay", "seed", "distance_adam"], ["distance_2adam", "distance_2adam_inertial"], "optimizer"
    )
    rows["optimizer"] = rows["optimizer"].str.removeprefix("distance_")
    rows = rows[(rows["beta1"] > 0) | (rows["optimizer"] == "2adam")]  # at γ = 0 both are the same optimizer
    rows = rows.assign(ratio=rows["value"] / rows["distance_adam"], memory=_memory(rows["beta1"]))
    rows = rows[np.isfinite(rows["ratio"]) & (rows["ratio"] > 0)]
    ax.set(xscale="log", yscale="log")
    for i, (decay, face) in enumerate(_faces(fixed).items()):
        own = rows[rows["weight_decay"] == decay]
        own = own.assign(memory=own["memory"] * 1.15**i)
        look: dict[str, Any] = {"markerfacecolor": face, "linestyle": "none"}
        style.means(ax, own, "optimizer", OPTIMIZERS, x="memory", y="ratio", **look)
    ax.set_ylabel("distance from AdamW / Adam's")
    ax.set_ylim(0.5 * min(1, rows["ratio"].min()), None)
    _log_axis(ax)
    _gamma_axis(ax, rows["beta1"])
