"""The trees of results, and the list of what is shipped.

Results lie in one of three trees. ``results/cached/<scale>`` is shipped: runs and all that is derived from them, written only
by `ctadam.artifact.promote`. ``results/redrawn/<scale>`` holds tables derived again from the shipped runs, and no runs of its
own. ``results/fresh/<scale>`` is the user's. Figures have the same trees in ``paper_figures``.
"""

import re
from pathlib import Path

from ctadam.errors import ArtifactError

#: List of a shipped directory's raw runs with their digests, in the form that ``sha256sum -c`` reads.
MANIFEST = "SHA256SUMS"


def root():
    """The artifact's top directory: the current directory or one above it, else the checkout this package lies in.

    Raises:
        ArtifactError: neither holds ``workflow/config``.
    """
    here = Path.cwd()
    for directory in (here, *here.parents, Path(__file__).resolve().parents[3]):
        if (directory / "workflow" / "config").is_dir():
            return directory
    raise ArtifactError("no workflow/config here or above: run this in a checkout of the artifact")


def _in_tree(path, tree):
    """Whether a path is ``results/<tree>/<scale>`` or ``paper_figures/<tree>/<scale>``."""
    above = Path(path).absolute().parent
    return above.name == tree and above.parent.name in ("results", "paper_figures")


def runs_directory(results):
    """Return the directory that holds the raw runs of some results: the shipped one for a redrawn tree, else ``results``.

    A redrawn tree may lie outside the checkout (``snakemake --directory``); its runs are those of the checkout then.
    """
    results = Path(results)
    if not _in_tree(results, "redrawn"):
        return results
    beside = results.parents[1] / "cached" / results.name
    return beside if beside.is_dir() else root() / "results" / "cached" / results.name


def refuse_shipped(directory):
    """Raise an `ArtifactError` if a directory is a shipped one, which only `ctadam.artifact.promote` writes."""
    if _in_tree(directory, "cached"):
        other = "/".join("redrawn" if part == "cached" else part for part in Path(directory).parts[-3:])
        raise ArtifactError(f"{directory} is shipped, and only `ctadam promote` writes there: name {other}")


def read_manifest(directory):
    """``{relative path: sha256}`` of the raw runs shipped in a directory.

    Raises:
        ArtifactError: there is no manifest, or a line of it cannot be read.
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


def repair_hint(path, otherwise="run it again"):
    """How to get an undamaged file back: from git where it was shipped, else by running again."""
    shipped = any(_in_tree(directory, "cached") for directory in (path, *Path(path).absolute().parents))
    return f"restore it with `git checkout -- {path}`" if shipped else otherwise
