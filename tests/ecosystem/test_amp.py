"""Automatic mixed precision: torch.amp.GradScaler."""

import pytest
import torch
from ecosystem import PATHS, TWO, assert_equal, data, make, model, parameters, state, train

pytestmark = pytest.mark.ecosystem
PARTNER, PACKAGE = "GradScaler", "torch"


def run(network, optimizer, scaler, steps, overflow_at=()):
    inputs, targets = data()
    for step in range(steps):
        optimizer.zero_grad()
        loss = (network(inputs) - targets).square().mean()
        scaler.scale(loss).backward()
        if step in overflow_at:
            next(network.parameters()).grad[0, 0] = torch.inf
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("path", PATHS)
def test_scaling_changes_nothing(path):
    """Scaling by a power of two trains with the same bits; every path."""
    network, alone = model(), model()
    scaled, plain = (make(TWO, each.parameters(), **PATHS[path]) for each in (network, alone))
    run(network, scaled, torch.amp.GradScaler("cpu", init_scale=2.0**10), 4)
    train(alone, plain, 4)
    assert_equal(parameters(network), parameters(alone))
    assert_equal(state(scaled), state(plain))


@pytest.mark.parametrize("path", PATHS)
def test_overflow(path):
    """A step that overflows changes neither parameters nor state nor step counts and calls no hooks; every path."""
    network, alone = model(), model()
    scaled, plain = (make(TWO, each.parameters(), **PATHS[path]) for each in (network, alone))
    calls = []
    scaled.register_step_pre_hook(lambda *_: calls.append("pre"))
    scaled.register_step_post_hook(lambda *_: calls.append("post"))
    if not PATHS[path].get("fused"):
        scaled.register_update_hook(lambda *_: calls.append("update"))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    run(network, scaled, scaler, 1, overflow_at=(0,))
    assert not calls and not scaled.state_dict()["state"] and scaler.get_scale() == 2.0**9
    run(network, scaled, scaler, 6, overflow_at=(2, 5))
    train(alone, plain, 4)
    assert scaler.get_scale() == 2.0**7 and calls.count("pre") == calls.count("post") == 4
    assert_equal(parameters(network), parameters(alone))
    assert_equal(state(scaled), state(plain))
