"""Figure style: sizes for a printed column and colours for colour-blind readers."""

import contextlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from ctadam.analysis.seeds import over_seeds
from ctadam.errors import ArtifactError


class Table(dict[Any, Any]):
    """Map values in the results to colours, markers or names. A missing entry raises an error that says where to add it.

    Args:
        where: file and name of the table, such as ``analysis/style.py: COLORS``.
        entries: the mapping.
    """

    def __init__(self, where: str, entries: Mapping[Any, Any]) -> None:
        super().__init__(entries)
        self.where = where

    def __missing__(self, key: Any) -> Any:
        key = key.item() if isinstance(key, np.generic) else key  # show 0.9 instead of np.float64(0.9)
        raise ArtifactError(f"{self.where} has no entry for {key!r}: add one")

    def require(self, values: Iterable[Any]) -> None:
        """Check that every value has an entry. A loop over the entries would skip a value without one.

        Raises:
            ArtifactError: if a value has no entry.
        """
        for value in dict.fromkeys(values):
            self[value]


def by_rank(where: str, entries: Sequence[Any], values: Iterable[Hashable]) -> dict[Any, Any]:
    """Assign entries to values in order, and return ``{value: entry}``.

    Args:
        where: file and name of the entries, for the message.
        entries: colours or markers.
        values: values in the results.

    Raises:
        ArtifactError: if there are more values than entries.
    """
    values = list(values)
    if len(values) > len(entries):
        raise ArtifactError(f"{where} has {len(entries)} entries, and {len(values)} are needed: add more")
    return dict(zip(values, entries, strict=False))


#: Text width in inches. Figures of this width are printed without scaling.
TEXT_WIDTH = 6.75
#: Size of the smallest text, in points.
SMALL = 7
#: Categorical colours by role (seaborn's colorblind palette), so that each law has one colour in all figures.
_PALETTE = sns.color_palette("colorblind").as_hex()
COLORS = Table(
    "analysis/style.py: COLORS", {"paper": _PALETTE[3], "exact": _PALETTE[0], "measured": "0.15", "curve": "0.25"}
)
#: Line styles of the laws.
LINES = Table("analysis/style.py: LINES", {"paper": "--", "exact": "-"})
#: Styles of the differential equations, by (order, kernel).
EQUATIONS = Table(
    "analysis/style.py: EQUATIONS",
    {
        (1, "paper"): {"color": _PALETTE[3], "marker": "o"},
        (1, "exact"): {"color": _PALETTE[0], "marker": "s"},
        (2, "paper"): {"color": _PALETTE[1], "marker": "^"},
        (2, "exact"): {"color": _PALETTE[2], "marker": "D"},
    },
)
#: Strategies for the betas of k-Adam's stages.
STRATEGIES = Table(
    "analysis/style.py: STRATEGIES",
    {
        "inverse-exp": {"color": _PALETTE[0], "marker": "o"},
        "uniform": {"color": _PALETTE[1], "marker": "s"},
        "exp": {"color": _PALETTE[2], "marker": "^"},
        "naive": {"color": _PALETTE[3], "marker": "D"},
    },
)
#: Looks of the optimizers in the comparison with k-Adam, in the order of their registry.
OPTIMIZERS: list[dict[str, Any]] = [
    {"color": _PALETTE[0], "marker": "o"},
    {"color": _PALETTE[9], "marker": "P"},
    {"color": "0.15", "marker": "s"},
    {"color": _PALETTE[1], "marker": "v"},
    {"color": _PALETTE[2], "marker": "D"},
    {"color": _PALETTE[7], "marker": "^"},
    {"color": _PALETTE[3], "marker": "X"},
    {"color": _PALETTE[4], "marker": "*"},
    {"color": _PALETTE[5], "marker": "p"},
    {"color": _PALETTE[6], "marker": "h"},
    {"color": _PALETTE[8], "marker": "d"},
    {"color": "0.55", "marker": "<"},
]
#: Line styles of the models.
MODEL_LINES = Table("analysis/style.py: MODEL_LINES", {"mlp": "--", "transformer": "-"})


def interval(values: ArrayLike) -> tuple[float, float]:
    """Return the ledger's 95 % interval of a mean over seeds, for seaborn's ``errorbar``; the mean itself where there is none."""
    mean, low, high = over_seeds(values)
    return (low, high) if np.isfinite(low) else (mean, mean)


def means(
    ax: Axes, data: pd.DataFrame, by: str, looks: Mapping[Any, Mapping[str, Any]], *, dodge: float = 2.5, **options: Any
) -> None:
    """Draw means over seeds with the ledger's intervals, one colour and marker per level of a column.

    Args:
        ax: panel. Set the scale of its axes before: on a logarithmic axis the mean of y is the geometric mean.
        data: table with one row per run.
        by: column that colours and markers distinguish.
        looks: ``color``, ``marker`` and, optionally, ``linestyle`` of each level, in the order of drawing.
        dodge: horizontal distance of the levels from each other, in points; none where the means are horizontal. Data
            coordinates are not changed.
        **options: ``x``, ``y`` and further options of `seaborn.pointplot`.
    """
    groups: dict[Any, pd.DataFrame] = dict(list(data.groupby(by)))
    levels = [level for level in looks if level in groups]
    common: dict[str, Any] = {"markersize": 3.5, "linewidth": 1, "err_kws": {"linewidth": 0.8}}
    for i, level in enumerate(levels):
        drawn, look = len(ax.lines), common | dict(looks[level]) | options
        sns.pointplot(groups[level], errorbar=interval, native_scale=True, ax=ax, **look)
        step = 0 if options.get("orient") == "y" else dodge
        shift = ScaledTranslation(step * (i - (len(levels) - 1) / 2) / 72, 0, ax.figure.dpi_scale_trans)
        for line in ax.lines[drawn:]:
            line.set_transform(ax.transData + shift)
        if step and len(levels) > 1:
            ax.margins(x=0.1)


def share_y(axes: Sequence[Axes]) -> None:
    """Give panels in one row the same y-axis, wide enough for all, and one label."""
    limits = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    for ax in axes[1:]:
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)


def handle(label: str, **look: Any) -> Line2D:
    """Return a legend entry."""
    return Line2D([], [], label=label, **{"markersize": 4, "linewidth": 1.2} | look)


def rates_axis(ax: Axes, rates: Iterable[float], label: str = r"learning rate $\eta$") -> None:
    """Set a logarithmic x-axis with a tick at each of the given learning rates, and labels as far as there is room."""
    ticks = sorted(set(rates))
    ax.set(xscale="log", xlabel=label)
    ax.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    ax.xaxis.minorticks_off()


@contextlib.contextmanager
def context() -> Iterator[None]:
    """Set the figure style within a ``with`` block: Agg backend, seaborn's paper context, fully embedded fonts.

    The settings start from matplotlib's defaults, so that the user's ``matplotlibrc`` or style does not change a figure.
    """
    mpl.use("Agg")
    defaults: dict[Any, Any] = {name: value for name, value in dict(mpl.rcParamsDefault).items() if name != "backend"}
    settings: dict[Any, Any] = {
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "font.family": "DejaVu Sans",  # ships with matplotlib, so that glyphs are the same on every machine
        "mathtext.fontset": "dejavusans",
        "font.size": 8,
        "axes.labelsize": 8,
        "axes.titlesize": 8,
        "axes.titlelocation": "left",
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
    }
    with mpl.rc_context(defaults), sns.plotting_context("paper"), sns.axes_style("ticks"), mpl.rc_context(settings):
        yield


def freeze_layout(figure: Figure) -> None:
    """Lay out the figure once for all formats, and round the panels' positions to 1e-6 of the figure's size.

    kiwisolver, which solves matplotlib's constrained layout, sums terms in the order of their memory addresses. Positions
    therefore differ in the last bit between processes, which would change pixels.
    """
    figure.set_dpi(mpl.rcParams["savefig.dpi"])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    subfigures: list[SubFigure] = list(figure.subfigs)
    while subfigures:
        subfigure = subfigures.pop()
        subfigure.bbox_relative.set_points(subfigure.bbox_relative.get_points().round(6))
        subfigures += subfigure.subfigs
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6))


def close(figure: Figure) -> None:
    """Close a figure and free its memory."""
    import matplotlib.pyplot as plt

    plt.close(figure)


def label_panels(axes: Iterable[Axes]) -> None:
    """Prefix the panels' left titles with bold letters, (a), (b), …, in the given order."""
    for letter, ax in zip("abcdefghijkl", axes, strict=False):
        ax.set_title(f"$\\mathbf{{({letter})}}$ {ax.get_title(loc='left')}", loc="left")
