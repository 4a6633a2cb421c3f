"""Tensor parallelism: torch.distributed.tensor.parallel."""

import pytest
import torch
from ecosystem import ONE, PATHS, TWO, assert_close, make, parameters, state, train
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

pytestmark = pytest.mark.ecosystem
PARTNER, PACKAGE = "Tensor parallelism (`parallelize_module`)", "torch"


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def _train(rank, name, options):
    mesh = init_device_mesh("cpu", (2,))
    network = parallelize_module(model(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    optimizer = make(name, network.parameters(), **options)
    train(network, optimizer)
    return parameters(network), state(optimizer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [ONE, TWO])
def test_sharded_replicated_and_plain_parameters(processes, name, path):
    """Sharded and replicated DTensors and plain tensors in one group equal one process; every path."""
    alone = model()
    optimizer = make(name, alone.parameters(), foreach=False)
    train(alone, optimizer)
    assert_close(processes(_train, name, PATHS[path]), (parameters(alone), state(optimizer)))
