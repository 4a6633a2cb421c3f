"""Test that every path follows parameters and state wherever they are moved, cast, resized, re-laid or sharded."""

import copy
import gc
import io

import pytest
import torch
import torch.distributed as dist
from common import MAIN, PATHS, assert_same, clones, give_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter

from ctadam import KAdam, stage_betas

all_paths = pytest.mark.parametrize("path", PATHS)
main_paths = pytest.mark.parametrize("path", MAIN)


@pytest.fixture(scope="module")
def mesh():
    """Mesh of this process alone: its shards are whole, but they are DTensors."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def _shard(tensor, mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    return Parameter(distribute_tensor(tensor.detach(), mesh, [Shard(0)]))


def _local(tensor):
    return getattr(tensor, "_local_tensor", tensor)


# --- Random changes between steps -------------------------------------------------------------------------------------


def _relaid(tensor):
    """Return a copy whose dimensions lie in the opposite order in memory."""
    order = list(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


def _with_gaps(tensor):
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def _averages(optimizer, param):
    return [value for key, value in optimizer.state[param].items() if key != "step"]


def _on_param(change):
    def action(run, index):
        param = run.params[index]
        param.grad = None
        param.data = change(param.data)

    return action


def _on_state(change):
    def action(run, index):
        for value in run.optimizer.state[run.params[index]].values():
            local = _local(value)
            local.data = change(local.data)

    return action


def _resize_storage(run, index):
    """Free a parameter's memory and allocate it again, as sharded data parallelism does."""
    param = run.params[index].detach()
    values, storage = param.clone(), param.untyped_storage()
    size = storage.nbytes()
    if not storage.resizable():  # NumPy has seen it
        return
    storage.resize_(0)
    storage.resize_(size)
    param.copy_(values)


def _shrink(run, index):
    """Drop rows of a parameter and its averages without copying them."""
    param = run.params[index]
    if param.dim() == 0:
        return
    rows = (len(param) + 1) // 2
    param.grad = None
    for tensor in (param, *_averages(run.optimizer, param)):
        tensor.data = tensor.data[:rows]
    run.reference.theta[index] = run.reference.theta[index][:rows]
    for averages in (run.reference.m, run.reference.v):
        averages[index] = [average[:rows] for average in averages[index]]


def _replace_state(run, index):
    state = run.optimizer.state[run.params[index]]
    state.update({key: value.clone() for key, value in state.items()})


def _cast_state(run, index):
    state = run.optimizer.state[run.params[index]]
    state.update({key: value.double() for key, value in state.items() if key != "step"})


def _flatten_state(run, index):
    """Move all averages into one buffer that is not the optimizer's."""
    averages = [value for param in run.params for value in map(_local, _averages(run.optimizer, param))]
    averages = [value for value in averages if value.dtype == torch.float32]
    buffer = torch.cat([value.reshape(-1) for value in averages])
    for value, part in zip(averages, buffer.split([value.numel() for value in averages]), strict=True):
        value.data = part.view(value.shape)


def _edit_state(run, index):
    for value in _averages(run.optimizer, run.params[index]):
        value.mul_(0.5)
    for averages in (run.reference.m, run.reference.v):
        averages[index] = [average / 2 for average in averages[index]]


def _forget_state(run, index):
    run.optimizer.state.pop(run.params[index])
    run.reference.n[index] = 0
    for averages in (run.reference.m, run.reference.v):
        averages[index] = [average * 0 for average in averages[index]]


def _reload(run, index):
    run.optimizer.load_state_dict(run.optimizer.state_dict())


#: Changes that sharded parameters undergo too.
SHARDED = {
    "nothing": lambda run, index: None,
    "move state": _on_state(torch.clone),
    "move state twice": lambda run, index: [_on_state(torch.clone)(run, index) for _ in range(2)],
    "replace state": _replace_state,
    "flatten state": _flatten_state,
    "edit state": _edit_state,
    "forget state": _forget_state,
    "save": lambda run, index: run.optimizer.state_dict(),
    "reload": _reload,
}
CHANGES = SHARDED | {
    "move parameter": _on_param(torch.clone),
    "re-lay parameter": _on_param(_relaid),
    "parameter with gaps": _on_param(_with_gaps),
    "cast parameter": _on_param(torch.Tensor.double),
    "resize storage": _resize_storage,
    "shrink parameter": _shrink,
    "re-lay state": _on_state(_relaid),
    "state with gaps": _on_state(_with_gaps),
    "cast state": _cast_state,
}


class _Run:
    def __init__(self, path, k, mesh=None):
        torch.manual_seed(0)
        shapes = [(5,), (3, 4), (2, 3, 4, 5), (), (0, 3), (150, 120)]
        self.params = [Parameter(torch.randn(shape)) for shape in shapes]
        if mesh is not None:  # all but two: sharded and other parameters meet in one group
            self.params = [_shard(param, mesh) if param.dim() > 1 else param for param in self.params]
        options = {"lr": 0.01, "weight_decay": 0.1}
        self.optimizer = KAdam(self.params, k=k, **options, **PATHS[path])
        self.reference = Reference(
            [_local(param) for param in self.params], stages=stage_betas("inverse-exp", k), **options
        )

    def step(self, *, missing=None, device=None):
        for index, param in enumerate(self.params):
            param.grad = None if index == missing else torch.randn_like(param)
        self.reference.step([None if param.grad is None else _local(param.grad) for param in self.params])
        torch.set_default_device(device)
        try:
            self.optimizer.step()
        finally:
            torch.set_default_device(None)

    def check(self):
        optimizer = copy.copy(self.optimizer)
        locals_ = [_local(param) for param in self.params]
        optimizer.state = {
            local: {key: _local(value) for key, value in self.optimizer.state.get(param, {}).items()}
            for param, local in zip(self.params, locals_, strict=True)
        }
        self.reference.assert_equals(locals_, optimizer, rtol=1e-4, atol=2e-6)


indices = st.integers(0, 5)


def _plan(changes):
    change = st.tuples(st.sampled_from(sorted(changes)), indices)
    return st.lists(
        st.tuples(st.lists(change, max_size=3), st.none() | indices, st.sampled_from([None, "meta"])),
        min_size=2,
        max_size=5,
    )


def _follow(run, changes, plan):
    run.step()
    for made, missing, device in plan:
        for name, index in made:
            if run.optimizer.state.get(run.params[index]):
                changes[name](run, index)
        run.step(missing=missing, device=device)
        run.check()


@all_paths
@pytest.mark.parametrize("k", [1, 2])
@settings(deadline=None, max_examples=20)
@given(plan=_plan(CHANGES))
def test_any_change_of_memory_is_followed(path, k, plan):
    _follow(_Run(path, k), CHANGES, plan)


@main_paths
@pytest.mark.parametrize("k", [1, 2])
@settings(deadline=None, max_examples=10)
@given(plan=_plan(SHARDED))
def test_any_change_of_sharded_state_is_followed(mesh, path, k, plan):
    _follow(_Run(path, k, mesh), SHARDED, plan)


# --- Cases of their own -----------------------------------------------------------------------------------------------


@all_paths
def test_hooked_updates_of_shards_belong_to_the_whole_parameter(mesh, path):
    if "fused" in PATHS[path]:
        return  # the fused path has no hooks
    plain = Parameter(torch.randn(4, 3))
    sharded = _shard(plain, mesh)
    seen = {}
    for param in (plain, sharded):
        optimizer = KAdam([param], **PATHS[path])
        optimizer.register_update_hook(lambda param, update: seen.__setitem__(param, update.clone()))
        param.grad = torch.ones_like(param)
        optimizer.step()
    torch.testing.assert_close(seen[sharded].full_tensor(), seen[plain])


@all_paths
@pytest.mark.parametrize("k", [1, 2])
def test_a_gradient_of_another_placement_is_brought_to_the_parameters(mesh, path, k):
    from torch.distributed.tensor import Replicate, distribute_tensor

    plain = Parameter(torch.randn(4, 3))
    sharded = _shard(plain, mesh)
    plain.grad = torch.randn(4, 3)
    sharded.grad = distribute_tensor(plain.grad, mesh, [Replicate()])
    for param in (plain, sharded):
        KAdam([param], k=k, **PATHS[path]).step()
    torch.testing.assert_close(sharded.full_tensor(), plain)


@main_paths
@pytest.mark.parametrize("k", [1, 2])
def test_fake_tensors_are_traced(path, k):
    with FakeTensorMode():
        param = Parameter(torch.ones(3, 4))
        optimizer = KAdam([param, *(Parameter(torch.ones(2)) for _ in range(8))], k=k, **PATHS[path])
        for _ in range(2):
            for each in optimizer.param_groups[0]["params"]:
                each.grad = torch.ones_like(each)
            optimizer.step()
        assert all(value.shape == (3, 4) for value in _averages(optimizer, param))


@all_paths
@pytest.mark.parametrize("k", [1, 2])
def test_meta_tensors_are_traced(path, k):
    params = [Parameter(torch.empty(3, 4, device="meta")) for _ in range(8)]
    optimizer = KAdam(params, k=k, **PATHS[path])
    for _ in range(2):
        for param in params:
            param.grad = torch.empty_like(param)
        optimizer.step()
    assert all(value.is_meta for value in _averages(optimizer, params[0]))


class Logged(torch.Tensor):
    """Subclass whose values only its own operations may touch."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


@main_paths
@pytest.mark.parametrize("k", [1, 2])
def test_subclasses_of_tensor_take_the_plain_path(path, k):
    left = [torch.randn(3, 4).as_subclass(Logged).requires_grad_(), torch.randn(5, requires_grad=True)]
    right = [param.detach().as_subclass(torch.Tensor).clone().requires_grad_() for param in left]
    optimizers = KAdam(left, k=k, **PATHS[path]), KAdam(right, k=k, foreach=False)
    for _ in range(3):
        for one, other in zip(left, right, strict=True):
            other.grad = torch.randn_like(other)
            one.grad = other.grad.as_subclass(type(one)) if type(one) is Logged else other.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.as_subclass(torch.Tensor), other)


@all_paths
@pytest.mark.parametrize("k", [1, 2])
def test_tied_parameters_are_updated_one_after_the_other(path, k):
    """Two parameters in one memory, also tied after the first step, as one path after the other would."""
    results = []
    for options in (PATHS[path], {"foreach": False}):
        torch.manual_seed(1)
        first, second, third = (Parameter(torch.randn(4, 5)) for _ in range(3))
        second.data = first.data
        optimizer = KAdam([first, second, third], k=k, lr=0.1, **options)
        for step in range(4):
            if step == 2:
                third.data = first.data[:, :]
            for param in (first, second, third):
                param.grad = torch.randn(4, 5)
            optimizer.step()
        results.append(first.detach())
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
    exact = {"rtol": 1e-5, "atol": 1e-6}
    if "foreach" not in path:  # torch's foreach decays tied parameters before it updates them
        torch.testing.assert_close(*results, **exact)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
@all_paths
def test_a_parameter_given_twice_is_updated_twice(path):
    left, right = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    optimizers = KAdam([left, left], **PATHS[path]), KAdam([right, right], foreach=False)
    for _ in range(3):
        give_grads([left], [right])
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(left, right)
    assert optimizers[0].state[left]["step"] == 6


# --- What is saved ----------------------------------------------------------------------------------------------------


def _size(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.tell()


@all_paths
@pytest.mark.parametrize("k", [1, 2])
def test_the_saved_state_of_one_parameter_has_its_size(path, k):
    params = [Parameter(torch.randn(100)) for _ in range(50)]
    optimizer = KAdam(params, k=k, **PATHS[path])
    for _ in range(3):
        give_grads(params)
        optimizer.step()
    for state in (optimizer.state_dict()["state"], copy.deepcopy(optimizer).state_dict()["state"]):
        assert _size(state[0]) < 2 * k * 400 + 4000
        for value in state[0].values():
            assert value.untyped_storage().nbytes() == value.nbytes


@all_paths
@pytest.mark.parametrize("k", [1, 2])
def test_loaded_state_shares_no_memory_with_its_source(path, k):
    left = [Parameter(torch.randn(5)), Parameter(torch.randn(150, 120))]
    right = clones(left)
    source, target = KAdam(left, k=k, **PATHS[path]), KAdam(right, k=k, **PATHS[path])
    give_grads(left, right)
    source.step()
    saved = source.state_dict()
    target.load_state_dict(saved)
    before = copy.deepcopy(saved)
    target.step()
    for index, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(saved["state"][index][key], value)


@all_paths
def test_the_state_dict_is_what_the_next_step_continues_from(path):
    """Edit the state through the returned dict: it holds the optimizer's own tensors, as torch's do."""
    left = [Parameter(torch.randn(5)), Parameter(torch.randn(3)), Parameter(torch.randn(150, 120))]
    right = clones(left)
    optimizers = KAdam(left, **PATHS[path]), KAdam(right, foreach=False)
    for _ in range(3):
        give_grads(left, right)
        for optimizer in optimizers:
            optimizer.step()
            for state in optimizer.state_dict()["state"].values():
                state["exp_avg_1"].mul_(0.5)
    assert_same(*optimizers, rtol=1e-5, atol=1e-6)


def test_moving_packed_state_frees_its_buffer():
    """A plan keeps no memory: only the tensors in the state do."""
    params = [Parameter(torch.randn(100)) for _ in range(5)]
    optimizer = KAdam(params, fused=True)
    give_grads(params)
    optimizer.step()

    def storages():
        objects = [found for found in gc.get_objects() if type(found) is torch.Tensor and found.layout is torch.strided]
        return {found.untyped_storage().data_ptr() for found in objects if found.device.type == "cpu"}

    packed = optimizer.state[params[0]]["exp_avg_1"].untyped_storage()
    address, size = packed.data_ptr(), packed.nbytes()
    del packed
    assert size > 2000 and address in storages()
    for param in params:
        for value in optimizer.state[param].values():
            value.data = value.data.clone()
    assert address not in storages()
