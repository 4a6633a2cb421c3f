"""Figure 6: largest update over the unit square of betas, by learning rate, noise level and weight decay (claim S9)."""

from pathlib import Path

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
from ctadam.storage.store import read_runs
from ctadam.theory import stability

#: Number of panels per row.
COLUMNS = 4
#: Largest update on the colour scale.
TOP = 100.0
#: Panel title of each sweep, after the learning rate.
SWEEPS = style.Table(
    "experiments/quadratic/figure.py: SWEEPS",
    {"lr": "", "noise": r"$\sigma$ = {noise:g}", "weight_decay": r"$\lambda$ = {weight_decay:g}"},
)
#: Legend label of each sweep.
NAMES = style.Table(
    "experiments/quadratic/figure.py: NAMES",
    {"lr": "learning rates", "noise": r"noise $\sigma$", "weight_decay": r"weight decay $\lambda$"},
)
#: Colour and line style of the sweeps, in the order of the runs.
LOOKS = list(zip(sns.color_palette("colorblind"), ("-", "--", ":"), strict=False))


def draw(results: str | Path) -> Figure:
    """Return the figure.

    Args:
        results: directory of one scale, with the runs of ``quadratic``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs = read_runs(results, "quadratic")
    NAMES.require(runs["sweep"])
    settings = list(runs.groupby(["sweep", "lr", "noise", "weight_decay"], sort=False))
    rows = -(-(len(settings) + 1) // COLUMNS)
    figure, grid = plt.subplots(
        rows, COLUMNS, figsize=(style.TEXT_WIDTH, 1.75 * rows + 0.55), layout="constrained", squeeze=False
    )
    axes = list(grid.flat)
    norm, colors = LogNorm(1, TOP), mpl.colormaps["cividis"].copy()
    for ax, ((sweep, lr, noise, decay), group) in zip(axes, settings, strict=False):
        _map(ax, group, colors, norm)
        what = SWEEPS[sweep].format(noise=noise, weight_decay=decay)
        ax.set_title(rf"$\eta$ = {lr:g}" + (f", {what}" if what else ""), fontsize=7)
    for ax in axes[len(settings) + 1 :]:
        ax.remove()
    maps, last = axes[: len(settings)], axes[len(settings)]
    for i, ax in enumerate(maps):
        if i % COLUMNS:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel(r"$\gamma$ (beta1)")
        if i + COLUMNS < len(settings):
            ax.tick_params(labelbottom=False)
        else:
            ax.set_xlabel(r"$\beta$ (beta2)")
    _near(last, runs)
    bar = figure.colorbar(
        ScalarMappable(norm, colors), ax=maps, location="bottom", shrink=0.4, aspect=40, extend="max", pad=0.02
    )
    bar.set_label(r"largest update, $\max_n \|u_n\|_\infty$")
    bar.ax.xaxis.set_major_formatter("{x:g}")
    handles, labels = maps[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=1.8, columnspacing=1.4)
    for letter, ax in zip("abcdefghijklmnop", [*maps, last], strict=False):
        ax.set_title(f"$\\mathbf{{({letter})}}$ {ax.get_title(loc='left')}", loc="left", fontsize=7)
    sns.despine(ax=last, left=True, right=False)
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


def _near(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw the share of runs above each ratio of update to exact bound, over the second half of the steps."""
    groups = dict(list(runs.groupby("sweep", sort=False)))
    for sweep, (color, line) in style.by_rank("experiments/quadratic/figure.py: LOOKS", LOOKS, groups).items():
        ratio = np.sort(groups[sweep]["ratio_late"].to_numpy())
        share = 1 - np.arange(len(ratio)) / len(ratio)
        ax.plot(ratio, share, line, color=color, label=NAMES[sweep])
    ax.axvline(1, color="0.5", lw=0.8)
    ax.set(xlim=(0, 1.05), ylim=(0, 1), xlabel=r"late $\|u_n\|_\infty$ / bound", title="exact bound")
    # The axis is on the right, so that the columns of maps stay evenly spaced.
    ax.yaxis.tick_right()
    ax.yaxis.set_label_position("right")
    ax.set_ylabel("share of runs above")
    ax.legend(loc="upper center", handlelength=1.6, fontsize=6, borderpad=0, borderaxespad=0, labelspacing=0.15)
