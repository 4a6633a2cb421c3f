"""FSDP2: torch.distributed.fsdp.fully_shard."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ecosystem import ADAMW, ONE, PATHS, TWO, assert_close, assert_equal, make, model, parameters, state, train
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

pytestmark = pytest.mark.ecosystem
PARTNER, PACKAGE = "FSDP2 (`fully_shard`)", "torch"


def shard(network, world_size=2, **options):
    """Shard the layers and the model. The last layer has one row, so the second process holds none of it."""
    options["mesh"] = dist.device_mesh.init_device_mesh("cpu", (world_size,))
    fully_shard(network[0], **options)
    fully_shard(network[3], **options)
    return fully_shard(network, **options)


def _train(rank, name, options):
    network = shard(model())
    optimizer = make(name, network.parameters(), **options)
    train(network, optimizer, rank=rank, world_size=2)
    assert all(isinstance(values["exp_avg" if "exp_avg" in values else "exp_avg_1"], DTensor)
               for values in optimizer.state.values())  # fmt: skip
    return parameters(network), state(optimizer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [ONE, TWO])
def test_sharded_training_equals_one_process(processes, name, path):
    """Two processes equal one, parameters and state, also where a process holds no row of a parameter; every path."""
    alone = model()
    optimizer = make(name, alone.parameters(), foreach=False)
    train(alone, optimizer)
    assert_close(processes(_train, name, PATHS[path]), (parameters(alone), state(optimizer)))


@pytest.mark.parametrize("path", PATHS)
def test_wider_state(processes, path):
    """Averages in float64 of sharded float32 parameters equal those of one process; every path."""
    alone = model()
    optimizer = make(TWO, alone.parameters(), foreach=False, state_dtype=torch.float64)
    train(alone, optimizer)
    found, averages = processes(_train, TWO, {"state_dtype": torch.float64, **PATHS[path]})
    assert_close((found, averages), (parameters(alone), state(optimizer)))
    assert averages[0]["exp_avg_1"].dtype == torch.float64


def _mean_(parameter):
    dist.all_reduce(parameter.grad)
    parameter.grad /= 2


def _ignored(rank, name, options):
    network = model()
    for parameter in network[1].parameters():
        parameter.register_post_accumulate_grad_hook(_mean_)
    shard(network, ignored_params=set(network[1].parameters()))
    optimizer = make(name, network.parameters(), **options)
    train(network, optimizer, rank=rank, world_size=2)
    assert {type(parameter) for parameter in network.parameters()} > {DTensor}
    return parameters(network), state(optimizer)


@pytest.mark.parametrize(("name", "path"), [(ADAMW, "default"), *((TWO, path) for path in PATHS)])
def test_ignored_parameters(processes, name, path):
    """DTensors and plain tensors (`ignored_params`) meet in one group; every path, AdamW as control."""
    alone = model()
    optimizer = make(name, alone.parameters(), foreach=False)
    train(alone, optimizer)
    assert_close(processes(_ignored, name, PATHS[path]), (parameters(alone), state(optimizer)))


def _mixed(rank, name, options):
    network = shard(model(), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    optimizer = make(name, network.parameters(), **options)
    losses = train(network, optimizer, rank=rank, world_size=2)
    assert losses[-1] < losses[0]
    return parameters(network)


def test_mixed_precision_k_1(processes):
    """With bfloat16 in forward and backward, k = 1 is AdamW bit for bit."""
    results = [processes(_mixed, name, {"foreach": False}) for name in (ADAMW, ONE)]
    assert_equal(*results)
    assert all(parameter.dtype == torch.float32 for parameter in results[1])


@pytest.mark.parametrize("path", PATHS)
def test_mixed_precision_k_2(processes, path):
    """With bfloat16 in forward and backward, every path equals the plain one."""
    assert_close(processes(_mixed, TWO, PATHS[path]), processes(_mixed, TWO, {"foreach": False}), rtol=1e-3, atol=1e-4)


def _clipped(rank):
    network = shard(model())
    optimizer = make(TWO, network.parameters())
    optimizer.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1) and None)
    train(network, optimizer, rank=rank, world_size=2)
    return parameters(network)


def test_gradient_clipping(processes):
    """Clipping by the global norm equals one process."""
    alone = model()
    optimizer = make(TWO, alone.parameters(), foreach=False)
    optimizer.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(alone.parameters(), 0.1) and None)
    train(alone, optimizer)
    assert_close(processes(_clipped), parameters(alone))


def _hooked(rank):
    network = shard(model())
    optimizer = make(TWO, network.parameters(), weight_decay=0.0)
    before, seen = parameters(network), []
    optimizer.register_update_hook(lambda parameter, update: seen.append((parameter, update.clone())))
    train(network, optimizer, 1, rank=rank, world_size=2)
    assert [id(parameter) for parameter, _ in seen] == [id(parameter) for parameter in network.parameters()]
    steps = [old - 0.01 * update.full_tensor() for old, (_, update) in zip(before, seen, strict=True)]
    assert_close(steps, parameters(network))


def test_update_hooks(processes):
    """Update hooks receive the update as a DTensor like its parameter."""
    processes(_hooked)


def _load(network, optimizer, directory, rank, world_size):
    weights, averages = get_state_dict(network, optimizer)
    saved = {"model": weights, "optimizer": averages}
    dcp.load(saved, checkpoint_id=directory)
    set_state_dict(network, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
    train(network, optimizer, rank=rank, world_size=world_size)
    return parameters(network), state(optimizer)


def _save(rank, world_size, name, options, directory):
    network = shard(model(), world_size)
    optimizer = make(name, network.parameters(), **options)
    train(network, optimizer, rank=rank, world_size=world_size)
    weights, averages = get_state_dict(network, optimizer)
    dcp.save({"model": weights, "optimizer": averages}, checkpoint_id=directory)


def _continue(rank, world_size, name, options, directory):
    network = shard(model(), world_size)
    optimizer = make(name, network.parameters(), **{**options, "lr": 0.5})
    return _load(network, optimizer, directory, rank, world_size)


@pytest.mark.parametrize(("saved_on", "loaded_on"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("path", ["default", "foreach", "fused"])
@pytest.mark.parametrize("name", [ONE, TWO])
def test_reload_at_another_world_size(processes, tmp_path, name, path, saved_on, loaded_on):
    """A distributed checkpoint continues at another number of processes."""
    alone = model()
    optimizer = make(name, alone.parameters(), foreach=False)
    train(alone, optimizer, 8)
    args = (name, PATHS[path], tmp_path / "checkpoint")
    processes(_save, saved_on, *args, world_size=saved_on)
    continued = processes(_continue, loaded_on, *args, world_size=loaded_on)
    assert_close(continued, (parameters(alone), state(optimizer)), rtol=1e-4, atol=1e-5)


def test_reload_without_sharding(processes, tmp_path):
    """A distributed checkpoint of two processes continues in an unsharded model."""
    alone = model()
    optimizer = make(TWO, alone.parameters(), foreach=False)
    train(alone, optimizer, 8)
    processes(_save, 2, TWO, {}, tmp_path / "checkpoint")
    network = model()
    continued = _load(network, make(TWO, network.parameters()), tmp_path / "checkpoint", 0, 1)
    assert_close(continued, (parameters(alone), state(optimizer)), rtol=1e-4, atol=1e-5)


def _from_meta(rank, options):
    with torch.device("meta"):
        network = model()
    shard(network)
    optimizer = make(TWO, network.parameters(), **options)  # before there is any storage
    network.to_empty(device="cpu")
    weights = model().state_dict()
    for name, parameter in network.state_dict().items():
        parameter.copy_(distribute_tensor(weights[name], parameter.device_mesh, parameter.placements))
    train(network, optimizer, rank=rank, world_size=2)
    return parameters(network)


@pytest.mark.parametrize("path", PATHS)
def test_meta_initialization(processes, path):
    """The optimizer may be created while the parameters are on the meta device; every path."""
    alone = model()
    train(alone, make(TWO, alone.parameters(), foreach=False))
    assert_close(processes(_from_meta, PATHS[path]), parameters(alone))
