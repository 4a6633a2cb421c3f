"""DistributedDataParallel."""

import pytest
import torch
import torch.distributed as dist
from ecosystem import ONE, PATHS, TWO, assert_close, assert_equal, make, model, parameters, state, train
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.ecosystem
PARTNER, PACKAGE = "DistributedDataParallel", "torch"


def _train(rank, name, options):
    network = DistributedDataParallel(model())
    optimizer = make(name, network.parameters(), **options)
    train(network, optimizer, rank=rank, world_size=2)
    mine = parameters(network)
    for parameter in mine:
        both = [torch.empty_like(parameter) for _ in range(2)]
        dist.all_gather(both, parameter)
        assert_equal(*both)
    return mine, state(optimizer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [ONE, TWO])
def test_two_processes_equal_one(processes, name, path):
    """Two processes on halves of the data equal one on all of it, and each other bit for bit; every path."""
    alone = model()
    optimizer = make(name, alone.parameters(), foreach=False)
    train(alone, optimizer)
    assert_close(processes(_train, name, PATHS[path]), (parameters(alone), state(optimizer)))


def _with_unused(rank):
    network = model()
    network.unused = torch.nn.Parameter(torch.ones(3))
    network = DistributedDataParallel(network, find_unused_parameters=True)
    optimizer = make(TWO, network.parameters())
    train(network, optimizer, rank=rank, world_size=2)
    return parameters(network), sorted(optimizer.state_dict()["state"])


def test_unused_parameters_are_left_alone(processes):
    """Parameters without gradients (`find_unused_parameters`) get neither state nor decay."""
    alone = model()
    train(alone, make(TWO, alone.parameters(), foreach=False))
    (unused, *others), initialized = processes(_with_unused)
    assert_close(others, parameters(alone))
    assert_equal(unused, torch.ones(3))
    assert initialized == [1, 2, 3, 4, 5, 6]
