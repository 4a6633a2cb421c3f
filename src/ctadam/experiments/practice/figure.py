"""Figures 8 and 13: the growth in practice.

Figure 8 shows its mechanism (claims S10, E1 and L1), figure 13 what ends it (claims E1 and E2).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from ctadam.analysis import style
from ctadam.storage.store import read_joined, read_runs
from ctadam.storage.tables import sort_rows
from ctadam.theory import stability

_COLORS = sns.color_palette("colorblind").as_hex()
#: Colour and marker by rank of ε. The colours of the laws are left out.
EPS = [
    {"color": _COLORS[1], "marker": "o"},
    {"color": _COLORS[2], "marker": "s"},
    {"color": _COLORS[4], "marker": "^"},
    {"color": _COLORS[5], "marker": "D"},
]
#: Dashes by precision of the state.
DTYPES = style.Table("experiments/practice/figure.py: DTYPES", {"float64": "", "float32": (1.5, 1)})
#: Name and look by variant of the growth runs.
TOKENS = style.Table(
    "experiments/practice/figure.py: TOKENS",
    {
        "curve": ("words", {"color": style.COLORS["measured"], "marker": "o"}),
        "characters": ("characters", {"color": "0.6", "marker": "^"}),
    },
)
#: Alternating colours of the rows that hold the largest update.
ROWS = ("0.2", "0.65")
#: Look of the exact law's predictions.
EXACT: dict[str, Any] = {"color": style.COLORS["exact"], "ls": style.LINES["exact"], "lw": 1, "zorder": 3}
#: Number of words with the largest update that are labelled.
NAMED = 4


def draw(results: str | Path) -> Figure:
    """Return figure 8.

    Args:
        results: directory of one scale, with the runs, predictions and measurements of ``practice`` and ``growth``.

    Raises:
        ArtifactError: if they are incomplete or were changed.
    """
    runs, table = read_runs(results, "practice"), read_joined(results, "practice")
    epsilon = _of_first_seed(table)
    bare = _bare(epsilon)
    figure, axes = plt.subplots(2, 2, figsize=(style.TEXT_WIDTH, 4.9), layout="constrained")
    _holders(axes[0, 0], runs[runs["run"] == bare["run"]], bare)
    _unseen(axes[0, 1], runs, epsilon[epsilon["state_dtype"] == "float64"])
    _tokens(axes[1, 0], results)
    _long(axes[1, 1], runs, table[table["variant"] == "long"])
    style.label_panels(axes.flat)
    for ax in axes.flat:
        sns.despine(ax=ax)
        if ax.get_yscale() == "log":
            ax.yaxis.minorticks_off()  # too dense over many decades
    return figure


def draw_protection(results: str | Path) -> Figure:
    """Return figure 13, from the results of ``practice``."""
    runs, table = read_runs(results, "practice"), read_joined(results, "practice")
    epsilon, others = _of_first_seed(table), table[table["variant"] != "long"]
    bare = _bare(epsilon)
    places = others.assign(setting=[setting(run, bare) for run in others.itertuples()])
    size = style.TEXT_WIDTH, 1.3 + 0.16 * places["setting"].nunique()
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
    looks = _eps_looks(others)
    _ended(axes[0], runs, epsilon, looks)
    _protection(axes[1], places, looks)
    handles = [style.handle(rf"$\epsilon$ = {eps:g}", ls="", **look) for eps, look in looks.items()]
    handles += [
        style.handle(f"state {name}", color="0.3", ls=(0, dash) if dash else "-") for name, dash in DTYPES.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.5)
    style.label_panels(axes)
    sns.despine(figure)
    axes[0].yaxis.minorticks_off()
    axes[1].xaxis.minorticks_off()
    return figure


def _of_first_seed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with different ε and state precision, of the first seed."""
    epsilon = table[table["variant"] == "epsilon"]
    return epsilon[epsilon["seed"] == epsilon["seed"].iloc[0]]


def _bare(epsilon: pd.DataFrame) -> pd.Series:
    """Return the run that nothing protects: ε = 0 and float64 state."""
    return epsilon[(epsilon["eps"] == 0) & (epsilon["state_dtype"] == "float64")].iloc[0]


def _rows(table: pd.DataFrame) -> Iterator[Any]:
    """Iterate over the rows of a table, with its columns as attributes."""
    return table.itertuples()


def _steady(values: Iterable[float]) -> np.ndarray:
    """Round to nine digits, so that pixels do not depend on memory alignment, which affects the last bits of `numpy.exp`."""
    return np.array([float(f"{value:.9g}") for value in values])


def _spans(steps: pd.DataFrame) -> list[pd.DataFrame]:
    """Split the steps of a run into maximal stretches during which the largest update stays in the same row."""
    same = (steps["update_tensor"] == steps["update_tensor"].shift()) & (
        steps["update_row"] == steps["update_row"].shift()
    )
    return [part for _, part in steps.groupby((~same).cumsum())]


def _holders(ax: Axes, steps: pd.DataFrame, run: pd.Series) -> None:
    """Draw the largest update of one run, coloured by row, and the exact rate through its longest stretches in one row."""
    steps = steps[np.isfinite(steps["update_max"])]
    spans = _spans(steps)
    for i, part in enumerate(spans):
        ax.plot(part["step"], part["update_max"], "-", lw=3, color=ROWS[i % 2])
    for part in sorted(spans, key=len, reverse=True)[:NAMED]:
        n, middle = part["step"].to_numpy(), part.iloc[len(part) // 2]
        rise = np.exp(run["rate_exact"] * (n - middle["step"])) * stability.prefactor(
            beta1=run["beta1"], beta2=run["beta2"], step=n
        )
        rise /= stability.prefactor(beta1=run["beta1"], beta2=run["beta2"], step=middle["step"])
        ax.plot(n, _steady(middle["update_max"] * rise), **EXACT)
        # A row without a token is labelled with its tensor, without the block's name.
        word = middle["token"] or middle["update_tensor"].split(".", 2)[-1]
        unseen = f", {middle['unseen']}" if middle["token"] else ""
        arrow = {"arrowstyle": "-", "color": "0.4", "lw": 0.5, "shrinkA": 0, "shrinkB": 1}
        text: dict[str, Any] = {"textcoords": "offset points", "fontsize": style.SMALL, "arrowprops": arrow}
        ax.annotate(f"{word}{unseen}", (middle["step"], middle["update_max"]), (10, -13), **text)
    turns = tuple(Line2D([], [], color=color, lw=3) for color in ROWS)
    handles: list[Any] = [turns, style.handle("", **EXACT)]
    names = ["largest update, by row", r"exact rate $\ln\gamma/\!\sqrt{\beta}$"]
    ax.legend(handles, names, loc="upper left", handler_map={tuple: HandlerTuple(ndivide=None, pad=0)})
    ax.set(yscale="log", xlabel="step $n$", ylabel=r"$\|u_n\|_\infty$", title="token, and steps since it was seen")
    ax.set(xlim=(0, 1.12 * steps["step"].max()), ylim=(0.1, None))


def _unseen(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw the largest update against the number of steps for which its token has been unseen (E1).

    The lines show a coordinate that receives one gradient and none after it: m/√v starts at (1−γ)/√(1−β) and then follows
    the exact law with ε. The unknown size of that gradient is fitted to the peak with the largest ε. The other lines are
    predictions.
    """
    looks = _eps_looks(table)
    pair = {"beta1": table["beta1"].iloc[0], "beta2": table["beta2"].iloc[0]}
    a, b = -np.log(pair["beta1"]), -0.5 * np.log(pair["beta2"])
    start = (1 - pair["beta1"]) / np.sqrt(1 - pair["beta2"])
    at: Any = table["eps"].idxmax()
    largest = table.loc[at]
    root = 1.0
    if largest["eps"] > 0 and largest["cap"] > 0:
        # The cap grows like (root/ε)^((b−a)/b).
        root = (largest["peak"] / (start * largest["cap"])) ** (b / (b - a))
    steps = runs[runs["run"].isin(table["run"]) & (runs["unseen"] > 0)]
    j = np.arange(int(steps["unseen"].max() if len(steps) else 1) + 1)
    for run in _rows(table):
        own = steps[steps["run"] == run.run]
        ax.plot(own["unseen"], own["update_max"], ls="", ms=3, mew=0.5, mfc="none", rasterized=True, **looks[run.eps])
        ax.plot(j, _steady(start * np.exp(-a * j) / (np.exp(-b * j) + run.eps / root)), **EXACT)
    handles = [style.handle(rf"$\epsilon$ = {eps:g}", ls="", mfc="none", **look) for eps, look in looks.items()]
    ax.legend(handles=[*handles, style.handle("one gradient, then none", **EXACT)], loc="upper left")
    ax.set(yscale="log", xlabel="steps for which its token is unseen", ylabel=r"$\|u_n\|_\infty$")
    ax.set(ylim=(0.1, None), title=r"growth ends at $\epsilon$ (E1)")


def _tokens(ax: Axes, results: str | Path) -> None:
    """Draw the growth rates with word and with character tokens against C, at the unstable points, and the paper's rate (S10)."""
    table = read_joined(results, "growth")
    low = table.loc[table["variant"] == "characters", "C"].max()
    table = table[table["variant"].isin(["curve", "characters"]) & (table["C"] <= low + 0.02)]
    TOKENS.require(table["variant"])
    looks = {variant: look for variant, (_, look) in TOKENS.items()}
    style.means(ax, table[np.isfinite(table["rate"])], "variant", looks, x="C", y="rate", linestyle="none")
    c = np.array([table["C"].min(), 0.0, table["C"].max()])
    paper = {"color": style.COLORS["paper"], "ls": style.LINES["paper"]}
    ax.plot(c, np.maximum(0.0, -c / 2), zorder=3, **paper)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set(xlabel=r"coefficient $C(\beta,\gamma)$", ylabel="growth rate per step", title="words and characters (S10)")
    handles = [style.handle(name, ls="", **look) for name, look in TOKENS.values()]
    ax.legend(handles=[*handles, style.handle("paper: $-C/2$", **paper)], loc="lower left")


def _eps_looks(table: pd.DataFrame) -> dict[float, dict[str, Any]]:
    """Return colour and marker of each ε in the table."""
    return style.by_rank("experiments/practice/figure.py: EPS", EPS, sorted(table["eps"].unique()))


def _long(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw long runs at points of the normal curve, one line per seed, and growth at the exact rate from step 0 (L1)."""
    limits = np.log10([0.1, 30 * table["peak"].max()])
    length = table["steps"].max()
    ends = []
    for c, point in table.groupby("C"):
        last_updates = []
        for run in _rows(sort_rows(point, ["seed"])):
            steps = runs[(runs["run"] == run.run) & np.isfinite(runs["update_max"])]
            ax.plot(steps["step"], steps["update_max"], lw=0.5, color="0.4")
            last_updates.append(steps["update_max"].iloc[-1])
            if run.diverged_at >= 0:
                ax.plot(steps["step"].iloc[-1], last_updates[-1], "x", ms=5, mew=1.2, color="0.15")
        if (rate := point["rate_exact"].iloc[0]) > 0:
            last = min(length, limits[1] * np.log(10) / rate)
            ax.plot([0, last], [1, np.exp(rate * last)], **EXACT)
        ends.append([np.log10(np.median(last_updates)), f"$C={c:.3f}$"])
    # Label each line at its end, moved up where two labels would overlap.
    below = -np.inf
    for end, name in sorted(ends):
        below = max(end, below + 0.07 * (limits[1] - limits[0]))
        text: dict[str, Any] = {"textcoords": "offset points", "fontsize": style.SMALL, "annotation_clip": False}
        at = (1, (below - limits[0]) / (limits[1] - limits[0]))
        ax.annotate(name, at, (3, 0), xycoords="axes fraction", va="center", **text)
    handles = [style.handle("largest update, by seed", color="0.4", lw=0.5), style.handle("exact rate from 1", **EXACT)]
    ax.legend(handles=handles, loc="upper left")
    ax.set(yscale="log", xlabel="step $n$", ylabel=r"$\|u_n\|_\infty$", title="long runs (L1)")
    ax.set(xlim=(0, length), ylim=10**limits)


def _ended(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame, looks: dict[float, dict[str, Any]]) -> None:
    """Draw the largest update against the step, for every ε and precision of the state."""
    steps = runs[runs["run"].isin(table["run"])]
    DTYPES.require(steps["state_dtype"])
    palette = {eps: look["color"] for eps, look in looks.items()}
    options: dict[str, Any] = {"hue": "eps", "palette": palette, "style": "state_dtype", "dashes": dict(DTYPES)}
    sns.lineplot(steps, x="step", y="update_max", estimator=None, lw=1, legend=False, ax=ax, **options)
    ax.set(yscale="log", xlabel="step $n$", ylabel=r"largest update $\|u_n\|_\infty$", title="one seed (E1)")
    ax.set_xlim(0, steps["step"].max())


def setting(run: Any, bare: pd.Series) -> str:
    """Return the label of a run: ε, state precision, and its other differences from the bare unstable run.

    Args:
        run: row of the joined table, with its columns as attributes.
        bare: row of the run with ε = 0, float64 state and no safeguard.
    """
    parts = [rf"$\epsilon$ = {run.eps:g}", f"{run.state_dtype}"]
    if run.precision != "float32":
        parts.append(f"gradients {run.precision}")
    if np.isfinite(run.clip):
        parts.append(f"clip {run.clip:g}")
    if run.weight_decay > 0:
        parts.append(rf"$\lambda$ = {run.weight_decay:g}")
    if run.lr != bare.lr:
        parts.append(rf"$\eta$ = {run.lr:g}")
    if (run.beta1, run.beta2) != (bare.beta1, bare.beta2):
        parts.append(f"pair ({run.beta2:g}, {run.beta1:g})")
    return ", ".join(parts)


def _protection(ax: Axes, table: pd.DataFrame, looks: dict[float, dict[str, Any]]) -> None:
    """Draw the largest update under every setting, one point per seed, with the mean final test loss at the right."""
    groups = table.groupby("setting").agg(peak=("peak", lambda x: np.log(x).mean()), loss=("test_loss", "mean"))
    # Rounding makes the order reproducible: some settings have equal peaks whose logarithms differ in the last digit.
    groups = sort_rows(groups.reset_index().round({"peak": 9}), ["peak", "setting"], ascending=[False, True])
    order = {name: place for place, name in enumerate(groups["setting"])}
    table = table.assign(place=table["setting"].map(order))
    for eps, look in looks.items():
        own = table[table["eps"] == eps]
        ax.plot(own["peak"], own["place"], ls="", ms=3.5, mfc="w", mew=0.9, **look)
    text: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    for place, label in [(-1, "loss"), *((order[row.setting], f"{row.loss:.3f}") for row in _rows(groups))]:
        ax.annotate(label, (1, place), (3, 0), fontsize=style.SMALL, annotation_clip=False, **text)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set(xscale="log", xlabel=r"largest update, $\max_n\|u_n\|_\infty$", title="all seeds (E1, E2)")
    ax.grid(axis="y", lw=0.3, color="0.85")
