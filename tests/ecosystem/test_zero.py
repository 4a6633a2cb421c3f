"""ZeroRedundancyOptimizer."""

import copy

import pytest
import torch.distributed as dist
from ecosystem import PATHS, assert_close, assert_equal, make, model, parameters, state, train
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from ctadam import KAdam

pytestmark = pytest.mark.ecosystem
PARTNER, PACKAGE = "ZeroRedundancyOptimizer", "torch"


def _train(rank, k, options):
    network = DistributedDataParallel(model())
    optimizer = ZeroRedundancyOptimizer(
        network.parameters(), optimizer_class=KAdam, lr=0.01, weight_decay=0.1, k=k, **options
    )
    train(network, optimizer, rank=rank, world_size=2)
    optimizer.consolidate_state_dict()
    if rank:
        return None
    # The consolidated state continues in one process.
    alone = model()
    alone.load_state_dict(network.module.state_dict())
    continued = make(f"k = {k}", alone.parameters())
    continued.load_state_dict(optimizer.state_dict())
    loaded = state(continued)
    train(alone, continued)
    return loaded, parameters(alone)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("options", [*PATHS.values(), {"parameters_as_bucket_view": True}], ids=str)
def test_sharded_state_equals_one_process(processes, k, options):
    """State divided among two processes equals one process, and continues in one after `consolidate_state_dict`."""
    alone = model()
    optimizer = make(f"k = {k}", alone.parameters(), foreach=False)
    train(alone, optimizer)
    expected = state(optimizer)
    train(alone, optimizer)
    assert_close(processes(_train, k, options), (expected, parameters(alone)), rtol=1e-4)


def _resume(rank, options):
    network = DistributedDataParallel(model())
    first = ZeroRedundancyOptimizer(network.parameters(), optimizer_class=KAdam, lr=0.01, k=2, **options)
    train(network, first, rank=rank, world_size=2)
    first.consolidate_state_dict()
    # A state dict holds the tensors that training goes on to change.
    saved = [copy.deepcopy(first.state_dict()) if rank == 0 else None]
    dist.broadcast_object_list(saved)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    train(network, first, rank=rank, world_size=2)
    twin = DistributedDataParallel(model())
    twin.load_state_dict(start)
    second = ZeroRedundancyOptimizer(twin.parameters(), optimizer_class=KAdam, lr=0.5, k=2, **options)
    second.load_state_dict(saved[0])
    train(twin, second, rank=rank, world_size=2)
    assert_equal(parameters(twin), parameters(network))


@pytest.mark.parametrize("path", PATHS)
def test_resume(processes, path):
    """A consolidated checkpoint resumes in two processes, bit for bit."""
    processes(_resume, PATHS[path])
