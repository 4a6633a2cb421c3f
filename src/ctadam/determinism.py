"""The one place where everything that could make two runs differ is pinned, and said in the provenance."""

import fcntl
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import TextIO

import torch

log = logging.getLogger("ctadam")

_held: list[TextIO] = []  # open lock files, kept until the process ends


def pin(*, threads):
    """Pin deterministic algorithms, full float32 products and the number of threads for this process.

    The number of threads belongs to a result: it decides the order in which sums are taken on a CPU. Seeds are not
    set here, because every run draws from generators of its own.

    Args:
        threads: CPU threads torch may use, at least 1.

    Returns:
        dict of what was set, for the provenance.
    """
    # cuBLAS reads this when its first handle is made, so it must precede any CUDA work.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # No more than a help to find uses of unwritten memory, at the cost of writing all memory once more.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(threads)
    return {"deterministic_algorithms": True, "tf32": False, "threads": threads}


def pick_device(name="auto"):
    """``auto`` is CUDA where there is one, else the CPU; any other name is torch's.

    Raises:
        ValueError: a device that torch does not know or that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        # Which of several GPUs it will be is not decided here: trying the first would leave a context on it.
        if device.type != "cuda" or device.index is not None or torch.cuda.device_count() < 2:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def claim_gpu(device):
    """One of several GPUs for this process alone, so that jobs that run at the same time do not meet on the first.

    Each job locks the first one that no other job of the user has locked; the lock ends with the process, which gets the same
    one if it asks again. A device with an index, and a machine that shows one GPU (as a batch system does), are left as they are.

    Args:
        device: as `pick_device` gives it.
    """
    if device.type != "cuda" or device.index is not None or torch.cuda.device_count() < 2:
        return device
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    if not _held:
        torch.cuda.set_device(first_free(names, tempfile.gettempdir()))
    return torch.device("cuda", torch.cuda.current_device())


def first_free(names, directory, *, every=1.0):
    """The index of the first name that no other process holds; waits until there is one, and holds it."""
    said = False
    while True:
        for index, name in enumerate(names):
            lock = open(Path(directory) / f"ctadam-{os.getuid()}-{name}.lock", "w", encoding="utf-8")  # noqa: SIM115
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            _held.append(lock)
            return index
        if not said:
            log.info("all %d GPUs are in use by other jobs: waiting for one", len(names))
            said = True
        time.sleep(every)
