"""Determinism settings of a process, and the choice of its device."""

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger("ctadam")

_held: "list[FileLock]" = []  # locks, kept until the process ends


def pin(*, threads: int) -> dict[str, Any]:
    """Set deterministic algorithms, full float32 precision and the number of threads for this process.

    The number of threads affects results, because it decides the order of sums on a CPU. Seeds are not set here; every run has
    its own generators.

    Args:
        threads: CPU threads that torch may use, at least 1.

    Returns:
        The settings, for provenance records.
    """
    # cuBLAS reads this when it creates its first handle, so set it before any CUDA work.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling only helps to find reads of unwritten memory, and costs one more write of all memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(threads)
    return {"deterministic_algorithms": True, "tf32": False, "threads": threads}


def pick_device(name: str = "auto") -> torch.device:
    """Return a device; ``auto`` selects CUDA if available and the CPU otherwise.

    Args:
        name: ``"auto"`` or a device name of torch.

    Raises:
        ValueError: if torch does not know the device or this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        # With several GPUs, `claim_gpu` chooses later; a test here would leave a context on the first.
        if device.type != "cuda" or device.index is not None or torch.cuda.device_count() < 2:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def claim_gpu(device: torch.device) -> torch.device:
    """Return one of several GPUs for this process alone, so that concurrent jobs do not share the first one.

    Each job locks the first GPU that no other job of the user has locked. The lock ends with the process, and a process that
    asks again gets the same GPU. A device with an index and a machine with one visible GPU (as in a batch system) are returned
    unchanged.

    Args:
        device: result of `pick_device`.
    """
    if device.type != "cuda" or device.index is not None or torch.cuda.device_count() < 2:
        return device
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    if not _held:
        torch.cuda.set_device(first_free(names, tempfile.gettempdir()))
    return torch.device("cuda", torch.cuda.current_device())


def first_free(names: Sequence[str], directory: str | Path, *, every: float = 1.0) -> int:
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
