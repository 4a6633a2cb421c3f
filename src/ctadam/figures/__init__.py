"""The figures: a module each, ``draw(results)`` gives a matplotlib figure; here they are found and saved.

Identical data give identical bytes: no dates in the files, fonts embedded whole, one style for all (`style`).
"""

import importlib
import os
import re
from pathlib import Path

from ctadam.errors import ArtifactError

#: Figure -> (module, experiments it needs).
FIGURES = {
    "fig1": ("fig1_trajectory", ("trajectory",)),
    "fig2": ("fig2_stability", ("growth",)),
    "fig3": ("fig3_generalization", ("generalization",)),
    "fig4": ("fig4_norms", ("norms",)),
    "fig5": ("fig5_stages", ("stages",)),
    "fig6": ("fig6_quadratic", ("quadratic",)),
    "fig7": ("fig7_tightness", ("growth", "quadratic", "tightness")),
    "fig8": ("fig8_practice", ("growth", "practice")),
    "fig9": ("fig9_baselines", ("baselines",)),
}
FORMATS = ("pdf", "png")
#: Two pictures are the same if no more than this share of their pixels differs by more than so many of 255 levels.
PIXELS, LEVELS = 1e-4, 16


def paths(figure, out):
    """The files of one figure."""
    return [Path(out) / f"{FIGURES[figure][0]}.{suffix}" for suffix in FORMATS]


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
    """Import a module of this package, and matplotlib with it.

    matplotlib reads ``MPLBACKEND`` when it is first imported, and raises if that backend is missing here: a notebook,
    for example, hands its own to every command that it runs. Figures are saved to files and need ``Agg`` only.
    """
    inherited = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "Agg"
    try:
        return importlib.import_module(f"ctadam.figures.{name}")
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
    from ctadam.provenance import write_atomically

    style, module = _import("style"), _import(FIGURES[figure][0])
    with style.context():
        picture = module.draw(results)
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
