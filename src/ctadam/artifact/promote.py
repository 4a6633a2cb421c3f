"""Ship fresh results: copy complete raw runs to ``results/cached/<scale>`` and make tables, figures and ledger from them.

Nothing else writes to the shipped directories. ``SHA256SUMS`` lists the shipped files, for ``sha256sum -c`` and as the inputs of
the workflow's cached targets. ``config.yaml`` records the parameters of the shipped runs, because the checkout's configuration
may change later.
"""

import functools
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ctadam.artifact import derive
from ctadam.artifact import ledger as claims
from ctadam.artifact.figures import FIGURES, draw
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.manifest import MANIFEST, read_manifest
from ctadam.storage.provenance import provenance_path, read_provenance, sha256, write_atomically
from ctadam.storage.store import DERIVED, checked_shards

log = logging.getLogger("ctadam")

#: File with the parameters of the shipped runs, in the format of ``workflow/config``, for Snakemake's ``--configfile``.
CONFIG = "config.yaml"


def promote(
    scale: str,
    *,
    results: str | Path = "results",
    experiments: Sequence[str] = tuple(EXPERIMENTS),
    force: bool = False,
) -> list[Path]:
    """Copy fresh raw runs and their provenance to the shipped directory.

    Derived tables of replaced runs are deleted, because they belong to other runs.

    Args:
        scale: name of the scale.
        results: directory that holds ``fresh`` and ``cached``.
        experiments: names of the experiments to ship.
        force: replace runs that are already shipped.

    Returns:
        Paths written.

    Raises:
        ArtifactError: if fresh runs are missing, incomplete, mixed or of another scale, or if runs are already shipped and
            ``force`` is False. Nothing is copied then.
    """
    fresh, cached = Path(results) / "fresh" / scale, Path(results) / "cached" / scale
    sources: dict[str, dict[Path, dict[str, Any]]] = {}
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
            write_atomically(target / path.name, functools.partial(shutil.copyfile, path))
            manifest[f"{experiment}/{path.name}"] = sha256(target / path.name)
            written.append(target / path.name)
        # Delete replaced shards only now, when the new ones are in place.
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


def renew(
    scale: str,
    *,
    results: str | Path = "results",
    figures: str | Path = "paper_figures",
    experiments: Iterable[str] | None = None,
) -> list[Path]:
    """Remake the shipped tables, figures and ledger of a scale from its shipped runs.

    Args:
        scale: name of the scale.
        results: directory that holds ``cached`` with the shipped results.
        figures: directory that holds ``cached`` with the shipped figures.
        experiments: experiments whose runs or code changed; all shipped ones if None.

    Returns:
        Paths written.

    Raises:
        ArtifactError: if shipped runs are missing or damaged.
    """
    cached = Path(results) / "cached" / scale
    shipped = list(shipped_experiments(cached))
    changed = shipped if experiments is None else list(experiments)
    written = [derive.write(cached, experiment, name)[0] for experiment in changed for name in DERIVED]
    for figure, needs in FIGURES.items():
        if set(needs) <= set(shipped) and set(needs) & set(changed):
            written += draw(figure, cached, Path(figures) / "cached" / scale)
    # Judging all experiments detects tables of the others that were made from earlier runs.
    return [*written, claims.write(claims.judge(cached, shipped), cached)]


def shipped_experiments(
    directory: str | Path, manifest: Iterable[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return ``{experiment: provenance of each shard}`` of a shipped directory.

    Args:
        directory: the shipped directory.
        manifest: names of the shipped files; read from the directory if None.

    Raises:
        ArtifactError: if the manifest or a provenance record is missing or cannot be read.
    """
    records: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(read_manifest(directory) if manifest is None else manifest):
        experiment, separator, file = name.partition("/")
        if separator and file.endswith(".parquet"):
            records.setdefault(experiment, []).append(read_provenance(Path(directory) / name))
    return records


def _write_config(cached: Path, scale: str, manifest: Iterable[str]) -> None:
    """Write the parameters of the shipped runs to `CONFIG`."""
    import yaml

    sections = {name: records[0]["parameters"] for name, records in shipped_experiments(cached, manifest).items()}
    ordered = {name: sections[name] for name in EXPERIMENTS if name in sections}
    text = f"# What the runs shipped here were made with. Made by `ctadam promote {scale}`.\n" + yaml.safe_dump(
        {"scale": scale, **ordered}, sort_keys=False, allow_unicode=True, width=120
    )
    write_atomically(cached / CONFIG, lambda p: Path(p).write_text(text, encoding="utf-8"))
