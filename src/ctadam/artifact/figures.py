"""Find, draw, save and compare the figures.

Each experiment's ``figure.py`` defines ``draw(results)``, which returns a matplotlib figure, and one such function for each
further figure, such as ``draw_growth`` for ``fig10_growth``. Identical data give identical bytes: the files hold no dates, fonts
are fully embedded, and all figures share `ctadam.analysis.style`.
"""

import importlib
import os
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS


class _Place(NamedTuple):
    """Where a figure is drawn: experiment, function in its ``figure.py``, file name without suffix, experiments that it needs."""

    experiment: str
    function: str
    stem: str
    needs: tuple[str, ...]


def _find() -> dict[str, _Place]:
    """Return the place of each figure, sorted by figure number."""
    places = []
    for name in EXPERIMENTS:
        package = importlib.import_module(f"ctadam.experiments.{name}")
        if package.FIGURE:
            places.append(_Place(name, "draw", package.FIGURE, package.NEEDS))
        for stem, needs in getattr(package, "FURTHER_FIGURES", {}).items():
            places.append(_Place(name, f"draw_{stem.partition('_')[2]}", stem, needs))
    figures = {place.stem.partition("_")[0]: place for place in places}
    if len(figures) < len(places):
        raise ArtifactError(f"two figures have one number: {', '.join(sorted(place.stem for place in places))}")
    return dict(sorted(figures.items(), key=lambda item: int(item[0].removeprefix("fig"))))


_FOUND = _find()
#: Figures and the experiments whose results they show.
FIGURES = {figure: place.needs for figure, place in _FOUND.items()}
FORMATS = ("pdf", "png")
#: Two figures agree if at most the share ``PIXELS`` of their pixels differs by more than ``LEVELS`` of 255 levels.
PIXELS, LEVELS = 1e-4, 16


def module(figure: str) -> str:
    """Return the dotted name of the module that draws a figure, without the leading ``ctadam.``."""
    return f"experiments.{_FOUND[figure].experiment}.figure"


def paths(figure: str, out: str | Path) -> list[Path]:
    """Return the paths of a figure's files in a directory, one per format."""
    return [Path(out) / f"{_FOUND[figure].stem}.{suffix}" for suffix in FORMATS]


def caption_path(root: str | Path, figure: str) -> Path:
    """Return the path of a figure's caption."""
    return Path(root) / "workflow" / "report" / f"{figure}.rst"


def caption_title(root: str | Path, figure: str) -> str:
    """Return the title of a figure: the bold text at the start of its caption in ``workflow/report``.

    Args:
        root: directory of the checkout.
        figure: key of `FIGURES`.

    Raises:
        ArtifactError: if there is no caption or it does not start with bold text.
    """
    path = caption_path(root, figure)
    try:
        match = re.match(r"\*\*(.+?)\*\*", path.read_text(encoding="utf-8"), re.DOTALL)
    except OSError as error:
        raise ArtifactError(f"{figure} has no caption {path}") from error
    if not match:
        raise ArtifactError(f"{path} does not begin with a title in **bold**")
    return " ".join(match[1].split()).rstrip(".")


def _import(name: str) -> ModuleType:
    """Import a module of this package that imports matplotlib.

    matplotlib reads ``MPLBACKEND`` on first import and raises if that backend is not installed. A notebook, for example, passes
    its own backend to every command that it runs. Figures are only saved to files, so ``Agg`` is enough.
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


def draw(figure: str, results: str | Path, out: str | Path) -> list[Path]:
    """Draw one figure from the results of one scale and save it in every format.

    Args:
        figure: key of `FIGURES`.
        results: directory of one scale, such as ``results/cached/laptop``.
        out: directory for the files.

    Returns:
        Paths written.

    Raises:
        ArtifactError: if results are missing or damaged, or a value in them has no colour, marker or name yet.
    """
    from ctadam.storage.provenance import write_atomically

    style, drawing = _import("analysis.style"), _import(module(figure))
    with style.context():
        picture = getattr(drawing, _FOUND[figure].function)(results)
        style.freeze_layout(picture)
        for path in paths(figure, out):
            # Without dates and software versions the bytes depend on the data alone.
            metadata: dict[str, None] = (
                {"CreationDate": None, "Producer": None} if path.suffix == ".pdf" else {"Software": None}
            )
            write_atomically(path, lambda p: picture.savefig(p, metadata=metadata))  # noqa: B023
        style.close(picture)
    return paths(figure, out)


def difference(first: str | Path, second: str | Path) -> tuple[float, int]:
    """Compare the pixels of two PNG files.

    Args:
        first: path of one file.
        second: path of the other.

    Returns:
        ``(share, largest)``: the share of pixels that differ by more than `LEVELS`, and the largest difference in levels. Images
        of different sizes give (1, 255).
    """
    import matplotlib.image
    import numpy as np

    old, new = (np.rint(255 * matplotlib.image.imread(path)[..., :3]) for path in (first, second))
    if old.shape != new.shape:
        return 1.0, 255
    off = np.abs(old - new).max(axis=-1)
    return float((off > LEVELS).mean()), int(off.max())
