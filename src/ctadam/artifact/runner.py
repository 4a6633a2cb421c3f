"""Train: the raw runs of one experiment, shard by shard, each with its provenance."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ctadam import determinism
from ctadam.artifact.code import closure
from ctadam.errors import ArtifactError
from ctadam.experiments import load
from ctadam.progress import Progress
from ctadam.storage.provenance import (
    code_digest,
    environment,
    is_complete,
    make_room,
    now,
    read_provenance,
    write_table,
)
from ctadam.storage.store import shard_path

log = logging.getLogger("ctadam")


def pick_device(name: str):
    """Return a device of this machine for this process, see `ctadam.determinism.pick_device`.

    Raises:
        ArtifactError: torch or this machine does not have it.
    """
    try:
        return determinism.claim_gpu(determinism.pick_device(name))
    except ValueError as error:
        raise ArtifactError(str(error)) from error


def table_of_runs(experiment: str, parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs that the parameters ask for, one row per run.

    Raises:
        ArtifactError: there are fewer runs than shards.
    """
    points = load(experiment).points(parameters)
    if parameters["shards"] > len(points):
        allowed = f"integer in [1, {len(points)}], the number of runs"
        raise ArtifactError(f"{experiment}.shards: {parameters['shards']} is not allowed (allowed: {allowed})")
    return points


def run(
    experiment: str,
    parameters: Mapping[str, Any],
    out: Path,
    *,
    scale: str,
    device: str = "auto",
    shard: tuple[int, int] | None = None,
) -> None:
    """Train the runs of an experiment and write them.

    Args:
        experiment: its name.
        parameters: its section of a checked configuration.
        out: directory for the shards.
        scale: name of the scale, for the provenance.
        device: see `pick_device`.
        shard: ``(i, n)`` for the i-th of n parts, counted from 1. If None, all of ``parameters["shards"]`` parts are run, and
            those that are complete are kept: a run that was killed goes on where it stopped.

    Raises:
        ArtifactError: there is no such device or shard, or ``out`` cannot be written.
    """
    chosen = pick_device(device)
    pinned = determinism.pin(threads=parameters["threads"])
    module, points = load(experiment), table_of_runs(experiment, parameters)
    parts, shards = ([shard[0]], shard[1]) if shard else (range(1, parameters["shards"] + 1), parameters["shards"])
    # Asked for now: files may be edited, and committed, while this runs.
    code, made_in = code_digest(closure("ctadam.determinism", f"ctadam.experiments.{experiment}.runs")), environment()
    for part in parts:
        path = shard_path(out, part, shards)
        if shard is None and is_complete(path):
            before = read_provenance(path)
            if before.get("parameters") == parameters and before.get("code") == code:
                log.info("%s is complete: kept", path)
                continue
        share = points.iloc[part - 1 :: shards]  # round-robin, so that long runs spread over the shards
        if share.empty:
            raise ArtifactError(f"--shard {part}/{shards}: there are only {len(points)} runs")
        make_room(path)
        total, unit = module.cost(share)
        progress = Progress(f"{experiment} {part}/{shards}", total, unit=unit)
        started, clock = now(), time.monotonic()
        name, memory = chosen.type, {}
        if chosen.type == "cuda":
            import torch

            name = torch.cuda.get_device_name(chosen)
            torch.cuda.empty_cache()  # what the part before reserved is not this one's
        table, details = module.run(share, parameters, device=chosen, progress=progress.advance)
        if chosen.type == "cuda":
            # The allocator keeps what it once reserved. torch's own peak does not last: `chunk_size` resets it.
            memory = {"peak_memory": torch.cuda.memory_reserved(chosen)}
        record = {
            "experiment": experiment,
            "scale": scale,
            "shard": part,
            "shards": shards,
            "parameters": parameters,
            "device": name,
            "determinism": pinned,
            **details,
            "started": started,
            "wall_s": round(time.monotonic() - clock, 1),
            **memory,
            "code": code,
            **made_in,
        }
        write_table(table, path, record)
        log.info("%s: %d rows", path, len(table))
