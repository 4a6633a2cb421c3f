"""torch.compile of the step."""

import copy

import pytest
import torch
import torch._dynamo.testing
from ecosystem import ONE, TWO, assert_close, make, model, parameters, state, train
from torch import nn

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("ignore::Warning")]
PARTNER, PACKAGE = "torch.compile", "torch"


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Compiled:
    """An optimizer whose step is compiled, and the number of its compilations."""

    def __init__(self, optimizer, backend="aot_eager"):
        self.zero_grad, self.frames = optimizer.zero_grad, torch._dynamo.testing.CompileCounterWithBackend(backend)
        self.step = torch.compile(optimizer.step, backend=self.frames)


@pytest.mark.parametrize(
    "options",
    [
        {"foreach": False},
        {"foreach": True},
        pytest.param(
            {"fused": True},
            marks=pytest.mark.xfail(
                strict=False, reason="with `fused=True` Dynamo may compile the step again, until its limit ends that"
            ),
        ),
    ],
    ids=str,
)
def test_compiled_step(options):
    """The compiled step equals the eager one, and is not compiled again after its first steps."""
    alone, network = model(), model()
    plain = make(TWO, alone.parameters(), foreach=False)
    optimizer = make(TWO, network.parameters(), **options)
    compiled = Compiled(optimizer, "inductor")
    train(network, compiled, 3)
    before = compiled.frames.frame_count
    train(network, compiled, 6)
    assert compiled.frames.frame_count == before
    train(alone, plain, 3)
    train(alone, plain, 6)
    assert_close(parameters(network), parameters(alone), rtol=1e-4, atol=1e-5)
    assert_close(state(optimizer), state(plain), rtol=1e-4, atol=1e-5)


def schedule(optimizer, kind):
    if kind == "OneCycleLR":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=20)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)


@pytest.mark.parametrize("kind", ["LambdaLR", "OneCycleLR"])
@pytest.mark.parametrize("name", [ONE, TWO])
def test_schedulers(name, kind):
    """A tensor learning rate, which `LambdaLR` may replace by a float, and betas that `OneCycleLR` cycles."""
    results = []
    for is_compiled in (False, True):
        network = model()
        optimizer = make(name, network.parameters(), lr=torch.tensor(0.01), foreach=False)
        scheduler = schedule(optimizer, kind)
        train(network, Compiled(optimizer) if is_compiled else optimizer, 6, scheduler=scheduler)
        results.append(parameters(network))
    assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_two_dtypes_in_a_group(options):
    """A group of float32, float64 and bfloat16 parameters."""
    start = [torch.ones(4, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64) * 3]
    results = []
    for is_compiled in (False, True):
        params = [nn.Parameter(copy.deepcopy(tensor)) for tensor in start]
        for param in params:
            param.grad = torch.linspace(-1, 1, 4, dtype=param.dtype)
        optimizer = make(TWO, params, **(options if is_compiled else {"foreach": False}))
        step = Compiled(optimizer, "inductor").step if is_compiled else optimizer.step
        for _ in range(3):
            step()
        results.append([param.detach() for param in params])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled)
