"""What makes runs repeatable on a GPU, as far as it can be tested without one."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctadam import determinism
from ctadam.artifact import config
from ctadam.experiments import EXPERIMENTS, configure, load
from ctadam.training import ensemble

CPU = torch.device("cpu")

#: Operations that torch refuses on a GPU when it is asked for deterministic algorithms (its documentation of
#: `torch.use_deterministic_algorithms`), by the beginnings of their names. `bincount`, refused only with weights, is not among
#: them: the data are loaded with it, on the host.
REFUSED = (
    "nll_loss2d", "cumsum", "histc", "kthvalue", "median", "put_", "scatter_reduce", "grid_sampler", "upsample",
    "max_pool3d", "adaptive_max_pool", "fractional_max_pool", "max_unpool", "adaptive_avg_pool", "avg_pool3d",
    "reflection_pad", "replication_pad", "_ctc_loss", "_embedding_bag",
)  # fmt: skip


class Recorder(TorchDispatchMode):
    """Records the names of the operations that torch executes."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **kwargs or {})


def with_few_steps(value, *, steps=False):
    """Return parameters in which every number of steps is at most 4."""
    if isinstance(value, dict):
        return {key: with_few_steps(part, steps=steps or key == "steps") for key, part in value.items()}
    return min(value, 20) if steps and isinstance(value, int) else value


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=[pytest.mark.slow] * (name == "trajectory")) for name in EXPERIMENTS]
)
def test_nothing_that_a_gpu_refuses_to_do_deterministically(experiment, monkeypatch):
    """On a CPU, with the runs batched as they are on a GPU."""
    monkeypatch.setattr(ensemble, "CPU_NUMBERS", 2**40)
    settings, module = configure(experiment, with_few_steps(config.resolve("smoke")[experiment])), load(experiment)
    with Recorder() as recorder:
        module.run(module.grid(settings), settings, device=CPU, progress=lambda amount: None)
    assert "lerp_" in recorder.names or experiment == "quadratic"
    assert not [name for name in recorder.names if name.startswith(REFUSED)]


HOLD = """
import sys, time
from ctadam.determinism import first_free
print(first_free(["a", "b"], sys.argv[1], every=0.05), flush=True)
time.sleep(60)
"""


def test_jobs_side_by_side_take_different_gpus(tmp_path):
    """Each the first that is free; the third waits until one ends, however it ends."""
    jobs = []
    try:
        for expected in ("0", "1", None):
            jobs.append(subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True))
            if expected is not None:
                assert jobs[-1].stdout.readline().strip() == expected
        with pytest.raises(subprocess.TimeoutExpired):
            jobs[2].wait(timeout=0.5)
        jobs[0].kill()
        assert jobs[2].stdout.readline().strip() == "0"
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_one_gpu_or_a_named_one_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in (CPU, torch.device("cuda"), torch.device("cuda", 1)):
        assert determinism.claim_gpu(device) == device


def test_of_two_gpus_the_first_free_one_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"GPU-{i}"))
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    monkeypatch.setattr(determinism.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(determinism, "_held", [])
    # A process keeps what it has, however often it asks.
    for _ in range(3):
        assert determinism.claim_gpu(torch.device("cuda")) == torch.device("cuda", 0)
    # Locks of one process exclude each other, too: with none in hand it is a job beside the first.
    first = determinism._held
    monkeypatch.setattr(determinism, "_held", [])
    assert determinism.claim_gpu(torch.device("cuda")) == torch.device("cuda", 1)
    assert chosen == [0, 1] and len(first) == 1
