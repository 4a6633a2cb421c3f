"""Helpers of the tests with real partners: optimizers to test, a small model, and two processes."""

import datetime
import os
import time
import traceback

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ctadam import KAdam

#: The implementations that a user can select.
PATHS = {
    "default": {},
    "plain": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"capturable": True},
}
#: AdamW is the control: a partner that fails with it is not KAdam's fault.
ADAMW, ONE, TWO = "AdamW", "k = 1", "k = 2"


def make(name, params, **options):
    """Return the optimizer with this name; its options are AdamW's."""
    options = {"lr": 0.01, "weight_decay": 0.1, **options}
    if name == ADAMW:
        return torch.optim.AdamW(params, **options)
    return KAdam(params, k=int(name[-1]), **options)


def model():
    """Return a model, always the same, whose parameters cannot be divided evenly among two processes."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 1))


def data(size=16):
    """Return inputs and targets, always the same."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(size, 6, generator=generator)
    return inputs, inputs.sum(1, keepdim=True).sin()


def train(network, optimizer, steps=4, *, rank=0, world_size=1, scheduler=None):
    """Train on this rank's share of the data; return the losses."""
    inputs, targets = (tensor.chunk(world_size)[rank] for tensor in data())
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (network(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses


def full(tensor):
    """Return a DTensor's whole value; other tensors as they are."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, dist.tensor.DTensor) else tensor


def parameters(network):
    """Return copies of a model's whole parameters."""
    return [full(parameter).clone() for parameter in network.parameters()]


def state(optimizer):
    """Return copies of an optimizer's whole state in the order of the parameters, one dict per parameter."""
    saved = optimizer.state_dict()["state"]
    return [{key: full(value).clone() for key, value in saved[index].items()} for index in sorted(saved)]


def assert_close(left, right, **tolerance):
    """Compare trainings that may differ by the order of summation."""
    torch.testing.assert_close(left, right, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def assert_equal(left, right):
    """Compare bit for bit."""
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def _worker(rank, worker, args, world_size, directory):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the machine's name need not be resolvable
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = dist.FileStore(str(directory / "rendezvous"), world_size)
    dist.init_process_group(
        "gloo", rank=rank, world_size=world_size, store=store, timeout=datetime.timedelta(seconds=60)
    )
    try:
        result = worker(rank, *args)
        dist.barrier()  # the other rank may still read from this one
        if rank == 0:
            torch.save(result, directory / "result.pt")
    except BaseException:
        (directory / f"error-{rank}-{time.time_ns()}").write_text(traceback.format_exc())
        os._exit(1)  # the other rank may wait forever for this one
    dist.destroy_process_group()


def run(worker, *args, world_size, directory):
    """Run ``worker(rank, *args)`` in gloo processes, and return what rank 0 returns."""
    # The server imports once what every process needs; forking it costs a tenth of a second.
    mp.get_context("forkserver").set_forkserver_preload(["torch", "torch.distributed.fsdp", "ctadam.optim"])
    context = mp.start_processes(
        _worker, (worker, args, world_size, directory), nprocs=world_size, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + 180
    try:
        while not context.join(timeout=10):  # returns whenever one process ends
            assert time.monotonic() < deadline, "a process did not end within 180 s"
    except mp.ProcessExitedException:
        errors = sorted(directory.glob("error-*"), key=lambda path: path.name.rpartition("-")[2])
        raise AssertionError("\n".join(path.read_text() for path in errors)) from None
    finally:
        for process in context.processes:
            process.kill()
    return torch.load(directory / "result.pt")
