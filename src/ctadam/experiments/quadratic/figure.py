"""Figure 6: largest update over the unit square of betas, by learning rate, noise level and weight decay (claims S9, S12)."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure

from ctadam.analysis import style
from ctadam.storage.store import read_joined, read_runs
from ctadam.theory import stability

#: Number of panels per row.
COLUMNS = 3
#: Largest update on the colour scale.
TOP = 100.0
#: Panel title of each sweep, after the learning rate.
SWEEPS = style.Table(
    "experiments/quadratic/figure.py: SWEEPS",
    {
        "lr": "",
        "noise": r"$\sigma$ = {noise:g}",
        "weight_decay": r"$\lambda$ = {weight_decay:g}",
        "distant": r"$\lambda$ = {weight_decay:g}, distant minimum",
    },
)
#: Legend label of each sweep.
NAMES = style.Table(
    "experiments/quadratic/figure.py: NAMES",
    {
        "lr": "learning rates",
        "noise": r"noise $\sigma$",
        "weight_decay": r"weight decay $\lambda$",
        "distant": "distant minimum",
    },
)
_PALETTE = sns.color_palette("colorblind").as_hex()
#: Colour and line style of the sweeps, in the order of the runs. The colours of the laws are left out.
LOOKS = [(_PALETTE[1], "-"), (_PALETTE[2], "--"), (_PALETTE[4], ":"), (_PALETTE[7], "-.")]
#: Line styles of the decays of one sweep.
DECAY_LINES = (":", "-", "--", "-.")


def draw(results: str | Path) -> Figure:
    """Return the figure.

    Args:
        results: directory of one scale, with the runs of ``quadratic``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs = read_joined(results, "quadratic", read_runs(results, "quadratic"))
    NAMES.require(runs["sweep"])
    settings = list(runs.groupby(["sweep", "lr", "noise", "weight_decay"], sort=False))
    shown = [(values, group) for values, group in settings if values[0] != "distant"]
    rows = -(-(len(shown) + 2) // COLUMNS)
    figure, grid = plt.subplots(
        rows, COLUMNS, figsize=(style.TEXT_WIDTH, 2.05 * rows + 0.7), layout="constrained", squeeze=False
    )
    axes = list(grid.flat)
    maps, (near, params), unused = axes[: len(shown)], axes[len(shown) : len(shown) + 2], axes[len(shown) + 2 :]
    norm, colors = LogNorm(1, TOP), mpl.colormaps["cividis"].copy()
    for i, (ax, ((sweep, lr, noise, decay), group)) in enumerate(zip(maps, shown, strict=True)):
        _map(ax, group, colors, norm)
        what = SWEEPS[sweep].format(noise=noise, weight_decay=decay)
        ax.set_title(rf"$\eta$ = {lr:g}" + (f", {what}" if what else ""))
        if i % COLUMNS:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel(r"$\gamma$ (beta1)")
        if i + COLUMNS < len(shown):
            ax.tick_params(labelbottom=False)
        else:
            ax.set_xlabel(r"$\beta$ (beta2)")
    for ax in unused:
        ax.remove()
    _near(near, runs)
    _params(params, runs)
    bar = figure.colorbar(
        ScalarMappable(norm, colors), ax=axes, location="bottom", shrink=0.5, aspect=40, extend="max", pad=0.02
    )
    bar.set_label(r"largest update, $\max_n \|u_n\|_\infty$")
    bar.ax.xaxis.set_major_formatter("{x:g}")
    handles, labels = maps[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=1.8, columnspacing=1.4)
    style.label_panels([*maps, near, params])
    for ax in (near, params):
        sns.despine(ax=ax)
    return figure


def _map(ax: Axes, group: pd.DataFrame, colors: Colormap, norm: Normalize) -> None:
    """Draw the largest update of one setting over the square, both boundaries, RMSprop and sign descent."""
    grid = group.pivot(index="beta1", columns="beta2", values="update_max")
    step = 1 / len(grid)
    edges = np.arange(len(grid) + 1) * step - step / 2  # the first cell is centred on 0
    mesh = ax.pcolormesh(edges, edges, grid.to_numpy(), cmap=colors, norm=norm, rasterized=True)
    mesh.set_edgecolor("face")
    gamma = np.linspace(0, 1, 201)[:-1]
    laws: tuple[tuple[stability.Law, str], ...] = (("paper", "paper: $C=0$"), ("exact", r"exact: $\gamma^2=\beta$"))
    for law, name in laws:
        boundary = stability.boundary_beta2(beta1=gamma, law=law)
        ax.plot(boundary, gamma, color="w", lw=2.2, solid_capstyle="butt")
        ax.plot(boundary, gamma, style.LINES[law], color=style.COLORS[law], lw=1.2, label=name)
    ax.plot([0, 1], [0, 0], color="w", lw=2.6, clip_on=False, zorder=3)
    ax.plot([0, 1], [0, 0], ":", color="k", lw=1.4, clip_on=False, label=r"RMSprop: $\gamma=0$", zorder=3)
    ax.plot(0, 0, "*", ms=8, color="w", mec="k", mew=0.6, clip_on=False, ls="none", label="sign descent", zorder=4)
    ax.set(xlim=(-step / 2, 1), ylim=(-step / 2, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))


def _shares(ax: Axes, ratio: pd.Series, color: Any, line: str, name: str) -> None:
    """Draw the share of runs above each ratio, with the limit 1."""
    values = np.sort(ratio.to_numpy())
    ax.plot(values, 1 - np.arange(len(values)) / len(values), line, color=color, label=name)


def _near(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw the share of runs above each ratio of update to exact bound, over the second half of the steps."""
    groups = dict(list(runs.groupby("sweep", sort=False)))
    for sweep, (color, line) in style.by_rank("experiments/quadratic/figure.py: LOOKS", LOOKS, groups).items():
        _shares(ax, groups[sweep]["ratio_late"], color, line, NAMES[sweep])
    ax.axvline(1, color="0.5", lw=0.8)
    # Room for the legend above the curves.
    ax.set(xlim=(0, 1.05), ylim=(0, 1.1), xlabel=r"late $\|u_n\|_\infty$ / bound", title="updates")
    ax.set_ylabel("share of runs above")
    ax.legend(loc="upper left", handlelength=1.9, borderaxespad=0, labelspacing=0.2)


def _params(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw the share of runs with decay inside the region above each ratio of the largest parameter to its bound."""
    looks = style.by_rank("experiments/quadratic/figure.py: LOOKS", LOOKS, runs["sweep"].unique())
    runs = runs[(runs["weight_decay"] > 0) & (runs["C"] > 0)]
    for sweep, group in runs.groupby("sweep", sort=False):
        decays = dict(list(group.groupby("weight_decay", sort=False)))
        where = "experiments/quadratic/figure.py: DECAY_LINES"
        for decay, line in style.by_rank(where, DECAY_LINES, decays).items():
            chosen = decays[decay]
            ratio = chosen["param_max"] / np.maximum(chosen["param_start"], chosen["limit_exact"] / decay)
            color, own = looks[sweep]
            _shares(
                ax,
                ratio,
                color,
                own if len(decays) == 1 else line,
                SWEEPS[sweep].format(weight_decay=decay).replace(", ", ",\n"),
            )
    ax.axvline(1, color="0.5", lw=0.8)
    ax.set(xlim=(0, 1.05), ylim=(0, 1), title="parameters, $C>0$", ylabel="share of runs above")
    ax.set_xlabel(r"$\max_n\|\theta_n\|_\infty$ / $\max(\|\theta_0\|_\infty, B/\lambda)$")
    ax.legend(loc="center right", handlelength=1.9, borderaxespad=1.5, labelspacing=0.2)
