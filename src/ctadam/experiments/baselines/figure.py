"""Figure 9: 2-Adam compared with tuned baselines on images and on text (claims K4, K5)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ctadam.analysis import style
from ctadam.analysis.seeds import over_seeds
from ctadam.experiments.baselines.contenders import CONTENDERS, FAMILIES
from ctadam.experiments.baselines.measure import at_share
from ctadam.storage.store import read_joined, read_runs

#: Task -> label of its test result, and the sign that makes larger better.
NAMES = style.Table(
    "experiments/baselines/figure.py: NAMES",
    {"images": ("test accuracy", 1.0), "text": ("test loss (nats per token)", -1.0)},
)


def looks() -> style.Table:
    """Return the colour and marker of each family, by its place in the registry."""
    return style.Table(
        "experiments/baselines/contenders.py: CONTENDERS",
        style.by_rank("analysis/style.py: OPTIMIZERS", style.OPTIMIZERS, FAMILIES),
    )


def draw(results: str | Path) -> Figure:
    """Draw the figure from the runs, predictions and measurements of ``baselines`` in the directory ``results``."""
    table = read_joined(results, "baselines")
    looks().require(table["family"])
    NAMES.require(table["task"])
    equal = at_share(read_runs(results, "baselines"), table.set_index("run")["share"])
    tasks = [task for task in NAMES if (table["task"] == task).any()]
    size = style.TEXT_WIDTH, 2.9 * len(tasks) + 0.4
    options: dict[str, Any] = {"layout": "constrained", "squeeze": False, "width_ratios": (1.25, 1)}
    figure, axes = plt.subplots(len(tasks), 2, figsize=size, **options)
    for row, task in zip(axes, tasks, strict=True):
        rows = table[table["task"] == task]
        _sensitivity(row[0], rows, task)
        _tuned(row[1], rows, equal[equal["task"] == task], task)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, handlelength=2.2)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _sensitivity(ax: Axes, rows: pd.DataFrame, task: str) -> None:
    """Plot the mean result of each family at each learning rate; other settings are chosen by validation.

    Accuracies are plotted as errors on a logarithmic axis, which separates the good ones.
    """
    name, sign = NAMES[task]
    settings = rows.groupby(["family", "contender", "lr", "weight_decay"], as_index=False)[["value", "validation"]]
    means = settings.mean()
    means = means.loc[means.groupby(["family", "lr"])["validation"].idxmax()]
    for family, family_look in looks().items():
        best = sign * means[means["family"] == family].set_index("lr")["value"]
        best = 1 - best if task == "images" else best
        if len(best):
            strong = family in ("2-Adam", "AdamW")
            look: dict[str, Any] = {"lw": 1.8, "zorder": 4} if strong else {"lw": 0.9, "zorder": 3}
            line = "--" if family == "2-Adam unsmoothed" else "-"
            ax.plot(best.index, best, line, label=family, **family_look, **look)
    chance = rows["chance_level"].iloc[0]
    chance = 1 - chance if task == "images" else chance
    ax.axhline(chance, color="0.6", lw=0.8, ls=":", zorder=0)
    look = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 6, "color": "0.4"}
    ax.annotate("chance", (0, chance), (3, 2), **look)
    ax.set(xscale="log", xlabel=r"learning rate $\eta$", ylabel=name, title=f"{task}: sensitivity")
    if task == "images":
        ax.set(yscale="log", ylabel="test error")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    if task == "text":
        low = (sign * means["value"]).min()
        ax.set_ylim(low - 0.05 * (chance - low), chance + 0.12 * (chance - low))


def _tuned(ax: Axes, rows: pd.DataFrame, equal: pd.DataFrame, task: str) -> None:
    """Plot the tuned result of each contender after all steps, and at equal optimizer traffic."""
    name, sign = NAMES[task]
    chosen = rows[rows["chosen"]].groupby("contender")["value"].apply(lambda v: v.to_numpy())
    chosen["2-Adam, tuned"] = rows.loc[rows["chosen_in_family"] & (rows["family"] == "2-Adam"), "value"].to_numpy()
    fewer = equal[equal["chosen"]].groupby("contender")["value"].mean()
    fewer["2-Adam, tuned"] = equal.loc[equal["chosen_in_family"] & (equal["family"] == "2-Adam"), "value"].mean()
    family_of = {name: columns["family"] for name, columns in CONTENDERS.items()} | {"2-Adam, tuned": "2-Adam"}
    look_of = looks()
    order = sorted((c for c in chosen.index if len(chosen[c])), key=lambda c: -chosen[c].mean())
    for y, contender in enumerate(order):
        look = look_of[family_of[contender]]
        mean, _, high = over_seeds(sign * chosen[contender])
        half = high - mean if np.isfinite(high) else 0.0
        ax.errorbar(mean, y, xerr=half, lw=1.2, ms=5 if contender == "2-Adam, tuned" else 4, **look)
        if not np.isclose(fewer[contender], chosen[contender].mean()):
            ax.plot(sign * fewer[contender], y, ls="", mfc="w", zorder=4, **look)
    ax.plot([], [], "o", color="0.4", label="all steps, 95 % interval")
    ax.plot([], [], "o", color="0.4", mfc="w", label="equal optimizer traffic")
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.19), ncols=2, handletextpad=0.1, columnspacing=0.8)
    ax.set_yticks(range(len(order)), [c.replace("2-Adam unsmoothed", "unsmoothed") for c in order])
    for label in ax.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in ("2-Adam, tuned", "AdamW") else "normal")
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set(xlabel=name, title=f"{task}: tuned")
