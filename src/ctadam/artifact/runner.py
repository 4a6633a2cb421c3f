"""Train the runs of an experiment, and write each shard with its provenance."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ctadam import determinism
from ctadam.artifact.code import closure
from ctadam.errors import ArtifactError
from ctadam.experiments import configure, load
from ctadam.progress import Progress
from ctadam.storage.provenance import (
    code_digest,
    environment,
    is_complete,
    make_room,
    max_rss,
    now,
    read_provenance,
    write_table,
)
from ctadam.storage.store import shard_path

log = logging.getLogger("ctadam")


def pick_device(name: str) -> torch.device:
    """Return a device for this process, see `ctadam.determinism.pick_device`.

    Raises:
        ArtifactError: if torch or this machine does not have the device.
    """
    try:
        return determinism.claim_gpu(determinism.pick_device(name))
    except ValueError as error:
        raise ArtifactError(str(error)) from error


def table_of_runs(experiment: str, parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of runs that the parameters define, one row per run.

    Args:
        experiment: name of the experiment.
        parameters: its section of a validated configuration.

    Raises:
        ArtifactError: if there are fewer runs than shards.
    """
    runs = load(experiment).grid(configure(experiment, parameters))
    if parameters["shards"] > len(runs):
        allowed = f"integer in [1, {len(runs)}], the number of runs"
        raise ArtifactError(f"{experiment}.shards: {parameters['shards']} is not allowed (allowed: {allowed})")
    return runs


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
        experiment: name of the experiment.
        parameters: its section of a validated configuration.
        out: directory for the shards.
        scale: name of the scale, for the provenance.
        device: see `pick_device`.
        shard: ``(i, n)`` for shard i of n, counted from 1. If None, all ``parameters["shards"]`` shards are run. Complete shards
            are kept, so that an interrupted command resumes.

    Raises:
        ArtifactError: if there is no such device or shard, or ``out`` cannot be written.
    """
    chosen = pick_device(device)
    pinned = determinism.pin(threads=parameters["threads"])
    module, runs = load(experiment), table_of_runs(experiment, parameters)
    config = configure(experiment, parameters)
    parts, shards = ([shard[0]], shard[1]) if shard else (range(1, parameters["shards"] + 1), parameters["shards"])
    # Recorded before training, because files may be edited or committed meanwhile.
    code, made_in = code_digest(closure("ctadam.determinism", f"ctadam.experiments.{experiment}.runs")), environment()
    for part in parts:
        path = shard_path(out, part, shards)
        if shard is None and is_complete(path):
            before = read_provenance(path)
            if before.get("parameters") == parameters and before.get("code") == code:
                log.info("%s is complete: kept", path)
                continue
        share = runs.iloc[part - 1 :: shards]  # assign runs round-robin, to spread long runs over the shards
        if share.empty:
            raise ArtifactError(f"--shard {part}/{shards}: there are only {len(runs)} runs")
        make_room(path)
        total, unit = module.cost(share) if hasattr(module, "cost") else (int(share["steps"].sum()), "step")
        progress = Progress(f"{experiment} {part}/{shards}", total, unit=unit)
        started, clock, cpu = now(), time.monotonic(), time.process_time()
        name = chosen.type
        memory: dict[str, int] = {}
        if chosen.type == "cuda":
            name = torch.cuda.get_device_name(chosen)
            torch.cuda.empty_cache()  # do not count memory that the previous shard reserved
        table, details = module.run(share, config, device=chosen, progress=progress.advance)
        if chosen.type == "cuda":
            # The allocator keeps reserved memory. torch's own peak statistic is reset by `chunk_size`.
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
            # Unlike wall time, not lengthened by what else the machine does.
            "cpu_s": round(time.process_time() - cpu, 1),
            "max_rss": max_rss(),
            **memory,
            "code": code,
            **made_in,
        }
        write_table(table, path, record)
        log.info("%s: %d rows", path, len(table))
