"""Test KAdam in training loops: clipping, mixed precision, averaged parameters, accumulation, DDP, torch.compile."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from common import MAIN, PATHS

from ctadam import KAdam

main_paths = pytest.mark.parametrize("path", MAIN)


def _problem(path, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    data = torch.randn(32, 6)
    target = data.sum(1, keepdim=True).sin()
    optimizer = KAdam(model.parameters(), lr=0.01, **PATHS[path], **options)
    return model, optimizer, lambda rows=slice(None): (model(data[rows]) - target[rows]).square().mean()


def _assert_close(model, other):
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@main_paths
def test_gradient_clipping(path):
    model, optimizer, loss = _problem(path)
    first = loss().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    assert loss().item() < first / 2


@main_paths
def test_gradient_accumulation_equals_the_whole_batch(path):
    whole, parts = _problem(path), _problem(path)
    for _ in range(5):
        for _, optimizer, _ in (whole, parts):
            optimizer.zero_grad()
        whole[2]().backward()
        for start in range(0, 32, 8):
            (parts[2](slice(start, start + 8)) / 4).backward()
        for _, optimizer, _ in (whole, parts):
            optimizer.step()
    _assert_close(whole[0], parts[0])


@main_paths
def test_grad_scaler_unscales_and_skips_on_inf(path):
    scaled, plain = _problem(path), _problem(path)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for step in range(6):
        model, optimizer, loss = scaled
        optimizer.zero_grad()
        scaler.scale(loss()).backward()
        if step == 3:
            next(model.parameters()).grad[0, 0] = torch.inf
        before = [param.clone() for param in model.parameters()]
        count = [state["step"].item() for state in optimizer.state.values()]
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if step == 3:
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
            assert [state["step"].item() for state in optimizer.state.values()] == count
            assert scaler.get_scale() == scale / 2
        else:
            plain[1].zero_grad()
            plain[2]().backward()
            plain[1].step()
    _assert_close(scaled[0], plain[0])


@main_paths
def test_parameter_averaging_does_not_change_training(path):
    model, optimizer, loss = _problem(path)
    alone = _problem(path)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    expected = None
    for _ in range(5):
        for _, opt, function in ((model, optimizer, loss), alone):
            opt.zero_grad()
            function().backward()
            opt.step()
        average.update_parameters(model)
        now = [param.detach().clone() for param in model.parameters()]
        expected = now if expected is None else [0.5 * a + 0.5 * b for a, b in zip(expected, now, strict=True)]
    for left, right in zip(average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(left, right)
    _assert_close(model, alone[0])


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=MAIN)
def test_compiled_step_does_not_recompile(options):
    """torch.compile(optimizer.step), as for torch's own optimizers: no recompilation once the state exists."""
    torch._dynamo.reset()
    model, optimizer, loss = _problem("plain")
    other = copy.deepcopy(model)
    # A tensor as learning rate, which torch recommends: a float would be a constant of the graph.
    compiled = KAdam(other.parameters(), lr=torch.tensor(0.01), capturable=True, **options)
    step = torch.compile(compiled.step)
    for number in range(6):
        optimizer.zero_grad()
        loss().backward()
        for left, right in zip(model.parameters(), other.parameters(), strict=True):
            right.grad = left.grad.clone()
        if number == 4:
            optimizer.param_groups[0]["lr"] = 0.05
            compiled.param_groups[0]["lr"].fill_(0.05)
        optimizer.step()
        step()
        _assert_close(model, other)
        if number == 1:
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


DISTRIBUTED = """
import sys, torch, torch.distributed as dist
from ctadam import KAdam

options = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
rank, file = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
for path, flags in options.items():
    torch.manual_seed(0)
    model, alone = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
    alone.load_state_dict(model.state_dict())
    data = torch.randn(16, 6)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizers = KAdam(parallel.parameters(), lr=0.01, **flags), KAdam(alone.parameters(), lr=0.01, foreach=False)
    for _ in range(4):
        for optimizer in optimizers:
            optimizer.zero_grad()
        parallel(data[rank * 8 : rank * 8 + 8]).square().mean().backward()
        alone(data).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        both = [torch.empty_like(one) for _ in range(2)]
        dist.all_gather(both, one.detach())
        assert torch.equal(*both), path
dist.barrier()  # the other rank may still read from this one
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    """Two processes on halves of the data equal one on all of it, and each other bit for bit."""
    # Neither the machine's name nor other tests' compiled kernels matter: the loopback interface, and a cache per rank.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", DISTRIBUTED]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "rendezvous")],
            env=environment | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"kernels-{rank}")},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors


@pytest.mark.slow
def test_torchs_own_optimizer_tests_pass():
    """torch.testing's inputs, errors and schedulers for Adam, in a process of their own: the import changes flags."""
    script = Path(__file__).with_name("torch_tables.py")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
