"""The trees of results and the manifest of shipped files.

``results/cached/<scale>`` is shipped: raw runs and everything derived from them, written only by `ctadam.artifact.promote`.
``results/redrawn/<scale>`` holds tables derived again from the shipped runs, and no runs. ``results/fresh/<scale>`` belongs
to the user. ``paper_figures`` has the same trees.
"""

import re
from pathlib import Path

from ctadam.errors import ArtifactError

#: File in a shipped directory that lists its raw runs and their sha256, in the format of ``sha256sum -c``.
MANIFEST = "SHA256SUMS"


def root() -> Path:
    """Return the artifact's top directory: the working directory, one of its parents, or the checkout of this package.

    Raises:
        ArtifactError: if none of them contains ``workflow/config``.
    """
    here = Path.cwd()
    for directory in (here, *here.parents, Path(__file__).resolve().parents[3]):
        if (directory / "workflow" / "config").is_dir():
            return directory
    raise ArtifactError("no workflow/config in this directory or above: run this in a checkout of the artifact")


def _in_tree(path: str | Path, tree: str) -> bool:
    """Return whether a path is ``results/<tree>/<scale>`` or ``paper_figures/<tree>/<scale>``."""
    above = Path(path).absolute().parent
    return above.name == tree and above.parent.name in ("results", "paper_figures")


def runs_directory(results: str | Path) -> Path:
    """Return the directory of the raw runs of some results: the shipped one for a redrawn tree, otherwise ``results``.

    If a redrawn tree lies outside the checkout (``snakemake --directory``), its runs are the checkout's.
    """
    results = Path(results)
    if not _in_tree(results, "redrawn"):
        return results
    beside = results.parents[1] / "cached" / results.name
    return beside if beside.is_dir() else root() / "results" / "cached" / results.name


def refuse_shipped(directory: str | Path) -> None:
    """Raise an `ArtifactError` if a directory is a shipped one, which only `ctadam.artifact.promote` may write."""
    if _in_tree(directory, "cached"):
        other = "/".join("redrawn" if part == "cached" else part for part in Path(directory).parts[-3:])
        raise ArtifactError(f"{directory} is shipped, and only `ctadam promote` writes there: use {other} instead")


def read_manifest(directory: str | Path) -> dict[str, str]:
    """Return ``{relative path: sha256}`` of the raw runs shipped in a directory.

    Raises:
        ArtifactError: if the manifest is missing or unreadable.
    """
    path = Path(directory) / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is damaged: {error}; {repair_hint(path)}") from error
    except OSError as error:
        shipped = sorted(p.parent.name for p in Path(directory).parent.glob(f"*/{MANIFEST}"))
        raise ArtifactError(
            f"no shipped results in {directory} (scales with shipped results: {', '.join(shipped) or 'none'})"
        ) from error
    entries = {}
    for line in lines:
        digest, separator, name = line.partition("  ")
        if not separator or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ArtifactError(f"{path}: cannot read the line {line!r}; {repair_hint(path)}")
        entries[name] = digest
    return entries


def repair_hint(path: str | Path, otherwise: str = "run it again") -> str:
    """Return how to repair a file: restore it from git if it is shipped, otherwise ``otherwise``."""
    shipped = any(_in_tree(directory, "cached") for directory in (path, *Path(path).absolute().parents))
    return f"restore it with `git checkout -- {path}`" if shipped else otherwise
