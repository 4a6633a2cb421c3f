"""Find, draw, save and compare the figures.

``figure.py`` in an experiment's folder holds ``draw(results)``, which returns a matplotlib figure. Identical data give identical
bytes: the files hold no dates, fonts are embedded whole, and all figures share `ctadam.analysis.style`.
"""

import importlib
import os
import re
from pathlib import Path

from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS


def _find():
    """Return ``{figure: (experiment, name of its files, experiments that it needs)}``, in the order of their numbers."""
    found = {}
    for name in EXPERIMENTS:
        package = importlib.import_module(f"ctadam.experiments.{name}")
        if package.FIGURE:
            found[package.FIGURE.split("_")[0]] = (name, package.FIGURE, package.NEEDS)
    return dict(sorted(found.items(), key=lambda item: int(item[0].removeprefix("fig"))))


_FOUND = _find()
#: Figure -> experiments whose results it shows.
FIGURES = {figure: needs for figure, (_, _, needs) in _FOUND.items()}
FORMATS = ("pdf", "png")
#: Two pictures are the same if no more than this share of their pixels differs by more than so many of 255 levels.
PIXELS, LEVELS = 1e-4, 16


def module(figure):
    """The module that draws a figure, below this package."""
    return f"experiments.{_FOUND[figure][0]}.figure"


def paths(figure, out):
    """The files of one figure."""
    return [Path(out) / f"{_FOUND[figure][1]}.{suffix}" for suffix in FORMATS]


def caption_title(root, figure):
    """The title of a figure: what its caption in ``workflow/report`` says in bold at the beginning."""
    path = Path(root) / "workflow" / "report" / f"{figure}.rst"
    try:
        found = re.match(r"\*\*(.+?)\*\*", path.read_text(encoding="utf-8"), re.DOTALL)
    except OSError as error:
        raise ArtifactError(f"{figure} has no caption {path}") from error
    if not found:
        raise ArtifactError(f"{path} does not begin with a title in **bold**")
    return " ".join(found[1].split()).rstrip(".")


def _import(name):
    """Import a module that imports matplotlib.

    matplotlib reads ``MPLBACKEND`` when it is first imported, and raises if that backend is missing here: a notebook,
    for example, hands its own to every command that it runs. Figures are saved to files and need ``Agg`` only.
    """
    inherited = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "Agg"
    try:
        return importlib.import_module(f"ctadam.{name}")
    finally:
        if inherited is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = inherited


def draw(figure, results, out):
    """Draw one figure from the results of one scale and save it in every format.

    Args:
        figure: key of `FIGURES`.
        results: directory of one scale, such as ``results/cached/laptop``.
        out: directory for the files.

    Returns:
        The paths written.

    Raises:
        ArtifactError: missing or damaged results, or a value in them that has no colour, marker or name yet.
    """
    from ctadam.storage.provenance import write_atomically

    style, drawing = _import("analysis.style"), _import(module(figure))
    with style.context():
        picture = drawing.draw(results)
        style.freeze_layout(picture)
        for path in paths(figure, out):
            # No dates and no software version: the bytes depend on the data alone.
            metadata = {"CreationDate": None, "Producer": None} if path.suffix == ".pdf" else {"Software": None}
            write_atomically(path, lambda p: picture.savefig(p, metadata=metadata))  # noqa: B023
        style.close(picture)
    return paths(figure, out)


def difference(first, second):
    """Compare two PNG files.

    Returns:
        ``(share, largest)``: the share of pixels that differ by more than `LEVELS`, and by how many levels at most; 1 and 255
        for pictures of different sizes.
    """
    import matplotlib.image
    import numpy as np

    first, second = (np.rint(255 * matplotlib.image.imread(path)[..., :3]) for path in (first, second))
    if first.shape != second.shape:
        return 1.0, 255
    off = np.abs(first - second).max(axis=-1)
    return float((off > LEVELS).mean()), int(off.max())
