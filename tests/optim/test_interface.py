"""Test KAdam's interface: construction, groups, schedulers, state dicts, copies, hooks."""

import ast
import copy
import doctest
import inspect
import math
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from common import MAIN, PATHS, all_kinds, assert_same, clones, give_grads

from ctadam import KAdam
from ctadam.optim import StabilityWarning
from ctadam.optim import kadam as module

main_paths = pytest.mark.parametrize("path", MAIN)
all_paths = pytest.mark.parametrize("path", PATHS)


def _quadratic(path, k=2, contiguous=True, **options):
    """Return an optimizer and a function that performs a step on a least-squares problem and returns the loss."""
    if contiguous:
        weight, bias = torch.randn(10, 5), torch.randn(10)
    else:
        weight, bias = torch.randn(10, 5, 2)[..., 0], torch.randn(10, 2)[..., 0]
    weight.requires_grad_(), bias.requires_grad_()
    data = torch.randn(5)
    optimizer = KAdam([weight, bias], k=k, **{"lr": 0.01, **PATHS[path], **options})

    def step():
        def closure():
            optimizer.zero_grad()
            loss = (weight.mv(data) + bias).square().sum()
            loss.backward()
            return loss

        return optimizer.step(closure).item()

    return optimizer, step


# --- Construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ({"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
        ({"lr": math.inf}, ValueError, "Invalid learning rate: inf"),
        ({"lr": torch.tensor(-0.5)}, ValueError, "Invalid learning rate: -0.5"),
        ({"lr": torch.tensor([0.1, 0.1])}, ValueError, "Tensor lr must be 1-element"),
        (
            {"lr": torch.tensor(0.1), "foreach": True},
            ValueError,
            "lr as a Tensor is not supported for capturable=False",
        ),
        ({"eps": -1e-8}, ValueError, "Invalid epsilon value: -1e-08"),
        ({"eps": math.nan}, ValueError, "Invalid epsilon value: nan"),
        ({"eps": math.inf}, ValueError, "Invalid epsilon value: inf"),
        ({"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
        ({"weight_decay": math.nan}, ValueError, "Invalid weight_decay value: nan"),
        ({"betas": (1.0, 0.0)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (0.9, -0.1)}, ValueError, "Invalid beta parameter at index 1: -0.1"),
        ({"betas": (math.nan, 0.9)}, ValueError, "Invalid beta parameter at index 0: nan"),
        ({"betas": (0.9,)}, ValueError, r"Invalid betas: \(0.9,\) is not a pair"),
        ({"betas": (0.9, 0.99, 0.999)}, ValueError, r"Invalid betas: \(0.9, 0.99, 0.999\) is not a pair"),
        ({"betas": (0, 0.999)}, ValueError, r"betas must be either both floats or both Tensors, got \(0, 0.999\)"),
        ({"betas": (1, 0.999)}, ValueError, "Invalid beta parameter at index 0: 1"),
        ({"betas": (0.9, torch.tensor(0.99))}, ValueError, "betas must be either both floats or both Tensors"),
        ({"betas": (torch.ones(2) / 2, torch.tensor(0.9))}, ValueError, r"Tensor betas\[0\] must be 1-element"),
        (
            {"betas": (torch.tensor(0.9), torch.tensor(0.99)), "foreach": True},
            ValueError,
            r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
        ),
        ({"amsgrad": True}, ValueError, "amsgrad=True is not supported: k-Adam's stages divide by the root"),
        ({"k": 0}, ValueError, "Invalid k: 0 is less than 1"),
        ({"k": 1.5}, TypeError, "Invalid k: 1.5 is not an integer"),
        ({"k": 3, "stages": [(0.9, 0.999)] * 2}, ValueError, "Invalid stages: got 2 pairs for k=3"),
        ({"stages": "geometric"}, ValueError, "Invalid stages: 'geometric'"),
        ({"fused": True, "foreach": True}, RuntimeError, "`fused` and `foreach` cannot be `True` together"),
        ({"fused": True, "differentiable": True}, RuntimeError, "`fused` does not support `differentiable`"),
        ({"state_dtype": torch.int64}, ValueError, "Invalid state_dtype: torch.int64 is not a floating point"),
        ({"state_dtype": "float99"}, ValueError, "Invalid state_dtype: 'float99' is not a floating point"),
        (
            {"state_dtype": torch.bfloat16},
            ValueError,
            "torch.bfloat16 is less precise than a parameter of torch.float32",
        ),
    ],
)
def test_invalid_options_raise_for_constructor_and_group(options, error, message):
    with pytest.raises(error, match=message):
        KAdam([torch.zeros(2)], **options)
    optimizer = KAdam([torch.zeros(2)])
    with pytest.raises(error, match=message):
        optimizer.add_param_group({"params": [torch.zeros(2)], **options})
    assert len(optimizer.param_groups) == 1


def test_integer_options_are_accepted():
    """torch accepts integers for everything but betas: eps=0, weight_decay=0, lr=1."""
    floats, integers = [torch.randn(3)], None
    integers = clones(floats)
    left = KAdam(floats, lr=1.0, eps=0.0, weight_decay=0.0)
    right = KAdam(integers, lr=1, eps=0, weight_decay=0)
    give_grads(floats, integers)
    left.step()
    right.step()
    assert_same(left, right)


@main_paths
def test_sparse_gradients_raise(path):
    param = torch.zeros(3, requires_grad=True)
    optimizer = KAdam([param], **PATHS[path])
    for grad in (torch.ones(3), torch.sparse_coo_tensor([[1]], [1.0], (3,))):
        param.grad = None
        param.grad = grad
        if grad.is_sparse:
            with pytest.raises(RuntimeError, match="KAdam does not support sparse gradients"):
                optimizer.step()
        else:
            optimizer.step()


def test_unstable_betas_warn_once_at_the_callers_line():
    with pytest.warns(StabilityWarning) as caught:
        optimizer = KAdam([torch.zeros(1)], k=1, betas=(0.995, 0.95))
        optimizer.add_param_group({"params": [torch.zeros(1)], "betas": (0.995, 0.94)})
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    for part in ("(0.995, 0.95)", "C = -0.04258", "growth rate 0.02129", "beta2 for this beta1 is 0.99005"):
        assert part in message
    with pytest.warns(StabilityWarning) as caught:
        optimizer = KAdam([torch.zeros(1)])
        optimizer.add_param_group({"params": [torch.zeros(1)], "k": 1, "betas": (0.995, 0.95)})
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(StabilityWarning, match="No beta2 below 1 is stable for this beta1"):
        KAdam([torch.zeros(1)], k=1, betas=(1 - 2.0**-53, 0.999))


def test_only_the_last_stage_warns():
    stable, unstable = (0.9, 0.999), (0.995, 0.95)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KAdam([torch.zeros(1)], stages=[unstable, stable])
        KAdam([torch.zeros(1)], betas=(0.0, 0.0))  # sign descent
    with pytest.warns(StabilityWarning):
        KAdam([torch.zeros(1)], stages=[stable, unstable])
    with pytest.warns(StabilityWarning, match="C = 0 is not positive"):
        KAdam([torch.zeros(1)], k=1, betas=(0.125, 0.125 / 1.875))  # on the boundary: grows like a square root


def test_importing_kadam_loads_neither_a_compiler_nor_the_experiments():
    """`import torch` dominates what the import costs."""
    program = (
        "import sys, torch; before = set(sys.modules); from ctadam import KAdam; "
        "print(sorted({name.split('.')[0] if name.split('.')[0] != 'torch' else name for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    names = set(ast.literal_eval(loaded.splitlines()[-1]))
    assert "ctadam" in names
    assert not [name for name in names if name.startswith(("torch._dynamo", "torch._inductor", "torch.distributed"))]
    assert not names & {"scipy", "pandas", "matplotlib", "pydantic", "sympy"}


def test_examples_in_the_docstrings():
    assert doctest.testmod(module) == (0, 7)


def test_signature_is_the_documented_one():
    signature = inspect.signature(KAdam)
    untyped = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    assert str(inspect.Signature(untyped)) == (
        "(params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False, *, k=2, stages='inverse-exp', "
        "maximize=False, foreach=None, capturable=False, differentiable=False, fused=None, state_dtype=None)"
    )


def test_betas_that_become_unstable_warn_once():
    """By assignment, by a scheduler, and by a checkpoint, at the caller's line."""

    def stable():
        param = torch.zeros(1)
        param.grad = torch.ones(1)
        return KAdam([param], k=1, betas=(0.9, 0.95))

    optimizer = stable()
    optimizer.step()
    optimizer.param_groups[0]["betas"] = (0.995, 0.95)
    with pytest.warns(StabilityWarning) as caught:
        for _ in range(3):
            optimizer.step()
        optimizer.param_groups[0]["betas"] = (0.995, 0.94)
        optimizer.step()
    assert len(caught) == 1 and caught[0].filename == __file__
    for part in ("C = -0.04258", "growth rate 0.02129", "beta2 for this beta1 is 0.99005"):
        assert part in str(caught[0].message)

    optimizer = stable()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=10, base_momentum=0.9, max_momentum=0.99
    )
    with pytest.warns(StabilityWarning) as caught:
        for _ in range(10):
            optimizer.step()
            scheduler.step()
    assert len(caught) == 1

    saved = optimizer.state_dict()
    saved["param_groups"][0]["betas"] = (0.995, 0.95)
    optimizer = stable()
    with pytest.warns(StabilityWarning) as caught:
        optimizer.load_state_dict(saved)
        optimizer.step()
    assert len(caught) == 1 and caught[0].filename == __file__

    optimizer = copy.deepcopy(stable())  # a copy of a stable one still watches
    optimizer.param_groups[0]["betas"] = (torch.tensor(0.995), torch.tensor(0.95))
    with pytest.warns(StabilityWarning, match="C = -0.0425"):
        optimizer.step()


@all_paths
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_tensor_betas_work_with_schedulers_that_cycle_the_momentum(path, k, name):
    """The scheduler writes a float for beta1 beside a tensor for beta2."""
    left = all_kinds(torch.float64)
    right = clones(left)
    options = {"lr": 0.01, "k": k, **PATHS[path]}
    betas = tuple(torch.tensor(beta, dtype=torch.float64) for beta in (0.9, 0.999))
    floats = KAdam(left, **options)
    tensors = KAdam(right, **{**options, "foreach": None})
    for group in tensors.param_groups:
        group.update(betas=betas, foreach=options.get("foreach"))
    schedulers = [scheduler for optimizer in (floats, tensors) for scheduler in SCHEDULERS[name](optimizer)]
    assert isinstance(tensors.param_groups[0]["betas"][1], torch.Tensor)
    for _ in range(4):
        give_grads(left, right)
        floats.step(), tensors.step()
        assert_same(floats, tensors, rtol=1e-11, atol=1e-12)
        for scheduler in schedulers:
            scheduler.step()


# --- Steps ------------------------------------------------------------------------------------------------------------


@all_paths
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("maximize", [False, True])
def test_loss_decreases_or_increases_with_maximize(path, k, contiguous, maximize):
    _, step = _quadratic(path, k, contiguous, maximize=maximize)
    losses = [step() for _ in range(20)]
    assert losses[-1] > losses[0] if maximize else losses[-1] < losses[0]


SCHEDULERS = {
    "ExponentialLR": lambda o: [torch.optim.lr_scheduler.ExponentialLR(o, gamma=0.9)],
    "LinearLR": lambda o: [torch.optim.lr_scheduler.LinearLR(o, start_factor=0.4, total_iters=4)],
    "ConstantLR, ExponentialLR": lambda o: [
        torch.optim.lr_scheduler.ConstantLR(o, factor=0.4, total_iters=4),
        torch.optim.lr_scheduler.ExponentialLR(o, gamma=0.9),
    ],
    "PolynomialLR": lambda o: [torch.optim.lr_scheduler.PolynomialLR(o, power=0.9, total_iters=4)],
    "StepLR, ReduceLROnPlateau": lambda o: [
        torch.optim.lr_scheduler.StepLR(o, gamma=0.9, step_size=10),
        torch.optim.lr_scheduler.ReduceLROnPlateau(o),
    ],
    "OneCycleLR": lambda o: [torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=30)],
    "CyclicLR": lambda o: [torch.optim.lr_scheduler.CyclicLR(o, 0.001, 0.05, step_size_up=5)],
}


@main_paths
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(path, name):
    optimizer, step = _quadratic(path)
    schedulers = SCHEDULERS[name](optimizer)
    losses = []
    for _ in range(20):
        losses.append(step())
        for scheduler in schedulers:
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(losses[-1]) if plateau else scheduler.step()
    assert losses[-1] < losses[0]


@main_paths
def test_scheduled_momentum_reaches_every_stage(path):
    """OneCycleLR and CyclicLR write to betas; every stage's beta1 follows."""
    left, right = [torch.randn(4, dtype=torch.float64)], None
    right = clones(left)
    scheduled, constant = KAdam(left, **PATHS[path]), KAdam(right, betas=(0.5, 0.999), **PATHS[path])
    scheduled.param_groups[0]["betas"] = (0.5, 0.999)
    give_grads(left, right)
    scheduled.step(), constant.step()
    assert_same(scheduled, constant)


@main_paths
def test_groups_have_their_own_lr_and_weight_decay(path):
    frozen, moving = torch.randn(4), torch.randn(4)
    before = frozen.clone()
    optimizer = KAdam([{"params": [frozen], "lr": 1e-28, "weight_decay": 0.5}, {"params": [moving]}], **PATHS[path])
    for _ in range(5):
        give_grads([frozen, moving])
        optimizer.step()
    assert torch.equal(frozen, before)
    decayed = torch.ones(4)
    optimizer = KAdam([{"params": [decayed], "lr": 0.5, "weight_decay": 0.5}], lr=1e-28, eps=0.0, **PATHS[path])
    decayed.grad = torch.zeros(4)
    optimizer.step()
    torch.testing.assert_close(decayed, torch.full((4,), 0.75))


@pytest.mark.parametrize("path", ["plain", "fused", "capturable", "foreach capturable", "fused capturable"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_tensor_lr_and_betas_equal_floats(path, shape):
    left = all_kinds(torch.float64)
    right = clones(left)
    tensor = lambda value: torch.full(shape, value, dtype=torch.float64)  # noqa: E731
    floats = KAdam(left, lr=0.01, betas=(0.8, 0.95), **PATHS[path])
    tensors = KAdam(right, lr=tensor(0.01), betas=(tensor(0.8), tensor(0.95)), **PATHS[path])
    for _ in range(3):
        give_grads(left, right)
        floats.step(), tensors.step()
        assert_same(floats, tensors, rtol=1e-12, atol=1e-13)


def test_tensor_lr_in_a_foreach_group_raises():
    param = torch.zeros(2)
    optimizer = KAdam([param], foreach=True)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    give_grads([param])
    with pytest.raises(RuntimeError, match="lr as a Tensor is not supported for capturable=False and foreach=True"):
        optimizer.step()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}], ids=["default", "decay, maximize"])
def test_differentiable(k, options):
    """Gradients through two steps, with respect to parameter, gradients and state."""

    def two_steps(param, first, second, *averages):
        param = param.clone()
        optimizer = KAdam([param], lr=0.3, k=k, differentiable=True, **options)
        state = {"step": torch.tensor(3.0, dtype=torch.float64)}
        for i in range(k):
            number = "" if k == 1 else f"_{i + 1}"
            state["exp_avg" + number] = averages[2 * i].clone()
            state["exp_avg_sq" + number] = averages[2 * i + 1].square() + 0.1
        optimizer.state[param].update(state)
        for grad in (first, second):
            param.grad = grad
            optimizer.step()
        return (param, *(value for key, value in optimizer.state[param].items() if key != "step"))

    inputs = [torch.rand(4, dtype=torch.float64, requires_grad=True) for _ in range(3 + 2 * k)]
    assert torch.autograd.gradcheck(two_steps, inputs)


def test_differentiable_in_lr_and_betas():
    def one_step(param, grad, lr, beta1, beta2):
        param = param.clone()
        optimizer = KAdam([param], lr=lr, betas=(beta1, beta2), differentiable=True)
        for factor in (1.0, -0.5):
            param.grad = grad * factor
            optimizer.step()
        return param

    numbers = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.1, 0.7, 0.95)]
    inputs = [torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(one_step, (*inputs, *numbers))


def test_differentiable_equals_the_plain_path():
    left = all_kinds(torch.float64)
    right = [param.detach().clone() for param in left]
    plain, differentiable = KAdam(left, foreach=False), KAdam(right, differentiable=True)
    for _ in range(3):
        give_grads(left, right)
        plain.step(), differentiable.step()
        assert_same(plain, differentiable, rtol=1e-12, atol=1e-13)


@all_paths
def test_complex_equals_its_real_view(path):
    for shape in ((3,), (40, 500), ()):
        number = torch.randn(shape, dtype=torch.complex128)
        pair = torch.view_as_real(number).clone()
        one, two = KAdam([number], k=2, **PATHS[path]), KAdam([pair], k=2, **PATHS[path])
        for _ in range(3):
            number.grad = torch.randn_like(number)
            pair.grad = torch.view_as_real(number.grad).clone()
            one.step(), two.step()
            assert torch.equal(torch.view_as_real(number), pair)
            for key, value in two.state[pair].items():
                other = one.state[number][key]
                assert torch.equal(torch.view_as_real(other) if other.is_complex() else other, value)


@main_paths
def test_mixed_dtypes_in_one_optimizer(path):
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)
    together = [torch.randn(size).to(dtype) for dtype in dtypes for size in (3, 20_000)]
    alone = clones(together)
    one = KAdam(together, lr=0.01, **PATHS[path])
    each = [KAdam([param], lr=0.01, **PATHS[path]) for param in alone]
    for _ in range(3):
        give_grads(together, alone)
        one.step()
        for optimizer in each:
            optimizer.step()
    for left, right in zip(together, alone, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@main_paths
def test_mixed_devices_and_a_checkpoint_from_the_cpu(path):
    left = [torch.randn(3), torch.randn(20_000, device="cuda"), torch.randn(3, device="cuda")]
    right = [param.cpu() for param in left]
    mixed, plain = KAdam(left, **PATHS[path]), KAdam(right, foreach=False)
    for step in range(4):
        give_grads(right)
        for one, other in zip(left, right, strict=True):
            one.grad = other.grad.to(one.device)
        mixed.step(), plain.step()
        for one, other in zip(left, right, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-6)
        if step == 1:
            mixed.load_state_dict({**plain.state_dict(), "param_groups": mixed.state_dict()["param_groups"]})


def test_gradients_on_the_meta_device_are_traced_without_values():
    param = torch.zeros(3, 4, device="meta")
    param.grad = torch.empty_like(param)
    optimizer = KAdam([param], foreach=False)
    optimizer.step()
    assert optimizer.state[param]["exp_avg_2"].device.type == "meta"


@main_paths
def test_the_default_dtype_is_respected(path):
    torch.set_default_dtype(torch.float64)
    try:
        param = torch.randn(3)
        optimizer = KAdam([param], **PATHS[path])
        give_grads([param])
        optimizer.step()
        state = optimizer.state[param]
        assert param.dtype == state["exp_avg_1"].dtype == torch.float64
        assert state["step"].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@all_paths
def test_parameters_without_gradients_are_unchanged(path):
    params = all_kinds()
    optimizer = KAdam(params, weight_decay=0.1, **PATHS[path])
    before = clones(params)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert not any(optimizer.state.get(param) for param in params)


@all_paths
@pytest.mark.parametrize("eps", [1e-8, 0.0])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_zero_gradients_change_nothing(path, eps, k):
    params = all_kinds()
    before = clones(params)
    optimizer = KAdam(params, k=k, eps=eps, weight_decay=0.0, **PATHS[path])
    for _ in range(3):
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


# --- State ------------------------------------------------------------------------------------------------------------


def _twin(optimizer):
    """Return an optimizer with the same options and no state over copies of the parameters."""
    group = optimizer.param_groups[0]
    params = clones(group["params"])
    options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    return KAdam(params, **options)


def _continue_identically(left, right, steps=3, **tolerance):
    params = [[p for group in o.param_groups for p in group["params"]] for o in (left, right)]
    for _ in range(steps):
        give_grads(*params)
        left.step(), right.step()
    assert_same(left, right, **tolerance)


def _trained(path, **options):
    params = all_kinds()
    optimizer = KAdam(params, lr=0.01, **PATHS[path], **options)
    for step in range(3):
        give_grads(params, none={step})
        optimizer.step()
    return optimizer


@all_paths
@pytest.mark.parametrize("k", [1, 2, 3])
def test_state_keys(path, k):
    optimizer = _trained(path, k=k)
    keys = {"step"} | {f"{name}_{i}" for name in ("exp_avg", "exp_avg_sq") for i in range(1, k + 1)}
    if k == 1:
        keys = {"step", "exp_avg", "exp_avg_sq"}  # AdamW's
    for param in optimizer.param_groups[0]["params"]:
        state = optimizer.state[param]
        assert set(state) == keys
        assert state["step"].shape == ()
        assert all(state[key].shape == param.shape for key in keys - {"step"})


@all_paths
@pytest.mark.parametrize("options", [{}, {"k": 3, "stages": [(0.5, 0.9), (0.0, 0.99), (0.9, 0.999)]}, {"k": 1}])
def test_loaded_state_dict_continues_identically(path, options):
    optimizer = _trained(path, **options)
    twin = _twin(optimizer)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _continue_identically(optimizer, twin)


@main_paths
def test_state_dict_moves_between_paths(path):
    optimizer = _trained("plain")
    twin = _twin(optimizer)
    state_dict = copy.deepcopy(optimizer.state_dict())
    for group in state_dict["param_groups"]:
        group.update({"foreach": None, "fused": None, **PATHS[path]})
    twin.load_state_dict(state_dict)
    _continue_identically(optimizer, twin, rtol=1e-5, atol=1e-6)


@main_paths
@pytest.mark.parametrize("weights_only", [True, False])
def test_state_dict_survives_saving_to_a_file(path, weights_only, tmp_path):
    optimizer = _trained(path, k=2, stages=[(0.5, 0.9), (0.9, 0.999)], state_dtype=torch.float64)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    twin = _twin(optimizer)
    twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=weights_only))
    _continue_identically(optimizer, twin)


@all_paths
def test_loading_keeps_the_precision_of_the_state(path):
    """torch casts loaded state to the parameter's dtype."""
    optimizer = _trained(path, state_dtype=torch.float64)
    twin = _twin(optimizer)
    order = []
    twin.register_load_state_dict_pre_hook(lambda *_: order.append("pre"))
    twin.register_load_state_dict_post_hook(
        lambda loaded: order.append(loaded.state[loaded.param_groups[0]["params"][0]]["exp_avg_1"].dtype)
    )
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert order == ["pre", torch.float64]
    assert_same(optimizer, twin)
    _continue_identically(optimizer, twin)


@pytest.mark.parametrize("named", [(True, False), (False, True), (True, True)])
def test_state_dict_moves_between_named_and_unnamed_parameters(named):
    def make(with_names):
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2)
        return KAdam(model.named_parameters() if with_names else model.parameters(), lr=0.01)

    left, right = make(named[0]), make(named[1])
    give_grads(left.param_groups[0]["params"])
    left.step()
    right.load_state_dict(copy.deepcopy(left.state_dict()))
    for one, other in zip(left.param_groups[0]["params"], right.param_groups[0]["params"], strict=True):
        other.data.copy_(one)
    _continue_identically(left, right)
    assert ("param_names" in right.param_groups[0]) == any(named)


@all_paths
def test_old_state_dicts_load_with_defaults(path):
    optimizer = _trained(path)
    state_dict = copy.deepcopy(optimizer.state_dict())
    for group in state_dict["param_groups"]:
        for flag in (
            "maximize", "foreach", "capturable", "differentiable", "fused", "state_dtype", "k", "stages"
        ):  # fmt: skip
            del group[flag]
    for state in state_dict["state"].values():
        state["step"] = float(state["step"])
    twin = _twin(optimizer)
    twin.load_state_dict(state_dict)
    assert all(isinstance(state["step"], torch.Tensor) for state in twin.state.values())
    _continue_identically(optimizer, twin, rtol=1e-6, atol=1e-7)


def test_state_of_another_k_raises():
    optimizer = _trained("plain", k=2)
    for k in (1, 3):
        optimizer.param_groups[0]["k"] = k
        with pytest.raises(RuntimeError, match=f"was not created with k={k}: it has .*exp_avg_2"):
            optimizer.step()


@all_paths
def test_pickle_and_deepcopy_continue_identically(path):
    optimizer = _trained(path)
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        public = lambda o: {key for key in vars(o) if not key.startswith("_")}  # noqa: E731
        assert public(twin) == public(optimizer)
        assert twin.defaults == optimizer.defaults
        _continue_identically(copy.deepcopy(optimizer), twin)


def test_copies_do_not_warn_again_or_share_hooks():
    with pytest.warns(StabilityWarning):
        optimizer = KAdam([torch.zeros(1)], k=1, betas=(0.995, 0.95))
    optimizer.register_update_hook(lambda *_: pytest.fail("the original's hook"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = copy.deepcopy(optimizer)
        twin.add_param_group({"params": [torch.zeros(1)]})
    give_grads(twin.param_groups[0]["params"])
    twin.step()


def test_all_eight_hooks_run_in_order():
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    param = torch.zeros(2)
    optimizer = KAdam([param])
    calls = []
    note = lambda name: lambda *_: calls.append(name)  # noqa: E731
    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_post_hook(note("post")),
        register_optimizer_step_post_hook(note("global post")),
        optimizer.register_state_dict_pre_hook(note("state_dict pre")),
        optimizer.register_state_dict_post_hook(note("state_dict post")),
        optimizer.register_load_state_dict_pre_hook(note("load pre")),
        optimizer.register_load_state_dict_post_hook(note("load post")),
    ]
    try:
        give_grads([param])
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    finally:
        for handle in handles:
            handle.remove()
    assert calls == [
        "global pre", "pre", "post", "global post", "state_dict pre", "state_dict post", "load pre", "load post"
    ]  # fmt: skip
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


def test_load_hook_can_replace_the_state_dict():
    optimizer = _trained("plain", state_dtype=torch.float64)
    twin = _twin(optimizer)
    wanted = copy.deepcopy(optimizer.state_dict())
    twin.register_load_state_dict_pre_hook(lambda *_: wanted)
    twin.load_state_dict({})
    assert_same(optimizer, twin)


def test_repr_lists_the_options_of_each_group():
    optimizer = KAdam([{"params": [torch.zeros(1)], "k": 3}, {"params": [torch.zeros(1)]}])
    text = repr(optimizer)
    assert text.startswith("KAdam (\nParameter Group 0\n")
    for line in ("    k: 3\n", "    k: 2\n", "    stages: inverse-exp\n", "    state_dtype: None\n"):
        assert line in text
