"""One style for all figures: sizes for a printed column, colours that colour-blind readers can tell apart."""

import contextlib

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.colors import ListedColormap, TwoSlopeNorm

from ctadam.errors import ArtifactError


class Table(dict):
    """Colours, markers or names by a value of the results, which says where to add an entry that it lacks.

    Args:
        where: file and name, such as ``figures/style.py: COLORS``.
        entries: the dict itself.
    """

    def __init__(self, where, entries):
        super().__init__(entries)
        self.where = where

    def __missing__(self, key):
        key = key.item() if isinstance(key, np.generic) else key  # shown as it would be typed
        raise ArtifactError(f"{self.where} has no entry for {key!r}: add one")

    def require(self, values):
        """Raise `ArtifactError` for the first value without an entry, which a loop over the entries would leave out."""
        for value in dict.fromkeys(values):
            self[value]


def by_rank(where, entries, values):
    """Entries for values that have no names of their own, in order: ``{value: entry}``.

    Raises:
        ArtifactError: more values than entries.
    """
    values = list(values)
    if len(values) > len(entries):
        raise ArtifactError(f"{where} has {len(entries)} entries, and {len(values)} are needed: add more")
    return dict(zip(values, entries, strict=False))


#: Width of the text in inches; a figure drawn this wide is printed without scaling.
TEXT_WIDTH = 6.75
#: Categorical colours (seaborn's colour-blind-safe set) by role, so that a law looks the same in every figure.
_PALETTE = sns.color_palette("colorblind").as_hex()
COLORS = Table(
    "analysis/style.py: COLORS", {"paper": _PALETTE[3], "exact": _PALETTE[0], "measured": "0.15", "curve": "0.25"}
)
LINES = Table("analysis/style.py: LINES", {"paper": "--", "exact": "-"})
#: The differential equations by (order, kernel), and the models they are held against.
EQUATIONS = Table(
    "analysis/style.py: EQUATIONS",
    {
        (1, "paper"): {"color": _PALETTE[3], "marker": "o"},
        (1, "exact"): {"color": _PALETTE[0], "marker": "s"},
        (2, "paper"): {"color": _PALETTE[1], "marker": "^"},
        (2, "exact"): {"color": _PALETTE[2], "marker": "D"},
    },
)
#: Strategies for the stages of k-Adam, and the optimizers it is held against.
STRATEGIES = Table(
    "analysis/style.py: STRATEGIES",
    {
        "inverse-exp": {"color": _PALETTE[0], "marker": "o"},
        "uniform": {"color": _PALETTE[1], "marker": "s"},
        "exp": {"color": _PALETTE[2], "marker": "^"},
        "naive": {"color": _PALETTE[3], "marker": "D"},
    },
)
FAMILIES = Table(
    "analysis/style.py: FAMILIES",
    {
        "2-Adam": {"color": _PALETTE[0], "marker": "o"},
        "2-Adam unsmoothed": {"color": _PALETTE[9], "marker": "P"},
        "AdamW": {"color": "0.15", "marker": "s"},
        "NAdam": {"color": _PALETTE[1], "marker": "v"},
        "RAdam": {"color": _PALETTE[2], "marker": "D"},
        "Adamax": {"color": _PALETTE[7], "marker": "^"},
        "RMSprop": {"color": _PALETTE[3], "marker": "X"},
        "Adagrad": {"color": _PALETTE[4], "marker": "*"},
        "SGD, momentum": {"color": _PALETTE[5], "marker": "p"},
    },
)
MODEL_LINES = Table("analysis/style.py: MODEL_LINES", {"mlp": "--", "transformer": "-"})


def coefficient_scale(low, high):
    """Colours for C: purple where it is negative, orange where it is positive, and no pale middle to lose a line in.

    Returns:
        ``(colormap, norm)`` with 0 between the two hues; ``low`` < 0 < ``high``.
    """
    colors = mpl.colormaps["PuOr_r"]
    halves = np.concatenate([colors(np.linspace(0.0, 0.34, 128)), colors(np.linspace(0.66, 1.0, 128))])
    return ListedColormap(halves), TwoSlopeNorm(0.0, vmin=low, vmax=high)


def paler(colormap):
    """The same colours mixed with white, for areas that lines and text are drawn on."""
    colors = colormap(np.arange(colormap.N))
    return ListedColormap(0.55 * colors + 0.45)


@contextlib.contextmanager
def context():
    """Draw inside this: no screen, seaborn's paper context, type that is embedded whole and bytes that repeat.

    It starts from matplotlib's own defaults, so that a ``matplotlibrc`` or a style of the user changes no picture.
    """
    mpl.use("Agg")
    defaults = {name: value for name, value in dict(mpl.rcParamsDefault).items() if name != "backend"}
    settings = {
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same glyphs
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


def freeze_layout(figure):
    """Lay the figure out once, for all formats, and round where its panels lie to a millionth of its size.

    kiwisolver, which solves matplotlib's constrained layout, adds up its terms in the order of their addresses in memory.
    Panels therefore move by a last bit from one process to the next, and the shade of a pixel with them.
    """
    figure.set_dpi(mpl.rcParams["savefig.dpi"])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    subfigures = list(figure.subfigs)
    while subfigures:
        subfigure = subfigures.pop()
        subfigure.bbox_relative.set_points(subfigure.bbox_relative.get_points().round(6))
        subfigures += subfigure.subfigs
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6))


def close(figure):
    """Free a figure."""
    import matplotlib.pyplot as plt

    plt.close(figure)


def label_panels(axes):
    """Bold letters before the panels' titles, in reading order."""
    for letter, ax in zip("abcdefgh", axes, strict=False):
        ax.set_title(f"$\\mathbf{{({letter})}}$ {ax.get_title(loc='left')}", loc="left")
