"""Figure 4: norms and directions of scale-invariant weights (arXiv 2411.05746, on normalization; claims N1-N6, N8-N10)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from ctadam.analysis import style
from ctadam.analysis.verdicts import Level
from ctadam.experiments.scale_invariance.claims import (
    MAIN_MODEL,
    by_gamma,
    by_model,
    coarse_level,
    distance_levels,
    growth,
    growth_level,
    of_main_model,
    path_level,
    steady_levels,
)
from ctadam.storage.store import read_joined, read_runs

#: Norm law -> label, color and line, in the order of the legend. Markers are the models'.
LAWS = {
    "paper": ("paper's law", style.COLORS["paper"], "--"),
    "inertial": ("inertial law", style.COLORS["exact"], "-"),
}
#: Optimizer for weights of fixed norm -> label, color and line, in the order of the legend.
OPTIMIZERS = style.Table(
    "experiments/scale_invariance/figure.py: OPTIMIZERS",
    {
        "adam": ("Adam, constant rate", "0.35", ":"),
        "2adam": ("2-Adam (paper's law)", style.COLORS["paper"], "--"),
        "2adam_inertial": (r"2-Adam, rate$/\sqrt{f}$ (inertial law)", style.COLORS["exact"], "-"),
    },
)
MODEL_MARKERS = style.Table(
    "experiments/scale_invariance/figure.py: MODEL_MARKERS", {"transformer": "o", "cnn": "s", "mlp": "^", "linear": "D"}
)


def draw(results: str | Path) -> Figure:
    """Draw the figure from the runs, predictions and measurements of ``scale_invariance`` in the directory ``results``."""
    runs = read_runs(results, "scale_invariance")
    table = read_joined(results, "scale_invariance")
    MODEL_MARKERS.require(table["model"])
    OPTIMIZERS.require(runs["optimizer"].dropna())
    shares = growth(table)
    figure, axes = plt.subplots(2, 4, figsize=(style.TEXT_WIDTH, 4.5), layout="constrained")
    _norm(axes[0, 0], runs, table)
    _fractions(axes[0, 1], shares)
    _coarse(axes[0, 2], shares)
    _cosines(axes[0, 3], runs)
    _path_ratios(axes[1, 0], shares)
    _steady(axes[1, 1], table)
    _distances(axes[1, 2], runs, table)
    _distance_ratios(axes[1, 3], table)
    handles: list[Artist] = [_line(*look) for look in LAWS.values()]
    handles += [_marker("measured", MODEL_MARKERS[MAIN_MODEL]), Patch(color="0.85", lw=0, label="target of the claim")]
    figure.legend(loc="outside upper center", handles=handles, ncols=4, columnspacing=1.4)
    figure.legend(loc="outside lower center", handles=_fixed_norm_handles(table), ncols=4, columnspacing=1.4)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _line(label: str, color: str, line: Any) -> Line2D:
    """Return a legend entry for a law or an optimizer."""
    return Line2D([], [], color=color, ls=line, label=label)


def _marker(label: str, marker: str, fill: str = "w") -> Line2D:
    """Return a legend entry for a marker."""
    return Line2D([], [], ls="", color=style.COLORS["measured"], marker=marker, ms=3.5, mfc=fill, label=label)


def _fixed_norm_handles(table: pd.DataFrame) -> list[Line2D]:
    """Return the legend of the last two panels: optimizers in its first row, models and decays in its second."""
    runs = table[table["variant"] == "fixed_norm"]
    first = [_line(*look) for look in OPTIMIZERS.values()]
    second = [_marker(f"{model}, (h)", MODEL_MARKERS[model]) for model in runs["model"].unique()]
    decays = sorted(runs["weight_decay"].unique())
    second += [
        _marker(rf"$\lambda={decay:g}$, (h)", "o", style.COLORS["measured"] if decay == decays[-1] else "w")
        for decay in decays
    ]
    first += [_line("", "w", "") for _ in second[len(first) :]]
    return [handle for column in zip(first, second, strict=False) for handle in column]


def _log_axis(ax: Axes) -> None:
    """Make the y-axis logarithmic, with a few plain numbers as tick labels."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _gamma_axis(ax: Axes, gammas: Sequence[float]) -> None:
    """Label an x-axis whose positions 0, 1, … are the values of γ."""
    ax.set_xticks(range(len(gammas)), [f"{g:g}".removeprefix("0") or "0" for g in gammas])
    ax.set(xlim=(-0.5, len(gammas) - 0.5), xlabel=r"momentum $\gamma$")


def _gammas(table: pd.DataFrame) -> list[float]:
    """Return the values of γ in ascending order."""
    return sorted(table["beta1"].unique())


def _usual(gammas: Sequence[float]) -> float:
    """Return the γ that is closest to 0.9."""
    return min(gammas, key=lambda gamma: abs(gamma - 0.9))


def _points(ax: Axes, x: Sequence[float], levels: Sequence[Level], color: str, marker: str, **look: Any) -> None:
    """Plot levels with their intervals. Levels whose norm hardly changes have no meaningful ratio and are left out."""
    shape: dict[str, Any] = {"ms": 4, "mfc": "w", "mew": 0.9, "zorder": 4} | look
    for place, level in zip(x, levels, strict=True):
        if not np.isfinite(level.estimate) or level.undecided.startswith("the norm"):
            continue
        if np.isfinite([level.low, level.high]).all():
            ax.plot([place, place], [level.low, level.high], color=color, lw=1, zorder=3)
        ax.plot(place, level.estimate, marker, color=color, **shape)


def _norm(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Plot ‖W‖² of the first queries, measured and by each law, for minibatches without decay and the first seed."""
    gamma = _usual(_gammas(table))
    records = runs[(runs["variant"] == "law") & (runs["record"] == "norm") & (runs["batching"] == "minibatch")]
    records = records[(records["model"] == MAIN_MODEL) & (records["beta1"] == gamma)]
    queries = next(weight for weight in records["weight"] if weight.endswith("queries"))
    records = records[(records["weight"] == queries) & (records["seed"] == records["seed"].min())]
    look: dict[str, Any] = {"ms": 4, "mfc": "w", "mew": 0.9, "clip_on": False}
    ax.plot(records["step"], records["norm_sq"], MODEL_MARKERS[MAIN_MODEL], color=style.COLORS["measured"], **look)
    for law, (_, color, line) in LAWS.items():
        ax.plot(records["step"], records[f"law_{law}"], ls=line, color=color, zorder=3)
    ax.set(
        xlabel="step $n$", ylabel=r"$\|W_n\|^2$", xlim=(0, records["step"].max()), title=f"queries, $\\gamma={gamma:g}$"
    )


def _fractions(ax: Axes, shares: pd.DataFrame) -> None:
    """Plot the growth fractions of both laws against γ for the main model (N3, N4, N8)."""
    gammas = _gammas(shares)
    ax.axhspan(0.9, 1.1, color="0.85", lw=0, zorder=0)
    for law, (_, color, line) in LAWS.items():
        levels = [growth_level(rows, law, "") for _, rows in by_gamma(of_main_model(shares))]
        _points(ax, range(len(levels)), levels, color, MODEL_MARKERS[MAIN_MODEL])
        predicted = np.ones(len(gammas))
        if law == "paper":  # by the inertial law
            predicted = (1 - np.array(gammas)) / (1 + np.array(gammas))
        ax.plot(range(len(gammas)), predicted, ls=line, color=color, lw=1, zorder=2)
    ax.set(ylabel="growth fraction", title=MAIN_MODEL)
    _log_axis(ax)
    _gamma_axis(ax, gammas)


def _coarse(ax: Axes, shares: pd.DataFrame) -> None:
    """Plot the share of the growth that ⟨W, g/√v⟩ adds against the model (N2)."""
    models = [model for model in MODEL_MARKERS if model in set(shares["model"])]
    ax.axhspan(-0.1, 0.1, color="0.85", lw=0, zorder=0)
    for model, rows in by_model(shares):
        _points(ax, [models.index(model)], [coarse_level(rows, model)], style.COLORS["measured"], MODEL_MARKERS[model])
    ax.set_xticks(range(len(models)), models, rotation=30, ha="right", rotation_mode="anchor")
    ylabel = r"growth by $\langle W, g/\sqrt{v}\rangle$"
    ax.set(ylabel=ylabel, title="Assumption 2", xlim=(-0.5, len(models) - 0.5))


def _cosines(ax: Axes, runs: pd.DataFrame) -> None:
    """Plot the cosines of weights and past gradients against the age of the gradient; random directions give 1 (N1)."""
    cosines = runs[(runs["record"] == "cosine") & (runs["lag"] > 0) & (runs["model"] == MAIN_MODEL)]
    scaled = cosines.assign(square=cosines["dimension"] * cosines["cosine"].astype(float) ** 2)
    colors = sns.color_palette("viridis", cosines["beta1"].nunique() + 1)
    for (gamma, records), color in zip(scaled.groupby("beta1"), colors, strict=False):
        mean = records.groupby("lag")["square"].mean() ** 0.5
        ax.plot(mean.index, mean, ".-", ms=4, lw=1, color=color, label=rf"$\gamma={gamma:g}$")
    ax.axhline(1, color="0.3", ls=":", label="random")
    ax.set(xlabel="age of gradient", ylabel=r"$\sqrt{d}$ × cosine, r.m.s.", title="Assumption 1")
    _log_axis(ax)
    ax.set_xscale("log")
    ages = sorted(cosines["lag"].unique().astype(int))[::2]
    ax.set_xticks(ages, ages)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(loc="lower right", handlelength=1.2, labelspacing=0.15, borderpad=0, fontsize=5.5)


def _path_ratios(ax: Axes, shares: pd.DataFrame) -> None:
    """Plot the path of the direction over the paper's against γ for the main model (N5)."""
    gammas = _gammas(shares)
    ax.axhspan(0.95, 1.05, color="0.85", lw=0, zorder=0)
    ax.axhline(1, color=style.COLORS["paper"], ls="--", lw=1)
    levels = [path_level(rows, "") for _, rows in by_gamma(of_main_model(shares))]
    _points(ax, range(len(levels)), levels, style.COLORS["measured"], MODEL_MARKERS[MAIN_MODEL])
    ax.set(ylabel="path / paper's path", title="direction")
    _gamma_axis(ax, gammas)


def _steady(ax: Axes, table: pd.DataFrame) -> None:
    """Plot ‖W‖² and angle per step in the steady state over the predictions of the inertial law against γ (N10)."""
    runs = table[table["variant"] == "steady"]
    gammas = _gammas(runs)
    ax.axhspan(0.9, 1.1, color="0.85", lw=0, zorder=0)
    norms, angles = zip(*((norm, angle) for _, norm, angle in steady_levels(table)), strict=True)
    measured, x = style.COLORS["measured"], np.arange(len(gammas))
    _points(ax, list(x - 0.12), norms, measured, "o")
    _points(ax, list(x + 0.12), angles, measured, "o", mfc=measured)
    ratio = runs.groupby("beta1")[["norm_paper", "norm_inertial", "angle_paper", "angle_inertial"]].first()
    ax.plot(x, np.ones(len(x)), "-", color=style.COLORS["exact"], lw=1)
    for part in ("norm", "angle"):
        ax.plot(x, ratio[f"{part}_paper"] / ratio[f"{part}_inertial"], "--", color=style.COLORS["paper"], lw=1)
    handles = [_marker(r"$\|W\|^2$", "o"), _marker("angle", "o", measured)]
    ax.legend(handles=handles, loc="upper left", handlelength=0.6, labelspacing=0.15, borderpad=0, fontsize=6)
    ax.set(ylabel="measured / predicted", title="steady state")
    _log_axis(ax)
    _gamma_axis(ax, gammas)


def _distances(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Plot the distance from AdamW during training: linear map, γ close to 0.9, least decay, means over seeds."""
    shown = table[table["variant"] == "fixed_norm"]
    model = "linear" if "linear" in set(shown["model"]) else shown["model"].iloc[0]
    gamma, decay = _usual(_gammas(shown)), shown["weight_decay"].min()
    chosen = shown[(shown["model"] == model) & (shown["beta1"] == gamma) & (shown["weight_decay"] == decay)]
    records = runs[runs["run"].isin(chosen["run"]) & (runs["step"] > 0)]
    for name, (_, color, line) in OPTIMIZERS.items():
        mean = records[records["optimizer"] == name].groupby("step")["direction_distance"].mean()
        ax.plot(mean.index, mean, color=color, ls=line)
    ax.set(xlabel="step $n$", xlim=(0, records["step"].max()), ylabel="distance from AdamW")
    _log_axis(ax)
    ax.set_title(f"{model}, $\\gamma={gamma:g}$, $\\lambda={decay:g}$")


def _distance_ratios(ax: Axes, table: pd.DataFrame) -> None:
    """Plot the distance from AdamW over that of Adam against γ: markers by model, filled for the larger decay (N6, N9)."""
    levels = list(distance_levels(table))
    gammas, models = sorted({key[1] for key, *_ in levels}), list(dict.fromkeys(key[0] for key, *_ in levels))
    decays = sorted({key[2] for key, *_ in levels})
    width = 0.8 / (len(models) * len(decays))
    ax.axhspan(0, 1, color="0.85", lw=0, zorder=0)
    ax.axhline(1, color=OPTIMIZERS["adam"][1], ls=OPTIMIZERS["adam"][2], lw=1)
    for (model, gamma, decay), *pair in levels:
        slot = models.index(model) * len(decays) + decays.index(decay)
        x = gammas.index(gamma) - 0.4 + width * (slot + 0.5)
        for name, level in zip(("2adam", "2adam_inertial"), pair, strict=True):
            _, color, *_ = OPTIMIZERS[name]
            if name == "2adam_inertial" and gamma == 0:  # the same optimizer
                continue
            estimate, low, high = np.exp([level.estimate, level.low, level.high])
            ratio = Level(float(estimate), float(low), float(high))
            fill = color if decay == decays[-1] else "w"
            _points(ax, [x], [ratio], color, MODEL_MARKERS[model], ms=3, mfc=fill)
    ax.set(ylabel="distance / Adam's", title="fixed norms")
    _log_axis(ax)
    _gamma_axis(ax, gammas)
