"""The one place where everything that could make two runs differ is pinned, and said in the provenance."""

import logging
import os
import tempfile
import time
from pathlib import Path

import torch

log = logging.getLogger("ctadam")

_held = []  # locks, for as long as the process lives


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
    """Lock the first name that no other process holds, and return its index.

    Waits until there is one. The lock ends with the process, however it ends.

    Args:
        names: what to choose from.
        directory: where the lock files lie.
        every: seconds between attempts.
    """
    from filelock import FileLock, Timeout  # here, because `import ctadam` must work without it

    said = False
    while True:
        for index, name in enumerate(names):
            lock = FileLock(Path(directory) / f"ctadam-{os.getuid()}-{name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            _held.append(lock)
            return index
        if not said:
            log.info("all %d GPUs are in use by other jobs: waiting for one", len(names))
            said = True
        time.sleep(every)
