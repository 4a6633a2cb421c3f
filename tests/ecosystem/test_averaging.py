"""Averaged parameters: torch.optim.swa_utils."""

import copy

import pytest
import torch
from ecosystem import PATHS, TWO, assert_close, assert_equal, make, model, parameters, state, train
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

pytestmark = pytest.mark.ecosystem
PARTNER, PACKAGE = "Averaged parameters (`swa_utils`)", "torch"


@pytest.mark.parametrize("path", PATHS)
def test_averaging_changes_nothing(path):
    """EMA is the average it should be, and training has the same bits as without it; every path."""
    network, alone = model(), model()
    averaged, plain = (make(TWO, each.parameters(), **PATHS[path]) for each in (network, alone))
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    expected = None
    for _ in range(5):
        train(network, averaged, 1)
        ema.update_parameters(network)
        now = parameters(network)
        expected = now if expected is None else [0.75 * e + 0.25 * n for e, n in zip(expected, now, strict=True)]
    train(alone, plain, 5)
    assert_equal(parameters(network), parameters(alone))
    assert_equal(state(averaged), state(plain))
    assert_close(parameters(ema.module), expected)


@pytest.mark.parametrize("swap", ["copy", "data"])
@pytest.mark.parametrize("path", PATHS)
def test_evaluating_with_averages(path, swap):
    """Exchanging weights for their averages and back, by copy or through `.data`, does not change training; every path."""
    network, alone = model(), model()
    averaged, plain = (make(TWO, each.parameters(), **PATHS[path]) for each in (network, alone))
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    for _ in range(4):
        train(network, averaged, 1)
        ema.update_parameters(network)
        if swap == "copy":
            kept = copy.deepcopy(network.state_dict())
            network.load_state_dict(ema.module.state_dict())
            network.load_state_dict(kept)
        else:
            for parameter, average in zip(network.parameters(), ema.module.parameters(), strict=True):
                kept, parameter.data = parameter.data, average.data
                parameter.data = kept.clone()
    train(alone, plain, 4)
    assert_equal(parameters(network), parameters(alone))


def test_swalr():
    """`SWALR` anneals the learning rate."""
    network = model()
    optimizer = make(TWO, network.parameters(), lr=0.1)
    scheduler = SWALR(optimizer, swa_lr=0.01, anneal_epochs=3)
    losses = train(network, optimizer, 6, scheduler=scheduler)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert torch.tensor(losses).isfinite().all()
