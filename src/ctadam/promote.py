"""From fresh to shipped: complete raw runs are copied to ``results/cached/<scale>`` and listed in its ``SHA256SUMS``.

The list is what ``sha256sum -c`` reads, and what the workflow takes for the inputs of its cached targets.
"""

import shutil
from pathlib import Path

from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS
from ctadam.provenance import is_complete, provenance_path, sha256, write_atomically
from ctadam.store import shard_paths

MANIFEST = "SHA256SUMS"


def read_manifest(directory):
    """``{relative path: sha256}`` of the raw runs shipped in a directory.

    Raises:
        ArtifactError: there is no manifest, or a line of it cannot be read.
    """
    path = Path(directory) / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        shipped = sorted(p.parent.name for p in Path(directory).parent.glob(f"*/{MANIFEST}"))
        raise ArtifactError(
            f"no shipped results in {directory} (scales with shipped results: {', '.join(shipped) or 'none'})"
        ) from error
    entries = {}
    for line in lines:
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            raise ArtifactError(f"{path}: cannot read the line {line!r}")
        entries[name] = digest
    return entries


def promote(scale, *, results="results", experiments=tuple(EXPERIMENTS), force=False):
    """Copy fresh raw runs and their provenance to the shipped tree.

    Args:
        scale: which scale.
        results: directory that holds ``fresh`` and ``cached``.
        experiments: which of them.
        force: replace runs that are already shipped.

    Returns:
        Paths written.

    Raises:
        ArtifactError: fresh runs are missing or incomplete (nothing is copied then), or shipped ones are in the way.
    """
    fresh, cached = Path(results) / "fresh" / scale, Path(results) / "cached" / scale
    sources = {experiment: shard_paths(fresh, experiment) for experiment in experiments}
    for path in (p for paths in sources.values() for p in paths):
        if not is_complete(path):
            raise ArtifactError(f"{path} is incomplete or damaged: run it again before promoting it")
    manifest = read_manifest(cached) if (cached / MANIFEST).exists() else {}
    for experiment in experiments:
        shipped = [name for name in manifest if name.startswith(f"{experiment}/")]
        if shipped and not force:
            raise ArtifactError(f"{cached / experiment} already holds shipped runs: --force replaces them")
        for name in shipped:
            (cached / name).unlink(missing_ok=True)
            del manifest[name]
    written = []
    for experiment, paths in sources.items():
        (cached / experiment).mkdir(parents=True, exist_ok=True)
        for path in (p for table in paths for p in (table, provenance_path(table))):
            target = cached / experiment / path.name
            shutil.copyfile(path, target)
            manifest[f"{experiment}/{path.name}"] = sha256(target)
            written.append(target)
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(manifest.items()))
    write_atomically(cached / MANIFEST, lambda p: Path(p).write_text(text, encoding="utf-8"))
    return [*written, cached / MANIFEST]
