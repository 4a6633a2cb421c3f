"""Accelerate."""

import importlib
import pickle

import pytest
import torch
from ecosystem import PATHS, TWO, assert_close, assert_equal, data, make, model, parameters, state, train
from torch import nn

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("ignore::Warning")]
PARTNER, PACKAGE = "Accelerate", "accelerate"


@pytest.fixture
def accelerator():
    accelerate = importlib.import_module("accelerate")
    made = []

    def build(**options):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        made.append(accelerate.Accelerator(cpu=True, **options))
        return made[-1]

    yield build
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def run(accelerator, network, optimizer, steps=4):
    inputs, targets = data()
    for _ in range(steps):
        with accelerator.accumulate(network):
            accelerator.backward(nn.functional.mse_loss(network(inputs), targets))
            accelerator.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("path", PATHS)
def test_prepare_changes_nothing(accelerator, path):
    """`prepare` trains with the same bits as without it; every path."""
    build, alone, network = accelerator(), model(), model()
    plain = make(TWO, alone.parameters(), **PATHS[path])
    plain.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(alone.parameters(), 10.0) and None)
    train(alone, plain)
    wrapped, optimizer = build.prepare(network, make(TWO, network.parameters(), **PATHS[path]))
    run(build, wrapped, optimizer)
    assert_equal(parameters(network), parameters(alone))
    assert_equal(state(optimizer), state(plain))


@pytest.mark.parametrize("path", PATHS)
def test_save_and_load_state(accelerator, tmp_path, path):
    """`save_state` and `load_state` resume with the same bits; every path."""
    build, pairs = accelerator(), []
    for _ in range(2):
        network = model()
        pairs.append(build.prepare(network, make(TWO, network.parameters(), **PATHS[path])))
        if not pairs[1:]:
            run(build, *pairs[0])
            build.save_state(tmp_path / "state")
            run(build, *pairs[0])
            build._models.clear(), build._optimizers.clear()
    build.load_state(tmp_path / "state")
    run(build, *pairs[1])
    assert_equal(parameters(pairs[1][0]), parameters(pairs[0][0]))
    assert_equal(state(pairs[1][1]), state(pairs[0][1]))


def test_accumulation(accelerator):
    """The wrapper steps only when gradients have been accumulated."""
    build, network = accelerator(gradient_accumulation_steps=2), model()
    wrapped, optimizer = build.prepare(network, make(TWO, network.parameters()))
    run(build, wrapped, optimizer, 6)
    assert {values["step"].item() for values in optimizer.state.values()} == {3}


def test_the_wrapper_passes_hooks_and_pickles(accelerator):
    """Update hooks are reachable through the wrapper, which pickles and continues with the same bits."""
    build, network = accelerator(), model()
    wrapped, optimizer = build.prepare(network, make(TWO, network.parameters()))
    seen = []
    handle = optimizer.optimizer.register_update_hook(lambda parameter, update: seen.append(update.clone()))
    run(build, wrapped, optimizer)
    assert len(seen) == 4 * 6
    handle.remove()
    copied, copy = pickle.loads(pickle.dumps((network, optimizer)))
    for pair in ((wrapped, optimizer), (copied, copy)):
        run(build, *pair)
    assert len(seen) == 4 * 6
    assert_equal(parameters(copied), parameters(network))
    assert_equal(state(copy), state(optimizer))


def test_bfloat16(accelerator):
    """bfloat16 autocast keeps parameters and state in float32, near a run without it."""
    build, network, alone = accelerator(mixed_precision="bf16"), model(), model()
    wrapped, optimizer = build.prepare(network, make(TWO, network.parameters()))
    run(build, wrapped, optimizer, 20)
    train(alone, make(TWO, alone.parameters()), 20)
    assert {value.dtype for values in state(optimizer) for value in values.values()} == {torch.float32}
    assert_close(parameters(network), parameters(alone), rtol=0.2, atol=0.05)
