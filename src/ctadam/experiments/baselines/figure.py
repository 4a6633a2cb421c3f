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
from ctadam.experiments.baselines.contenders import FAMILIES
from ctadam.experiments.baselines.measure import at_share
from ctadam.storage.store import read_joined, read_runs

#: Task -> label of its test result, less is better, and the function from the measured value, of which more is better.
NAMES = style.Table(
    "experiments/baselines/figure.py: NAMES",
    {"images": ("test error", lambda value: 1 - value), "text": ("test loss (nats per token)", lambda value: -value)},
)
#: Optimizers that are emphasized.
STRONG = ("2-Adam", "AdamW")


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
    size = style.TEXT_WIDTH, 2.5 * len(tasks) + 0.8
    figure, axes = plt.subplots(len(tasks), 2, figsize=size, layout="constrained", squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        rows = table[table["task"] == task]
        _sensitivity(row[0], rows, task)
        _tuned(row[1], rows, equal[equal["task"] == task], task)
    shown = {family: look for family, look in looks().items() if family in set(table["family"])}
    handles = [style.handle(family, **look, ls=_line(family)) for family, look in shown.items()]
    handles += [style.handle("at Adam's memory traffic", ls="", marker="o", color="0.4", mfc="w")]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, handlelength=2.2, columnspacing=1.2)
    style.label_panels(axes.flat)
    sns.despine(figure)
    return figure


def _line(family: str) -> str:
    """Return the line style of a family; that of the variant of 2-Adam is dashed."""
    return "--" if family == "2-Adam unsmoothed" else "-"


def _sensitivity(ax: Axes, rows: pd.DataFrame, task: str) -> None:
    """Plot the mean result of each family at each learning rate; other settings are chosen by validation.

    Errors are plotted on a logarithmic axis, which separates the good ones.
    """
    name, result = NAMES[task]
    settings = rows.groupby(["family", "contender", "lr", "weight_decay"], as_index=False)[["value", "validation"]]
    means = settings.mean()
    means = means.loc[means.groupby(["family", "lr"])["validation"].idxmax()]
    means["result"] = result(means["value"])
    for family, look in looks().items():
        best = means[means["family"] == family]
        width: dict[str, Any] = {"lw": 1.8, "zorder": 4} if family in STRONG else {"lw": 0.9, "zorder": 3}
        ax.plot(best["lr"], best["result"], ls=_line(family), **look, **width)
    chance = rows["chance_level"].iloc[0]
    chance = 1 - chance if task == "images" else chance
    ax.axhline(chance, color="0.6", lw=0.8, ls=":", zorder=0)
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": style.SMALL, "color": "0.4"}
    ax.annotate("chance", (0, chance), (3, 2), xycoords=ax.get_yaxis_transform(), **text)
    ax.set(xscale="log", xlabel=r"learning rate $\eta$", ylabel=name, title=f"{task}: by learning rate")
    if task == "images":
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    if task == "text":
        low = means["result"].min()
        ax.set_ylim(low - 0.05 * (chance - low), chance + 0.12 * (chance - low))


def _tuned(ax: Axes, rows: pd.DataFrame, equal: pd.DataFrame, task: str) -> None:
    """Plot the tuned result of each contender after all steps, and at Adam's memory traffic.

    2-Adam by itself is the family, with the strategy chosen by validation, too.
    """
    name, result = NAMES[task]
    full, fewer = (
        pd.concat([t[t["chosen"]], t[t["chosen_in_family"] & (t["family"] == "2-Adam")].assign(contender="2-Adam")])
        for t in (rows, equal)
    )
    full, fewer = (t.assign(result=result(t["value"])) for t in (full, fewer))
    order = full.groupby("contender")["result"].mean().sort_values(kind="stable").index
    full["place"] = full["contender"].map(order.get_loc)
    style.means(ax, full, "family", looks(), x="result", y="place", orient="y", linestyle="none")
    means = fewer.groupby("contender")["result"].mean()
    for place, contender in enumerate(order):
        own = full[full["contender"] == contender]
        if not np.isclose(means[contender], own["result"].mean()):
            ax.plot(means[contender], place, ls="", mfc="w", zorder=4, **looks()[own["family"].iloc[0]])
    ax.set_yticks(range(len(order)), order)
    for label in ax.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in STRONG else "normal")
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set(xlabel=name, ylabel="", title=f"{task}: tuned")
