"""Figure 9: 2-Adam compared with tuned baselines on images and on text (claims K4, K5)."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctadam.analysis import style
from ctadam.analysis.seeds import over_seeds
from ctadam.experiments.baselines.measure import at_share
from ctadam.storage.store import read_joined, read_runs

#: Task -> label of its test result, and the sign that makes larger better.
NAMES = style.Table(
    "experiments/baselines/figure.py: NAMES",
    {"images": ("test accuracy", 1.0), "text": ("test loss (nats per token)", -1.0)},
)


def draw(results: str | Path) -> Figure:
    """Draw the figure from the runs, predictions and measurements of ``baselines`` in the directory ``results``."""
    table = read_joined(results, "baselines")
    NAMES.require(table["task"])
    style.FAMILIES.require(table["family"])
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
    """Plot for each family the best mean result over seeds at each learning rate."""
    name, sign = NAMES[task]
    means = rows.groupby(["family", "contender", "lr", "weight_decay"], as_index=False)["value"].mean()
    for family, family_look in style.FAMILIES.items():
        best = sign * means[means["family"] == family].groupby("lr")["value"].max()
        if len(best):
            strong = family in ("2-Adam", "AdamW")
            look: dict[str, Any] = {"lw": 1.8, "zorder": 4} if strong else {"lw": 0.9, "zorder": 3}
            line = "--" if family == "2-Adam unsmoothed" else "-"
            ax.plot(best.index, best, line, label=family, **family_look, **look)
    guess = rows["guess"].iloc[0]
    ax.axhline(guess, color="0.6", lw=0.8, ls=":", zorder=0)
    look = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 6, "color": "0.4"}
    ax.annotate("chance", (0, guess), (3, 2), **look)
    ax.set(xscale="log", xlabel=r"learning rate $\eta$", ylabel=name, title=f"{task}: sensitivity")
    if task == "text":
        low = (sign * means["value"]).min()
        ax.set_ylim(low - 0.05 * (guess - low), guess + 0.12 * (guess - low))


def _tuned(ax: Axes, rows: pd.DataFrame, equal: pd.DataFrame, task: str) -> None:
    """Plot the tuned result of each contender after all steps, and at equal optimizer traffic."""
    name, sign = NAMES[task]
    chosen = rows[rows["chosen"]].groupby("contender")["value"].apply(lambda v: v.to_numpy())
    chosen["2-Adam, tuned"] = rows.loc[rows["chosen_in_family"] & (rows["family"] == "2-Adam"), "value"].to_numpy()
    fewer = equal[equal["chosen"]].groupby("contender")["value"].mean()
    fewer["2-Adam, tuned"] = equal.loc[equal["chosen_in_family"] & (equal["family"] == "2-Adam"), "value"].mean()
    family = rows.drop_duplicates("contender").set_index("contender")["family"]
    order = sorted((c for c in chosen.index if len(chosen[c])), key=lambda c: -chosen[c].mean())
    for y, contender in enumerate(order):
        look = style.FAMILIES[family.get(contender, "2-Adam")]
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
