"""`ctadam.UpdateMonitor`: it reads the update that the optimizer makes, changes nothing, never waits, and knows its limits."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctadam import KAdam, UpdateMonitor
from ctadam.monitor import UpdateWarning
from ctadam.theory.stability import update_bound

PATHS = {
    "Adam plain": (torch.optim.Adam, {"foreach": False}),
    "Adam foreach": (torch.optim.Adam, {"foreach": True}),
    "Adam fused": (torch.optim.Adam, {"fused": True}),
    "Adam capturable": (torch.optim.Adam, {"capturable": True, "foreach": False}),
    "Adam amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "Adam amsgrad fused": (torch.optim.Adam, {"amsgrad": True, "fused": True}),
    "Adam maximize": (torch.optim.Adam, {"maximize": True}),
    "Adam L2": (torch.optim.Adam, {"weight_decay": 0.1}),
    "Adam tensor lr": (torch.optim.Adam, {"lr": torch.tensor(1e-2), "foreach": False}),
    "Adam large eps": (torch.optim.Adam, {"eps": 0.1}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.0}),
    "KAdam plain": (KAdam, {"foreach": False}),
    "KAdam foreach": (KAdam, {"foreach": True}),
    "KAdam fused": (KAdam, {"fused": True}),
    "KAdam capturable": (KAdam, {"capturable": True}),
    "KAdam k=1": (KAdam, {"k": 1}),
    "KAdam k=3": (KAdam, {"k": 3}),
    "KAdam float64 state": (KAdam, {"state_dtype": torch.float64}),
    "KAdam eps=0": (KAdam, {"eps": 0.0}),
    "KAdam tensor betas": (KAdam, {"betas": (torch.tensor(0.9), torch.tensor(0.99)), "foreach": False}),
}
if not torch.cuda.is_available():
    # torch's capturable runs on accelerators only; KAdam's also on the CPU.
    del PATHS["Adam capturable"]


def parameters():
    torch.manual_seed(0)
    shapes = {"matrix": (5, 4), "vector": (6,), "0-dim": (), "empty": (0, 3), "filters": (3, 2, 5, 5)}
    params = {name: torch.randn(shape) for name, shape in shapes.items()}
    params["filters"] = params["filters"].to(memory_format=torch.channels_last)
    params["transposed"] = torch.randn(4, 7).t()
    return {name: torch.nn.Parameter(param) for name, param in params.items()}


def give_gradients(params, step):
    draw = torch.Generator().manual_seed(step)
    for param in params.values():
        param.grad = torch.randn(param.shape, generator=draw, dtype=param.dtype)


def train(optimizer, params, steps):
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()


@pytest.mark.parametrize("path", PATHS)
def test_the_largest_update_is_the_one_that_the_step_makes(path):
    kind, options = PATHS[path]
    params = parameters()
    lr = options.get("lr", 1e-2)
    optimizer = kind([*params.items()], **{"lr": lr, "weight_decay": 0.0, **options})
    logged = []
    with UpdateMonitor(optimizer, every=1, top=10, log=logged.append) as monitor:
        for step in range(8):
            give_gradients(params, step)
            before = {name: param.detach().clone() for name, param in params.items()}
            optimizer.step()
            made = {
                name: (before[name] - param.detach()).abs() / float(lr)
                for name, param in params.items()
                if param.numel()
            }
            monitor.flush()
            sample = monitor.last
            assert sample.step == step + 1
            assert {large.name for large in sample.top} == set(made)
            for large in sample.top:
                assert large.value == pytest.approx(float(made[large.name].max()), abs=1e-4)
                rows = made[large.name].reshape(len(made[large.name]) if made[large.name].dim() else 1, -1).amax(1)
                assert float(rows[large.row]) == pytest.approx(large.value, abs=1e-4)
            everything = torch.cat([update.flatten() for update in made.values()])
            assert sample.rms == pytest.approx(float(everything.square().mean().sqrt()), rel=1e-3)
            theta = math.sqrt(sum(float(param.detach().square().sum()) for param in params.values()))
            assert sample.relative == pytest.approx(float(lr) * float(everything.norm()) / theta, rel=1e-3)
            assert sample.ratio_to_bound <= 1 + 1e-5 and not sample.alarms
    assert len(logged) == 8
    assert logged[-1]["update/max"] == sample.top[0].value and logged[-1]["update/top/matrix"] > 0
    assert all(isinstance(value, (int, float)) for numbers in logged for value in numbers.values())


@pytest.mark.parametrize("path", PATHS)
def test_no_bit_of_the_run_changes(path):
    kind, options = PATHS[path]
    runs = []
    for monitored in (False, True):
        params = parameters()
        optimizer = kind([*params.values()], **copy.deepcopy(options))
        random = torch.get_rng_state()
        if monitored:
            with UpdateMonitor(optimizer, every=2):
                train(optimizer, params, 7)
        else:
            train(optimizer, params, 7)
        assert torch.equal(torch.get_rng_state(), random)
        runs.append((params, optimizer.state_dict()))
    (plain, plain_state), (watched, watched_state) = runs
    for name in plain:
        assert torch.equal(plain[name], watched[name])
    for index, state in plain_state["state"].items():
        assert state.keys() == watched_state["state"][index].keys()
        for key, value in state.items():
            assert torch.equal(value, watched_state["state"][index][key]), key


class Recorder(TorchDispatchMode):
    """Records operations, and the largest number of elements of new tensors that are alive at once."""

    def __init__(self):
        super().__init__()
        self.operations, self.alive, self.most = [], {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {value.untyped_storage().data_ptr() for value in args if isinstance(value, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        self.operations.append(func.overloadpacket.__name__)
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known:
            storage = result.untyped_storage()
            self.alive[storage.data_ptr()] = (
                torch.multiprocessing.reductions.StorageWeakRef(storage),
                storage.nbytes(),
            )
        self.alive = {key: value for key, value in self.alive.items() if not value[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


@pytest.mark.parametrize("path", [path for path in PATHS if "tensor betas" not in path])
def test_the_hook_reads_nothing_back_and_makes_one_temporary(path):
    kind, options = PATHS[path]
    numel = 100_000
    params = {"large": torch.nn.Parameter(torch.randn(100, 1000)), "second": torch.nn.Parameter(torch.randn(100, 1000))}
    optimizer = kind([*params.values()], **copy.deepcopy(options))
    monitor = UpdateMonitor(optimizer, every=1)
    train(optimizer, params, 2)
    monitor.flush()
    with Recorder() as recorder:
        monitor._after_step(optimizer, (), {})
    assert not {"_local_scalar_dense", "item", "is_nonzero", "equal"} & set(recorder.operations)
    item = 8 if "float64" in path else 4
    assert numel * item <= recorder.most < numel * item * 1.1
    monitor.close()


def test_a_sample_is_reported_one_sample_later():
    params = parameters()
    optimizer = torch.optim.AdamW([*params.values()])
    logged = []
    monitor = UpdateMonitor(optimizer, every=3, log=lambda numbers: logged.append(numbers["update/step"]))
    seen = []
    for step in range(10):
        give_gradients(params, step)
        optimizer.step()
        seen.append(list(logged))
    assert seen[0] == [] and seen[2] == []  # the first step is sampled
    assert seen[3] == [1] and seen[6] == [1, 4] and seen[9] == [1, 4, 7]
    monitor.close()
    assert logged == [1, 4, 7, 10]
    train(optimizer, params, 5)
    monitor.flush()
    assert logged == [1, 4, 7, 10]


def test_top_keeps_the_largest_in_order():
    params = parameters()
    optimizer = torch.optim.AdamW([*params.items()])
    with UpdateMonitor(optimizer, every=4, top=2) as monitor:
        train(optimizer, params, 9)
    assert len(monitor.last.top) == 2 and monitor.last.top[0].value >= monitor.last.top[1].value
    with UpdateMonitor(optimizer, every=1, top=100) as monitor:
        train(optimizer, params, 1)
    assert len(monitor.last.top) == 5  # without the empty one
    assert str(monitor.last).count("of its bound") == 5


def test_names_come_from_the_model_the_optimizer_or_the_place():
    def names(optimizer, **options):
        with UpdateMonitor(optimizer, **options) as monitor:
            train(optimizer, {"weight": model.weight, "bias": model.bias}, 1)
        return {large.name for large in monitor.last.top}

    model = torch.nn.Linear(3, 2)
    assert names(torch.optim.AdamW(model.parameters())) == {"group0.0", "group0.1"}
    assert names(torch.optim.AdamW(model.named_parameters())) == {"weight", "bias"}
    mine = [("a", model.weight), ("b", model.bias)]
    assert names(torch.optim.AdamW(model.named_parameters()), named_parameters=mine) == {"a", "b"}


def test_parameters_without_an_update_are_left_out():
    params = parameters()
    params["frozen"] = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    optimizer = torch.optim.AdamW([*params.items()])
    with UpdateMonitor(optimizer, every=1) as monitor:
        for step in range(4):
            give_gradients({name: param for name, param in params.items() if name != "frozen"}, step)
            if step >= 2:
                params["matrix"].grad = None
            optimizer.step()
    # The matrix' last update is two steps old.
    assert {large.name for large in monitor.last.top} == {"vector", "0-dim", "filters", "transposed"}
    for param in params.values():
        param.grad = None
    with UpdateMonitor(optimizer, every=1) as monitor:
        optimizer.step()
    assert monitor.last is None


def test_every_parameter_has_the_bound_of_its_own_step():
    params = {"old": torch.nn.Parameter(torch.ones(1)), "new": torch.nn.Parameter(torch.ones(1))}
    optimizer = torch.optim.AdamW([*params.items()])
    with UpdateMonitor(optimizer, every=1) as monitor:
        for _ in range(10):
            params["old"].grad = torch.ones(1)
            optimizer.step()
        params["new"].grad = torch.ones(1)
        optimizer.step()
    ratios = {large.name: large.ratio for large in monitor.last.top}
    assert ratios["new"] == pytest.approx(1)
    assert ratios["old"] == pytest.approx(1 / update_bound(beta1=0.9, beta2=0.999, step=10, law="exact"), rel=1e-5)
    assert monitor.last.step == 11 and monitor.last.ratio_to_bound == pytest.approx(1)


def test_groups_that_are_added_are_watched():
    params = parameters()
    optimizer = torch.optim.AdamW([("matrix", params["matrix"])])
    with UpdateMonitor(optimizer, every=1) as monitor:
        train(optimizer, params, 2)
        optimizer.add_param_group({"params": [("vector", params["vector"])], "betas": (0.5, 0.9)})
        train(optimizer, params, 2)
    assert {large.name for large in monitor.last.top} == {"matrix", "vector"}
    with pytest.raises(TypeError):
        UpdateMonitor(torch.optim.SGD([params["matrix"]]))


def test_steps_that_a_grad_scaler_skips_are_not_counted():
    for fused in (False, True):
        params = parameters()
        optimizer = torch.optim.AdamW([*params.values()], fused=fused)
        scaler = torch.amp.GradScaler("cpu")
        logged = []
        with UpdateMonitor(
            optimizer, every=2, log=lambda numbers, logged=logged: logged.append(numbers["update/step"])
        ):
            for step in range(9):
                give_gradients(params, step)
                scaler.scale(torch.ones(()))  # creates the scale
                for param in params.values():
                    param.grad *= scaler.get_scale()
                if step in (0, 3, 4):
                    params["matrix"].grad[0, 0] = math.inf
                scaler.step(optimizer)
                scaler.update()
        assert logged == [1, 3, 5], fused


def test_a_skipped_sample_is_dropped_where_the_skip_is_known_on_the_device_only():
    params = parameters()
    optimizer = torch.optim.AdamW([*params.values()])
    with UpdateMonitor(optimizer, every=1) as monitor:
        train(optimizer, params, 2)
        pending = monitor._pending
        monitor._pending = pending._replace(found_inf=torch.ones(1))
    assert monitor.last.step == 1


def test_changing_betas_make_the_bound_not_applicable():
    params = parameters()
    optimizer = torch.optim.AdamW([{"params": [params["matrix"]]}, {"params": [params["vector"]]}])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=20)
    with UpdateMonitor(optimizer, every=5) as monitor:
        for step in range(12):
            give_gradients(params, step)
            optimizer.step()
            scheduler.step()
    sample = monitor.last
    assert math.isnan(sample.ratio_to_bound) and math.isnan(sample.bound) and sample.top[0].value > 0
    assert len(sample.notes) == 2 and "not applicable" in str(sample)
    assert math.isnan(sample.numbers()["update/ratio_to_bound"])
    # Only the group that changed.
    optimizer = torch.optim.AdamW([{"params": [params["matrix"]]}, {"params": [params["vector"]]}])
    with UpdateMonitor(optimizer, every=1) as monitor:
        train(optimizer, params, 2)
        optimizer.param_groups[0]["betas"] = (0.8, 0.99)
        train(optimizer, params, 2)
    assert sorted(math.isnan(large.ratio) for large in monitor.last.top) == [False, True]
    assert monitor.last.ratio_to_bound > 0 and "group 0" in monitor.last.notes[0]


def test_cycled_betas_of_kadam_are_noticed_and_tensors_too():
    for betas in ((0.9, 0.99), (torch.tensor(0.9), torch.tensor(0.99))):
        params = parameters()
        optimizer = KAdam([*params.values()], k=2, betas=betas, foreach=False)
        with UpdateMonitor(optimizer, every=1) as monitor:
            train(optimizer, params, 2)
            monitor.flush()
            assert not monitor.last.notes
            optimizer.param_groups[0]["betas"] = (betas[0] * 0.9, betas[1])
            train(optimizer, params, 2)
        assert monitor.last.notes


def test_a_loaded_state_starts_over():
    params = parameters()
    optimizer = torch.optim.AdamW([*params.values()], betas=(0.8, 0.9))
    train(optimizer, params, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    again = torch.optim.AdamW([*params.values()])
    logged = []
    with UpdateMonitor(again, every=50, log=lambda numbers: logged.append(numbers["update/step"])) as monitor:
        train(again, params, 2)
        again.load_state_dict(saved)
        train(again, params, 3)
    assert logged == [1, 6]  # the next step after loading is sampled
    assert not monitor.last.notes  # the loaded betas are those of the loaded averages
    assert monitor.last.bound == update_bound(beta1=0.8, beta2=0.9, step=5, law="exact")


def test_pickles_and_copies_are_not_watched():
    params = parameters()
    optimizer = torch.optim.AdamW([*params.values()])
    monitor = UpdateMonitor(optimizer, every=1)
    train(optimizer, params, 2)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        for group in twin.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        twin.step()
    monitor.close()
    assert monitor.last.step == 2


def test_wrong_arguments_are_errors():
    params = [torch.nn.Parameter(torch.ones(2))]
    for wrong in ({"every": 0}, {"every": 1.5}, {"top": 0}, {"every": True}):
        with pytest.raises(ValueError, match="Invalid"):
            UpdateMonitor(torch.optim.AdamW(params), **wrong)
    for kind in (torch.optim.SGD, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax, torch.optim.SparseAdam):
        with pytest.raises(TypeError, match=kind.__name__):
            UpdateMonitor(kind(params))
    with pytest.raises(TypeError):
        UpdateMonitor(object())


def rare_row(optimizer, table, steps, *, dense_until):
    """Steps in which row 2 of a table gets no gradients after the first few."""
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        table.grad = torch.randn(table.shape, generator=draw, dtype=table.dtype)
        if step >= dense_until:
            table.grad[2] = 0
        optimizer.step()


@pytest.mark.parametrize("every", [1, 25, 50, 120])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, KAdam])
def test_growth_outside_the_region_is_measured_and_warned_of(kind, every):
    table = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    options = {} if kind is torch.optim.AdamW else {"k": 2, "stages": [(0.9, 0.999), (0.99, 0.95)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = kind([("table", table)], betas=(0.99, 0.95), eps=1e-30, **options)
    logged = []
    with (
        pytest.warns(UpdateWarning, match="has grown by 0.0156 per step") as caught,
        UpdateMonitor(optimizer, every=every, log=logged.append) as monitor,
    ):
        rare_row(optimizer, table, 601, dense_until=2)
    assert (
        len(caught) == 1
        and "table[2]" in str(caught[0].message)
        and "nearest stable beta2 is" in str(caught[0].message)
    )
    rate = math.log(0.99 / math.sqrt(0.95))
    assert monitor.last.growth == pytest.approx(rate, rel=1e-6) and monitor.last.predicted_growth == pytest.approx(rate)
    assert logged[-1]["update/growth"] == monitor.last.growth
    # Each step without gradients brings the cap one step nearer.
    assert logged[-2]["update/steps_to_cap"] - logged[-1]["update/steps_to_cap"] == pytest.approx(every)


def test_the_predicted_cap_is_where_the_growth_ends():
    table = torch.nn.Parameter(torch.randn(4, 1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([("table", table)], betas=(0.99, 0.95), eps=1e-5)
    samples = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with UpdateMonitor(optimizer, every=10) as monitor:
            for step in range(901):
                table.grad = torch.randn(table.shape, generator=torch.Generator().manual_seed(step), dtype=table.dtype)
                table.grad[2] *= step < 100
                optimizer.step()
                monitor.flush()
                samples.append(monitor.last)
    peak = max(samples, key=lambda sample: sample.top[0].value).step
    predicted = [
        sample.step + sample.steps_to_cap for sample in samples if 200 < sample.step < peak and sample.top[0].row == 2
    ]
    assert len(predicted) > 100
    assert max(abs(step - peak) for step in predicted) <= 10


def test_growth_with_betas_that_changed_is_not_compared_with_a_rate():
    table = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([("table", table)], betas=(0.99, 0.95))
    with warnings.catch_warnings(), UpdateMonitor(optimizer, every=10) as monitor:
        warnings.simplefilter("error")
        rare_row(optimizer, table, 61, dense_until=2)
        assert monitor.last.predicted_growth > 0
        optimizer.param_groups[0]["betas"] = (0.99, 0.951)
        rare_row(optimizer, table, 200, dense_until=0)
    assert math.isnan(monitor.last.predicted_growth) and math.isnan(monitor.last.growth)


def test_growth_that_returns_is_no_alarm():
    table = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([("table", table)], betas=(0.99, 0.95))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with UpdateMonitor(optimizer, every=10):
            for step in range(600):
                table.grad = torch.randn(table.shape, generator=torch.Generator().manual_seed(step), dtype=table.dtype)
                table.grad[step // 20 % 4] = 0  # no row is unseen for long
                optimizer.step()


def test_amsgrad_outside_adams_region_has_a_bound_and_no_growth():
    table = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([("table", table)], betas=(0.99, 0.95), amsgrad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with UpdateMonitor(optimizer, every=10) as monitor:
            rare_row(optimizer, table, 600, dense_until=2)
    assert math.isnan(monitor.last.predicted_growth) and "update/growth" not in monitor.last.numbers()
    assert monitor.last.ratio_to_bound <= 1


def test_a_compiled_step_is_watched():
    params = {"matrix": torch.nn.Parameter(torch.ones(3, 2))}
    optimizer = torch.optim.AdamW([*params.items()])
    with UpdateMonitor(optimizer, every=1) as monitor:
        give_gradients(params, 0)
        torch.compile(optimizer.step, backend="eager")()
    assert monitor.last.step == 1 and monitor.last.ratio_to_bound == pytest.approx(1)


def test_complex_parameters_are_read_as_pairs():
    params = {"complex": torch.nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))}
    optimizer = torch.optim.AdamW([*params.items()], lr=1e-2, weight_decay=0.0)
    before = params["complex"].detach().clone()
    with UpdateMonitor(optimizer, every=1) as monitor:
        train(optimizer, params, 1)
    made = torch.view_as_real(before - params["complex"].detach()).abs() / 1e-2
    assert monitor.last.top[0].value == pytest.approx(float(made.max()), rel=1e-4)
    assert monitor.last.rms == pytest.approx(float(made.square().mean().sqrt()), rel=1e-4)


def test_kadam_in_float16_does_not_move_where_its_second_moment_underflows():
    table = torch.nn.Parameter(torch.randn(8, 4).half())
    before = table.detach().clone()
    optimizer = KAdam([("table", table)], k=1)
    with warnings.catch_warnings(), UpdateMonitor(optimizer, every=1) as monitor:
        warnings.simplefilter("error")
        table.grad = torch.full_like(table, 1e-4)
        optimizer.step()
    assert torch.equal(table, before) and monitor.last.top[0].value == 0
