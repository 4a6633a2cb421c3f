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

#: Number of maps per row.
COLUMNS = 4
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
    rows = len(shown) // COLUMNS + 1  # one more place than maps, for the legend
    figure = plt.figure(figsize=(style.TEXT_WIDTH, 1.55 * rows + 2.7), layout="constrained")
    # Separate subfigures, so that the maps are spaced evenly.
    subfigures: Any = figure.subfigures(2, 1, height_ratios=[1.55 * rows + 0.3, 2.4])
    upper, lower = subfigures
    grid = upper.subplots(rows, COLUMNS, squeeze=False)
    places, halves = list(grid.flat[: len(shown) + 1]), lower.subplots(1, 2)
    for ax in grid.flat[len(shown) + 1 :]:
        ax.remove()
    maps, legend = places[:-1], places[-1]
    norm, colors = LogNorm(1, TOP), mpl.colormaps["cividis"].copy()
    for i, (ax, ((sweep, lr, noise, decay), group)) in enumerate(zip(maps, shown, strict=True)):
        _map(ax, group, colors, norm)
        what = SWEEPS[sweep].format(noise=noise, weight_decay=decay)
        # Only the sweep's own parameter, and the learning rate where it is swept.
        ax.set_title(what or rf"$\eta$ = {lr:g}")
        left, bottom = i % COLUMNS == 0, i // COLUMNS == rows - 1
        ax.tick_params(labelleft=left, labelbottom=bottom)
        ax.set(xlabel=r"$\beta$ (beta2)" if bottom else "", ylabel=r"$\gamma$ (beta1)" if left else "")
    legend.set_axis_off()
    legend.legend(*maps[0].get_legend_handles_labels(), loc="center", handlelength=1.6)
    bar = upper.colorbar(ScalarMappable(norm, colors), ax=places, aspect=30, extend="max")
    bar.set_label(r"largest update, $\max_n \|u_n\|_\infty$")
    bar.ax.yaxis.set_major_formatter("{x:g}")
    _near(halves[0], runs)
    _params(halves[1], runs)
    style.label_panels([*maps, *halves])
    for ax in halves:
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


def _shares(ax: Axes, runs: pd.DataFrame, looks: dict[str, tuple[str, str]], loc: Any) -> None:
    """Draw the share of runs above each ``ratio``, one line per ``name``, with the limit 1."""
    palette = {name: color for name, (color, _) in looks.items()}
    options: dict[str, Any] = {"hue": "name", "hue_order": list(looks), "palette": palette, "legend": False}
    sns.ecdfplot(runs, x="ratio", complementary=True, ax=ax, **options)
    # seaborn draws the last level first.
    for i, (line, (name, (_, kind))) in enumerate(zip(ax.lines[::-1], looks.items(), strict=True)):
        line.set(linestyle=kind, label=name, zorder=2 + i / 10)
    ax.axvline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(xlim=(0, 1.05), ylim=(0, 1.05), ylabel="share of runs above")
    ax.legend(handles=ax.lines[-2::-1], loc=loc, handlelength=2.2)


def _near(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw the share of runs above each ratio of update to exact bound, over the second half of the steps."""
    looks = style.by_rank("experiments/quadratic/figure.py: LOOKS", LOOKS, runs["sweep"].unique())
    runs = runs.assign(name=runs["sweep"].map(NAMES), ratio=runs["ratio_late"])
    _shares(ax, runs, {NAMES[sweep]: look for sweep, look in looks.items()}, "lower left")
    ax.set(xlabel="largest late update / exact bound", title="updates, all pairs (S9)")


def _params(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw the share of runs with decay inside the region above each ratio of the largest parameter to its bound."""
    looks = style.by_rank("experiments/quadratic/figure.py: LOOKS", LOOKS, runs["sweep"].unique())
    runs = runs[(runs["weight_decay"] > 0) & (runs["C"] > 0)]
    bound = np.maximum(runs["param_start"], runs["limit_exact"] / runs["weight_decay"])
    runs = runs.assign(ratio=runs["param_max"] / bound)
    chosen, parts = {}, []
    for sweep, group in runs.groupby("sweep", sort=False):
        decays = dict(list(group.groupby("weight_decay", sort=False)))
        where = "experiments/quadratic/figure.py: DECAY_LINES"
        for decay, line in style.by_rank(where, DECAY_LINES, decays).items():
            name = SWEEPS[sweep].format(weight_decay=decay)
            color, own = looks[sweep]
            chosen[name] = (color, own if len(decays) == 1 else line)
            parts.append(decays[decay].assign(name=name))
    _shares(ax, pd.concat(parts), chosen, "center")
    ax.set(
        xlabel=r"largest parameter / $\max(\|\theta_0\|_\infty, B/\lambda)$", title="parameters, pairs with $C>0$ (S12)"
    )
