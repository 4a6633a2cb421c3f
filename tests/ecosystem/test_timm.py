"""timm's optimizer factory."""

import copy
import importlib

import pytest
import torch
from ecosystem import assert_equal, data, model, parameters, train

from ctadam import KAdam

pytestmark = pytest.mark.ecosystem
PARTNER, PACKAGE = "timm", "timm"


@pytest.fixture
def timm_optim():
    """timm's factory, with KAdam registered by its dotted name."""
    optim = importlib.import_module("timm.optim")
    from timm.optim._optim_factory import OptimInfo, default_registry

    info = OptimInfo(name="kadam", opt_class="ctadam.KAdam", description="k-Adam", has_eps=True, has_betas=True,
                     defaults={"k": 3})  # fmt: skip
    default_registry.register(info)
    yield optim
    del default_registry._optimizers["kadam"]


def test_dotted_name(timm_optim):
    """The registry builds KAdam from `"ctadam.KAdam"`, with the registry's defaults or the caller's options."""
    optimizer = timm_optim.create_optimizer_v2(model(), opt="kadam", lr=0.02, weight_decay=0.05)
    assert isinstance(optimizer, KAdam) and optimizer.defaults["k"] == 3 and optimizer.defaults["lr"] == 0.02
    optimizer = timm_optim.create_optimizer_v2(
        model(), opt="kadam", lr=0.02, weight_decay=0.05, betas=(0.8, 0.9), eps=1e-6, k=2, stages="uniform"
    )
    assert optimizer.defaults["betas"] == (0.8, 0.9) and optimizer.defaults["eps"] == 1e-6
    assert optimizer.defaults["k"] == 2 and optimizer.defaults["stages"] == "uniform"


def test_weight_decay_groups(timm_optim):
    """Biases and norms get a group without decay, and training equals that with groups made by hand."""
    network, alone = model(), model()
    optimizer = timm_optim.create_optimizer_v2(network, opt="kadam", lr=0.02, weight_decay=0.5, k=2)
    by_decay = {group["weight_decay"]: len(group["params"]) for group in optimizer.param_groups}
    assert by_decay == {0.0: 4, 0.5: 2}
    flat = [parameter for parameter in alone.parameters() if parameter.ndim < 2]
    wide = [parameter for parameter in alone.parameters() if parameter.ndim == 2]
    groups = [{"params": flat, "weight_decay": 0.0}, {"params": wide, "weight_decay": 0.5}]
    train(network, optimizer)
    train(alone, KAdam(groups, lr=0.02, k=2))
    assert_equal(parameters(network), parameters(alone))


def test_layer_decay(timm_optim):
    """Layer-wise learning rates (`lr_scale`) go through timm's own schedulers."""
    network = torch.nn.ModuleDict({"stem": torch.nn.Linear(6, 6), "blocks": torch.nn.ModuleList([model()])})
    network.group_matcher = lambda coarse=False: {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"}
    network.no_weight_decay = lambda: set()
    optimizer = timm_optim.create_optimizer_v2(network, opt="kadam", lr=0.1, weight_decay=0.0, layer_decay=0.5, k=2)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert len(scales) > 1
    from timm.scheduler import CosineLRScheduler

    scheduler = CosineLRScheduler(optimizer, t_initial=10, warmup_t=2, warmup_lr_init=1e-5)
    scheduler.step(3)
    rates = {group["lr"] / group["lr_scale"] for group in optimizer.param_groups}
    assert max(rates) - min(rates) < 1e-9
    inputs, _ = data()
    network["blocks"][0](network["stem"](inputs)).square().mean().backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_lookahead(timm_optim):
    """timm's Lookahead wraps KAdam and resumes with the same bits."""
    pairs = []
    for _ in range(2):
        network = model()
        pairs.append((network, timm_optim.create_optimizer_v2(network, opt="lookahead_kadam", lr=0.02, k=2)))
    (first, old), (second, new) = pairs
    train(first, old, 7)
    second.load_state_dict(first.state_dict())
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    for network, optimizer in pairs:
        train(network, optimizer, 7)
    assert_equal(parameters(second), parameters(first))
