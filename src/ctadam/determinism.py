"""The one place where everything that could make two runs differ is pinned, and said in the provenance."""

import os

import torch


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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
