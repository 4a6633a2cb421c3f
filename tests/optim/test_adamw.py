"""Test KAdam as a replacement for ``torch.optim.AdamW``: arguments, checkpoints in both directions, continued runs."""

import copy
import inspect
import json
import math
import pickle

import pytest
import torch
from common import MAIN, PATHS, all_kinds, assert_same, clones, give_grads

from ctadam import KAdam, stage_betas

main_paths = pytest.mark.parametrize("path", MAIN)


def _trained(optimizer_class, params, steps=3, **options):
    optimizer = optimizer_class(params, lr=0.01, **options)
    for _ in range(steps):
        give_grads(params)
        optimizer.step()
    return optimizer


def _params():
    return [torch.randn(5), torch.randn(3, 4), torch.randn(150, 120)]


# --- Arguments --------------------------------------------------------------------------------------------------------


def test_the_arguments_of_adamw_have_its_order_and_defaults():
    ours, theirs = (inspect.signature(c).parameters for c in (KAdam, torch.optim.AdamW))
    for name, parameter in theirs.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind), name
    positional = [name for name, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(positional)] == positional


@main_paths
def test_the_options_are_json_values(path):
    options = {
        "lr": 0.1, "betas": [0.8, 0.95], "k": 2, "stages": [[0.5, 0.9], [0.8, 0.95]], "state_dtype": "float64", "amsgrad": False,
    }  # fmt: skip
    assert json.loads(json.dumps(options)) == options
    params = _params()
    optimizer = KAdam(params, **options, **PATHS[path])
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    again = KAdam(params, **json.loads(json.dumps(group)))
    assert {key: value for key, value in again.param_groups[0].items() if key != "params"} == group
    give_grads(params)
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg_1"].dtype == torch.float64


def test_the_state_dtype_is_named_whatever_was_given():
    for given in (torch.float64, "float64"):
        assert KAdam([torch.zeros(2)], state_dtype=given).param_groups[0]["state_dtype"] == "float64"


# --- Bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"maximize": True, "weight_decay": 0.0}, {"lr": torch.tensor(0.01)}], ids=str)
def test_fused_with_one_stage_is_torchs_fused_bit_for_bit(dtype, options):
    left = [torch.randn(shape).to(dtype) for shape in ((5,), (), (0, 3), (150, 120), (3, 4))]
    right = clones(left)
    ours, theirs = (c(p, **{"lr": 0.01, **options}, fused=True, **e) for c, p, e in (
        (KAdam, left, {"k": 1}), (torch.optim.AdamW, right, {})))  # fmt: skip
    for step in range(5):
        give_grads(left, right, none={step})
        ours.step()
        theirs.step()
        assert_same(ours, theirs)


def test_fused_with_one_stage_is_right_where_torchs_fused_is_not():
    """torch's CPU kernel takes equal strides for granted, and divides 0 by 0 without epsilon."""
    for options in ({}, {"eps": 0.0}, {"state_dtype": "float64"}):
        left = all_kinds()
        right = clones(left)
        optimizers = (
            KAdam(left, lr=0.01, k=1, fused=True, **options),
            KAdam(right, lr=0.01, k=1, foreach=False, **options),
        )
        for _ in range(3):
            for one, other in zip(left, right, strict=True):
                grad = torch.randn(one.shape[::-1]).permute(list(reversed(range(one.dim()))))
                one.grad, other.grad = grad.clone(), grad.clone()
            for optimizer in optimizers:
                optimizer.step()
            assert_same(*optimizers, rtol=1e-5, atol=1e-6)


# --- Checkpoints ------------------------------------------------------------------------------------------------------


@main_paths
def test_checkpoints_go_to_adamw_and_back_bit_for_bit(path):
    """Two steps of each in turn equal AdamW alone."""
    alone = _params()
    turns = clones(alone)
    reference = torch.optim.AdamW(alone, lr=0.01, **PATHS[path])
    state = None
    for optimizer_class, options in ((torch.optim.AdamW, {}), (KAdam, {"k": 1})) * 2:
        optimizer = optimizer_class(turns, lr=0.5, **options, **PATHS[path])
        if state is None:
            optimizer.param_groups[0]["lr"] = 0.01
        else:
            optimizer.load_state_dict(state)
        for _ in range(2):
            give_grads(alone, turns)
            optimizer.step()
            reference.step()
        assert_same(optimizer, reference)
        state = copy.deepcopy(optimizer.state_dict())
    assert "decoupled_weight_decay" not in optimizer.param_groups[0]


def _older(optimizer):
    """Return the state dict as older versions wrote it: numbered averages, the dtype itself, no `amsgrad`."""
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["amsgrad"]
        group["state_dtype"] = group["state_dtype"] and getattr(torch, group["state_dtype"])
    for state in saved["state"].values():
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                state[key + "_1"] = state.pop(key)
    return saved


@main_paths
@pytest.mark.parametrize("options", [{"k": 1}, {"k": 2}, {"k": 1, "state_dtype": "float64"}], ids=str)
def test_older_checkpoints_load(path, options):
    left = _params()
    optimizer = _trained(KAdam, left, **options, **PATHS[path])
    right = clones(left)
    again = KAdam(right, lr=0.01, **options, **PATHS[path])
    again.load_state_dict(_older(optimizer))
    assert_same(optimizer, again)
    give_grads(left, right)
    optimizer.step(), again.step()
    assert_same(optimizer, again)


def test_older_pickles_load():
    optimizer = _trained(KAdam, _params(), k=1)
    older = copy.copy(optimizer)
    older.defaults = {key: value for key, value in optimizer.defaults.items() if key != "amsgrad"}
    older.state = {
        param: {key if key == "step" else key + "_1": value for key, value in state.items()}
        for param, state in optimizer.state.items()
    }
    again = pickle.loads(pickle.dumps(older))
    params = [param for group in again.param_groups for param in group["params"]]
    give_grads(params, optimizer.param_groups[0]["params"])
    again.step(), optimizer.step()
    assert_same(again, optimizer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: _trained(KAdam, p, k=3), r"KAdam with k=3.*KAdam with k=2"),
        (lambda p: KAdam(p, k=3), r"KAdam with k=3.*KAdam with k=2"),
        (lambda p: _trained(torch.optim.AdamW, p), r"torch's AdamW \(k=1\).*KAdam with k=2.*from_adamw"),
        (lambda p: _trained(torch.optim.AdamW, p, amsgrad=True), "amsgrad=True is not supported"),
        (lambda p: _trained(torch.optim.SGD, p, momentum=0.9), "another optimizer's.*momentum_buffer.*KAdam with k=2"),
        (lambda p: torch.optim.SGD(p), "another optimizer's.*nesterov.*KAdam with k=2"),
        (lambda p: _trained(torch.optim.Adamax, p), "another optimizer's.*exp_inf.*KAdam with k=2"),
        (lambda p: _trained(torch.optim.RAdam, p), "another optimizer's.*KAdam with k=2"),
        (lambda p: _trained(torch.optim.NAdam, p), "another optimizer's.*mu_product.*KAdam with k=2"),
    ],
)
def test_state_of_another_kind_is_refused_and_nothing_changes(make, message):
    saved = make(_params()).state_dict()
    optimizer = _trained(KAdam, _params(), k=2)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)


def test_other_weight_decay_and_amsgrad_are_refused_with_one_stage():
    for options, message in (
        ({"weight_decay": 0.1}, "KAdam's weight decay is decoupled"),
        ({"amsgrad": True}, "amsgrad=True"),
    ):
        saved = torch.optim.Adam(_params(), **options).state_dict()
        with pytest.raises(ValueError, match=message):
            KAdam(_params(), k=1).load_state_dict(saved)
    KAdam(_params(), k=1).load_state_dict(_trained(torch.optim.Adam, _params()).state_dict())


def test_group_numbers_and_sizes_are_checked_as_in_torch():
    saved = _trained(KAdam, _params()).state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        KAdam([{"params": [p]} for p in _params()]).load_state_dict(saved)
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        KAdam(_params()[:2]).load_state_dict(saved)


# --- Continuing a run -------------------------------------------------------------------------------------------------


@main_paths
def test_one_stage_continues_adamw_bit_for_bit(path):
    left = _params()
    adamw = _trained(torch.optim.AdamW, left, weight_decay=0.1, **PATHS[path])
    right = clones(left)
    twin = torch.optim.AdamW(right, lr=0.01, weight_decay=0.1, **PATHS[path])
    twin.load_state_dict(copy.deepcopy(adamw.state_dict()))
    continued = KAdam.from_adamw(adamw, k=1)
    for _ in range(3):
        give_grads(left, right)
        continued.step(), twin.step()
        assert_same(continued, twin)


def _sizes(optimizer, params, grads):
    """Return the root mean square of each update, in units of the learning rate."""
    sizes = []
    for grad in grads:
        before = params[0].clone()
        params[0].grad = grad.clone()
        optimizer.step()
        sizes.append(((params[0] - before) / optimizer.param_groups[0]["lr"]).square().mean().sqrt().item())
    return sizes


@main_paths
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_the_first_updates_keep_adamws_size(path, k, signal):
    """A constant gradient: a few per cent. Noise: less averaging by momentum (1.4), and the later stages forget their start."""
    grads = [torch.randn(4000) + signal * 3 for _ in range(106)]
    params = [torch.zeros(4000)]
    adamw = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0)
    _sizes(adamw, params, grads[:100])
    others = [[params[0].clone()] for _ in range(2)]
    twin = torch.optim.AdamW(others[0], lr=1e-4, weight_decay=0.0)
    twin.load_state_dict(copy.deepcopy(adamw.state_dict()))
    continued = KAdam.from_adamw(adamw, k=k, **PATHS[path])
    cold = KAdam(others[1], lr=1e-4, weight_decay=0.0, k=k, **PATHS[path])
    cold.load_state_dict(continued.state_dict())
    for key, value in cold.state[others[1][0]].items():
        if key.startswith("exp_avg") and not key.endswith("_1"):
            value.zero_()
    expected = _sizes(twin, others[0], grads[100:])
    ratios = [a / b for a, b in zip(_sizes(continued, params, grads[100:]), expected, strict=True)]
    assert ratios[0] == pytest.approx(1, abs=0.07)
    beta2 = stage_betas("inverse-exp", k)[-1][1]
    for number, ratio in enumerate(ratios, start=1):
        assert 0.9 < ratio < (1.05 if signal else 1.4 * beta2 ** (-(k - 1) * number / 2)), ratios
    if not signal:
        assert _sizes(cold, others[1], grads[100:101])[0] > 3 * expected[0]


def test_the_first_update_is_the_derived_one():
    """With AdamW's betas in stage 1: u₂ = [γ(1−γⁿ)u_n + (1−γ)u_{n+1}] / (1−γⁿ⁺¹) / √(1 − w(1−u_{n+1}²)), w = (1−β)/(1−βⁿ⁺¹)."""
    n, (gamma, beta) = 20, (0.7, 0.96)
    params = [torch.zeros(50, dtype=torch.float64)]
    updates = []
    adamw = torch.optim.AdamW(params, lr=1.0, weight_decay=0.0, eps=0.0)
    for _ in range(n):
        before = params[0].clone()
        give_grads(params)
        adamw.step()
        updates.append(before - params[0])
    twin_params = clones(params)
    twin = torch.optim.AdamW(twin_params, lr=1.0, weight_decay=0.0, eps=0.0)
    twin.load_state_dict(copy.deepcopy(adamw.state_dict()))
    continued = KAdam.from_adamw(adamw, k=2, stages=[(0.9, 0.999), (gamma, beta)])
    before = params[0].clone()
    give_grads(params, twin_params)
    continued.step(), twin.step()
    new = before - twin_params[0]
    mean = (gamma * (1 - gamma**n) * updates[-1] + (1 - gamma) * new) / (1 - gamma ** (n + 1))
    weight = (1 - beta) / (1 - beta ** (n + 1))
    torch.testing.assert_close(before - params[0], mean / (1 - weight * (1 - new**2)).sqrt(), rtol=1e-10, atol=1e-12)
    assert math.sqrt(1 / (1 - weight)) < 1.05  # the largest factor of this update against the mean


def test_a_continued_run_keeps_options_names_and_shares_nothing():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    groups = [
        {"params": list(model[0].named_parameters()), "lr": torch.tensor(0.5), "initial_lr": 0.5},
        {"params": list(model[1].named_parameters()), "betas": (0.8, 0.9), "maximize": True},
    ]
    adamw = torch.optim.AdamW(groups, weight_decay=0.3, foreach=False)
    model(torch.ones(3)).sum().backward()
    adamw.step()
    before = copy.deepcopy(adamw.state_dict())
    continued = KAdam.from_adamw(adamw, stages="exp", state_dtype="float64", eps=1e-6)
    for ours, theirs in zip(continued.param_groups, adamw.param_groups, strict=True):
        assert all(ours[name] == theirs[name] for name in set(ours) & set(theirs) - {"params", "eps"})
        assert [id(param) for param in ours["params"]] == [id(param) for param in theirs["params"]]
        assert (ours["k"], ours["stages"], ours["state_dtype"], ours["eps"]) == (2, "exp", "float64", 1e-6)
    continued.add_param_group({"params": [("more", torch.nn.Parameter(torch.zeros(1)))]})
    assert continued.param_groups[-1]["weight_decay"] == 0.3
    continued.param_groups[0]["lr"].fill_(0.1)
    model(torch.ones(3)).sum().backward()
    continued.step()
    torch.testing.assert_close(adamw.state_dict()["state"], before["state"], rtol=0, atol=0)
    assert adamw.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bfloat16])
def test_runs_of_other_dtypes_continue(dtype):
    params = [torch.randn(5).to(dtype), torch.randn(2, 3).to(dtype)]
    continued = KAdam.from_adamw(_trained(torch.optim.AdamW, params[:1]))
    give_grads(params)
    continued.step()
    for key, value in continued.state[params[0]].items():
        assert value.isfinite().all() and (key == "step" or value.dtype == dtype)


def test_other_optimizers_are_not_continued():
    with pytest.raises(TypeError, match=r"from_adamw continues torch.optim.AdamW, not torch.optim..*SGD"):
        KAdam.from_adamw(torch.optim.SGD(_params()))
    with pytest.raises(ValueError, match="amsgrad=True is not supported"):
        KAdam.from_adamw(torch.optim.AdamW(_params(), amsgrad=True))
    with pytest.raises(ValueError, match="weight decay is decoupled"):
        KAdam.from_adamw(torch.optim.Adam(_params(), weight_decay=0.1))


def test_the_stages_of_a_continued_run_are_derived_from_adamws_betas():
    continued = KAdam.from_adamw(torch.optim.AdamW(_params(), betas=(0.8, 0.95)), k=3)
    group = continued.param_groups[0]
    assert stage_betas(group["stages"], group["k"], betas=group["betas"]) == stage_betas(
        "inverse-exp", 3, betas=(0.8, 0.95)
    )
