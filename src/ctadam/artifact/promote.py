"""From fresh to shipped: complete raw runs are copied to ``results/cached/<scale>`` and listed in its ``SHA256SUMS``; tables,
figures and ledger are made from them there. Nothing else writes to the shipped trees.

The list is what ``sha256sum -c`` reads, and what the workflow takes for the inputs of its cached targets. The parameters of
the shipped runs stand beside it as a configuration of their own, whatever the checkout's say by then.
"""

import logging
import shutil
from pathlib import Path

from ctadam.artifact import derive
from ctadam.artifact import ledger as claims
from ctadam.artifact.figures import FIGURES, draw
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.manifest import MANIFEST, read_manifest
from ctadam.storage.provenance import provenance_path, read_provenance, sha256, write_atomically
from ctadam.storage.store import DERIVED, checked_shards

log = logging.getLogger("ctadam")

#: The parameters of the shipped runs, in the form of ``workflow/config``; Snakemake's ``--configfile`` reads it.
CONFIG = "config.yaml"


def promote(scale, *, results="results", experiments=tuple(EXPERIMENTS), force=False):
    """Copy fresh raw runs and their provenance to the shipped tree.

    Tables derived from runs that are replaced are removed, because they belong to other runs.

    Args:
        scale: which scale.
        results: directory that holds ``fresh`` and ``cached``.
        experiments: which of them.
        force: replace runs that are already shipped.

    Returns:
        Paths written.

    Raises:
        ArtifactError: fresh runs are missing, incomplete, mixed or of another scale (nothing is copied then), or shipped
            ones are in the way.
    """
    fresh, cached = Path(results) / "fresh" / scale, Path(results) / "cached" / scale
    sources = {}
    for experiment in experiments:
        try:
            sources[experiment] = checked_shards(fresh, experiment)
        except ArtifactError as error:
            raise ArtifactError(f"{experiment} is incomplete or damaged and cannot be promoted: {error}") from error
        for path, record in sources[experiment].items():
            if record.get("scale") != scale:
                raise ArtifactError(f"{path} was made at scale {record.get('scale')!r}, not {scale!r}: run it again")
            if str(record.get("commit")).endswith("-dirty") or not record.get("commit"):
                log.warning("%s was made by code that no commit holds (%s)", path, record.get("commit"))
    manifest = read_manifest(cached) if (cached / MANIFEST).exists() else {}
    shipped = {experiment: [n for n in manifest if n.startswith(f"{experiment}/")] for experiment in experiments}
    for experiment, names in shipped.items():
        if (names or any((cached / experiment).glob("shard-*"))) and not force:
            raise ArtifactError(f"{cached / experiment} already holds shipped runs: --force replaces them")
    written = []
    for experiment, paths in sources.items():
        target = cached / experiment
        target.mkdir(parents=True, exist_ok=True)
        files = [path for table in paths for path in (table, provenance_path(table))]
        for path in files:
            write_atomically(target / path.name, lambda temporary, path=path: shutil.copyfile(path, temporary))
            manifest[f"{experiment}/{path.name}"] = sha256(target / path.name)
            written.append(target / path.name)
        # Only now is there something in the place of what was shipped before.
        for old in set(target.glob("shard-*")) - {target / path.name for path in files}:
            old.unlink()
        manifest = {n: d for n, d in manifest.items() if (cached / n).exists()}
        for name in DERIVED:
            (target / f"{name}.csv").unlink(missing_ok=True)
            (target / f"{name}.json").unlink(missing_ok=True)
    _write_config(cached, scale, manifest)
    manifest[CONFIG] = sha256(cached / CONFIG)
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(manifest.items()))
    write_atomically(cached / MANIFEST, lambda p: Path(p).write_text(text, encoding="utf-8"))
    return [*written, cached / CONFIG, cached / MANIFEST]


def renew(scale, *, results="results", figures="paper_figures", experiments=None):
    """Make the shipped tables, figures and ledger of a scale again from its shipped runs.

    Args:
        scale: which scale.
        results, figures: directories that hold ``cached``.
        experiments: those whose runs or code have changed; all that are shipped if None.

    Returns:
        Paths written.

    Raises:
        ArtifactError: shipped runs are missing or damaged.
    """
    cached = Path(results) / "cached" / scale
    shipped = list(shipped_experiments(cached))
    changed = shipped if experiments is None else list(experiments)
    written = [derive.write(cached, experiment, name)[0] for experiment in changed for name in DERIVED]
    for figure, needs in FIGURES.items():
        if set(needs) <= set(shipped) and set(needs) & set(changed):
            written += draw(figure, cached, Path(figures) / "cached" / scale)
    # Tables of other experiments may be those of runs that were shipped before; the ledger says so.
    return [*written, claims.write(claims.judge(cached, shipped), cached)]


def shipped_experiments(directory, manifest=None):
    """``{experiment: provenances of its shards}`` of a shipped directory, as its manifest lists them."""
    found = {}
    for name in sorted(read_manifest(directory) if manifest is None else manifest):
        experiment, separator, file = name.partition("/")
        if separator and file.endswith(".parquet"):
            found.setdefault(experiment, []).append(read_provenance(Path(directory) / name))
    return found


def _write_config(cached, scale, manifest):
    import yaml

    sections = {name: records[0]["parameters"] for name, records in shipped_experiments(cached, manifest).items()}
    ordered = {name: sections[name] for name in EXPERIMENTS if name in sections}
    text = f"# What the runs shipped here were made with. Made by `ctadam promote {scale}`.\n" + yaml.safe_dump(
        {"scale": scale, **ordered}, sort_keys=False, allow_unicode=True, width=120
    )
    write_atomically(cached / CONFIG, lambda p: Path(p).write_text(text, encoding="utf-8"))
