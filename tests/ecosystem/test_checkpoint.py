"""Distributed checkpoints: torch.distributed.checkpoint."""

import copy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from ecosystem import ADAMW, ONE, PATHS, TWO, assert_equal, make, model, parameters, state, train
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

pytestmark = pytest.mark.ecosystem
PARTNER, PACKAGE = "Distributed checkpoints (`torch.distributed.checkpoint`)", "torch"

NAMES = pytest.mark.parametrize("name", [ADAMW, ONE, TWO])
LAYOUTS = pytest.mark.parametrize(
    "layout",
    [{}, {"full_state_dict": True}, {"flatten_optimizer_state_dict": True}],
    ids=["sharded", "full", "flattened"],
)


def round_trip(old, new, directory, layout):
    """Save a model and its optimizer in a distributed checkpoint, and load it into another pair."""
    options = StateDictOptions(**layout)
    weights, averages = get_state_dict(*old, options=options)
    dcp.save({"model": weights, "optimizer": averages}, checkpoint_id=directory)
    weights, averages = get_state_dict(*new, options=options)
    loaded = {"model": weights, "optimizer": averages}
    dcp.load(loaded, checkpoint_id=directory)
    set_state_dict(*new, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"], options=options)


def continues(make_pair, directory, layout):
    """Train, save, load into a new pair, and check that both continue with the same bits."""
    old = make_pair()
    train(*old)
    new = make_pair()
    round_trip(old, new, directory, layout)
    assert_equal(parameters(new[0]), parameters(old[0]))
    before = [{key: value.dtype for key, value in values.items()} for values in state(old[1])]
    train(*old)
    train(*new)
    assert_equal(parameters(new[0]), parameters(old[0]))
    assert_equal(state(new[1]), state(old[1]))
    assert [{key: value.dtype for key, value in values.items()} for values in state(new[1])] == before
    # A full state dict turns tuples into lists.
    groups = [[{**group, "betas": list(group["betas"]), "params": None} for group in optimizer.param_groups]
              for _, optimizer in (old, new)]  # fmt: skip
    assert groups[0] == groups[1]


@NAMES
@LAYOUTS
def test_continues_with_the_same_bits(mesh, tmp_path, name, layout):
    """Sharded, full and flattened state dicts continue with the same bits."""

    def pair():
        network = model()
        return network, make(name, network.parameters())

    continues(pair, tmp_path, layout)


@pytest.mark.parametrize("path", PATHS)
def test_every_path(mesh, tmp_path, path):
    """Every path continues with the same bits."""

    def pair():
        network = model()
        return network, make(TWO, network.parameters(), **PATHS[path])

    continues(pair, tmp_path, {})


@NAMES
@LAYOUTS
def test_frozen_parameters(mesh, tmp_path, name, layout):
    """Frozen parameters, in the optimizer or not, have no state and stay as they are."""
    for given in ("all", "trainable"):

        def pair(given=given):
            network = model()
            network[0].requires_grad_(False)
            chosen = [p for p in network.parameters() if p.requires_grad or given == "all"]
            return network, make(name, chosen)

        continues(pair, tmp_path / given, layout)


@NAMES
@LAYOUTS
def test_groups_with_different_options(mesh, tmp_path, name, layout):
    """Each group's options are restored."""

    def pair():
        network = model()
        groups = [{"params": network[0].parameters(), "lr": 0.003, "betas": (0.8, 0.9)},
                  {"params": [*network[1].parameters(), *network[3].parameters()], "weight_decay": 0.0}]  # fmt: skip
        return network, make(name, groups)

    continues(pair, tmp_path, layout)


@NAMES
@pytest.mark.parametrize("layout", [{}, {"full_state_dict": True}], ids=["sharded", "full"])
def test_empty_group(mesh, tmp_path, name, layout):
    """A group without parameters is saved and restored."""

    def pair():
        network = model()
        return network, make(name, [{"params": network.parameters()}, {"params": [], "lr": 0.5}])

    continues(pair, tmp_path, layout)


class Partly(nn.Module):
    """A model with a parameter that gets no gradient at first."""

    def __init__(self):
        super().__init__()
        self.network, self.late = model(), nn.Parameter(torch.ones(1))
        self.is_late = False

    def forward(self, inputs):
        outputs = self.network(inputs)
        return outputs * self.late if self.is_late else outputs


@NAMES
@pytest.mark.parametrize("layout", [{}, {"full_state_dict": True}], ids=["sharded", "full"])
def test_partly_initialized(mesh, name, layout):
    """State that exists for some parameters only is restored, and the rest is created later."""
    pairs = []
    for _ in range(2):
        network = Partly()
        pairs.append((network, make(name, network.parameters())))
    old, new = pairs
    train(*old)
    options = StateDictOptions(strict=False, **layout)
    weights, averages = copy.deepcopy(get_state_dict(*old, options=options))
    assert "late.step" not in averages["state"] and "late" not in averages["state"]
    train(*new, 1)  # state exists already
    set_state_dict(*new, model_state_dict=weights, optim_state_dict=averages, options=options)
    assert_equal(state(new[1]), state(old[1]))
    for network, optimizer in pairs:
        network.is_late = True
        train(network, optimizer)
    assert_equal(parameters(new[0]), parameters(old[0]))
    assert_equal(state(new[1]), state(old[1]))


@LAYOUTS
@pytest.mark.parametrize("path", PATHS)
def test_wider_state_keeps_its_dtype(mesh, tmp_path, path, layout):
    """Averages in float64 of float32 parameters are saved and restored in float64; every path."""

    def pair():
        network = model()
        return network, make(TWO, network.parameters(), state_dtype=torch.float64, **PATHS[path])

    continues(pair, tmp_path, layout)


@LAYOUTS
@pytest.mark.parametrize(("saved", "loaded"), [(ADAMW, ONE), (ONE, ADAMW)])
def test_adamw_and_k_1_exchange_checkpoints(mesh, layout, saved, loaded):
    """AdamW's state continues under k = 1 with the same bits, and back."""
    pairs = []
    for name in (saved, saved, loaded):
        network = model()
        pairs.append((network, make(name, network.parameters(), foreach=False)))
    first, control, other = pairs
    train(*first)
    options = StateDictOptions(**layout)
    for pair in (control, other):
        weights, averages = copy.deepcopy(get_state_dict(*first, options=options))
        groups = get_state_dict(*pair, options=options)[1]
        if "param_groups" in groups:
            averages = {"state": averages["state"], "param_groups": groups["param_groups"]}
        else:
            averages = {key: averages.get(key, value) for key, value in groups.items()}
        set_state_dict(*pair, model_state_dict=weights, optim_state_dict=averages, options=options)
        train(*pair)
    assert_equal(parameters(other[0]), parameters(control[0]))


def test_a_checkpoint_of_one_parameter_has_its_size(mesh, tmp_path):
    """Small parameters that share a buffer (fused) are not saved with the whole buffer."""
    network = nn.ParameterList(torch.ones(100) for _ in range(200))
    optimizer = make(TWO, network, fused=True)
    for parameter in network:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.save(optimizer.state_dict()["state"][0], tmp_path / "one.pt")
    assert (tmp_path / "one.pt").stat().st_size < 2 * 4 * 400 + 4000
