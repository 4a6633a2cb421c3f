"""Figure 1: how closely the differential equations track the optimizer (paper, section 2; claims T1, T2, T4)."""

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
from ctadam.storage.store import read_csv, read_runs

#: The model whose weights the upper panels show. The lower panels show both models.
SHOWN = "transformer"
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


def draw(results: str | Path) -> Figure:
    """Return the figure.

    Args:
        results: directory of one scale, with the runs and measurements of ``trajectory``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs = read_runs(results, "trajectory")
    table = read_csv(results, "trajectory", "measurements").query("variant == 'flow'")
    MODELS.require(table["model"])
    EQUATIONS.require(table[["order", "kernel"]].itertuples(index=False, name=None))
    pictured = runs[runs["weight_0"].notna() & (runs["model"] == SHOWN)]
    plain, decayed = pictured["weight_decay"].min(), pictured["weight_decay"].max()

    figure, axes = plt.subplots(2, 2, figsize=(style.TEXT_WIDTH, 5.6), layout="constrained")
    for ax, decay in zip(axes[0], (plain, decayed), strict=True):
        _weights(ax, pictured[pictured["weight_decay"] == decay])
        name = "Adam" if decay == 0 else f"AdamW, $\\lambda={decay:g}$"
        ax.set_title(f"{name}: {MODELS[SHOWN]}, single weights")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.14 * (high - low))  # room for the legend
        ax.legend(handles=_weight_handles(), loc="upper left", ncols=2)

    lr = pictured["lr"].iloc[0]
    _over_time(
        axes[1, 0], runs[(runs["variant"] == "flow") & np.isclose(runs["lr"], lr) & (runs["weight_decay"] == plain)]
    )
    axes[1, 0].set_title(f"all weights, $\\eta={lr:g}$, no decay" if plain == 0 else f"all weights, $\\eta={lr:g}$")
    slopes = _over_rates(axes[1, 1], table[table["weight_decay"] == plain])
    axes[1, 1].set_title(f"all weights, after {table['steps'].max()} steps")
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
    """Draw single weights: markers for the optimizer, lines for the paper's equation (second order, paper's kernel)."""
    names = [name for name in map(str, runs) if name.startswith("weight_") and name != "weight_decay"]
    colors = sns.color_palette("colorblind", len(names))
    discrete = runs[runs["variant"] == "discrete"]
    equation = runs[(runs["variant"] == "flow") & (runs["order"] == 2) & (runs["kernel"] == "paper")]
    every = max(1, len(discrete) // 20)
    for name, color in zip(names, colors, strict=True):
        ax.plot(discrete["step"][::every], discrete[name][::every], "o", ms=2.6, mfc="none", mew=0.7, color=color)
        ax.plot(equation["step"], equation[name], "-", lw=0.9, color=color)
    ax.set(xlabel="step $n$", ylabel=r"weight $\theta_n$", xlim=(0, runs["step"].max()))


def _weight_handles() -> list[Line2D]:
    """Return the legend handles of the upper panels."""
    return [
        Line2D([], [], ls="", marker="o", ms=3, mfc="none", color="0.3", label="optimizer"),
        Line2D([], [], color="0.3", lw=0.9, label="paper's equation"),
    ]


def _over_time(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw the relative error after every step, mean over seeds."""
    steps = int(runs["step"].max())
    marked = np.unique(np.geomspace(1, steps, 9).astype(int)) - 1
    for model in MODELS:
        for key in EQUATIONS:
            some = runs[(runs["model"] == model) & (runs["order"] == key[0]) & (runs["kernel"] == key[1])]
            mean = some[some["step"] > 0].groupby("step")["error"].mean()
            every = [i for i in marked if i < len(mean)]
            ax.plot(
                mean.index,
                mean,
                style.MODEL_LINES[model],
                lw=1.1,
                ms=3.5,
                mfc="w",
                markevery=every,
                **style.EQUATIONS[key],
            )
    _tolerance(ax)
    ax.set(xscale="log", yscale="log", xlabel="step $n$", xlim=(1, steps))
    ax.set_ylabel(r"$\|\theta_{\mathrm{eq}}-\theta_n\|\,/\,\|\theta_n-\theta_0\|$")


def _over_rates(ax: Axes, table: pd.DataFrame) -> dict[tuple[str, tuple[int, str]], float]:
    """Draw the final relative error against the learning rate, mean over seeds.

    Returns:
        Slope of ln(error) on ln(η), by model and (order, kernel); NaN with fewer than two learning rates.
    """
    slopes = {}
    for model in MODELS:
        for key in EQUATIONS:
            some = table[(table["model"] == model) & (table["order"] == key[0]) & (table["kernel"] == key[1])]
            mean = some.groupby("lr")["error_end"].mean()
            ax.plot(mean.index, mean, style.MODEL_LINES[model], lw=1.1, ms=4, mfc="w", **style.EQUATIONS[key])
            good = some[np.isfinite(some["error_end"]) & (some["error_end"] > 0)]
            several = good["lr"].nunique() > 1
            slopes[model, key] = np.polyfit(np.log(good["lr"]), np.log(good["error_end"]), 1)[0] if several else np.nan
    _tolerance(ax)
    ax.set(xscale="log", yscale="log", xlabel=r"learning rate $\eta$")
    rates = sorted(table["lr"].unique())
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set_ylabel(r"$\|\theta_{\mathrm{eq}}-\theta_n\|\,/\,\|\theta_n-\theta_0\|$")
    return slopes


def _tolerance(ax: Axes) -> None:
    """Mark the 5 % tolerance of claims T1 and T2."""
    ax.axhline(0.05, color="0.6", lw=0.7, ls=":", zorder=0)
    look: dict[str, Any] = {
        "textcoords": "offset points",
        "va": "center",
        "fontsize": 6.5,
        "color": "0.35",
        "annotation_clip": False,
    }
    ax.annotate("5 %", (1, 0.05), (2, 0), xycoords=("axes fraction", "data"), **look)
