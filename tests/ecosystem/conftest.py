import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def mesh():
    """A mesh of this process alone, for what needs a process group but no second process."""
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.fixture
def processes(tmp_path):
    """A function that runs ``worker(rank, *args)`` in two gloo processes, and returns what rank 0 returns."""
    from ecosystem import run

    def start(worker, *args, world_size=2):
        (tmp_path / "rendezvous").unlink(missing_ok=True)
        return run(worker, *args, world_size=world_size, directory=tmp_path)

    return start
