"""Test `KAdam.register_update_hook`."""

import pytest
import torch
from common import PATHS, all_kinds, assert_same, clones, give_grads
from reference import Reference

from ctadam import KAdam, stage_betas

VISIBLE = [path for path, options in PATHS.items() if "fused" not in options]


@pytest.mark.parametrize("path", VISIBLE)
def test_hook_receives_the_last_stages_update(path):
    params = [*all_kinds(torch.float64), torch.randn(3, dtype=torch.complex128)]
    options = {"lr": 0.01, "eps": 0.0, "weight_decay": 0.1}
    optimizer = KAdam(params, k=3, **options, **PATHS[path])
    reference = Reference(params, stages=stage_betas("inverse-exp", 3), **options)
    seen = []
    optimizer.register_update_hook(lambda param, update: seen.append((param, update.clone())))
    for step in range(5):
        give_grads(params, none={step})
        reference.step([param.grad for param in params])
        optimizer.step()
        present = [index for index in range(len(params)) if index != step]
        assert sorted(map(id, (param for param, _ in seen))) == sorted(id(params[index]) for index in present)
        updates = {id(param): update for param, update in seen}
        for index in present:
            update = updates[id(params[index])]
            assert update.shape == params[index].shape
            expected = torch.as_tensor(reference.u[index])
            real = torch.view_as_real(update) if update.is_complex() else update
            torch.testing.assert_close(real, expected, rtol=1e-12, atol=1e-13)
        seen.clear()


@pytest.mark.parametrize("path", VISIBLE)
def test_hooks_do_not_change_the_step(path):
    watched = all_kinds()
    alone = clones(watched)
    optimizers = KAdam(watched, lr=0.01, **PATHS[path]), KAdam(alone, lr=0.01, **PATHS[path])
    optimizers[0].register_update_hook(lambda _, update: update.zero_())
    for _ in range(3):
        give_grads(watched, alone)
        for optimizer in optimizers:
            optimizer.step()
    assert_same(*optimizers)


def test_update_has_the_states_dtype():
    param = torch.randn(4)
    optimizer = KAdam([param], state_dtype=torch.float64)
    dtypes = []
    optimizer.register_update_hook(lambda _, update: dtypes.append(update.dtype))
    give_grads([param])
    optimizer.step()
    assert dtypes == [torch.float64]


def test_hooks_run_in_order_until_removed():
    param = torch.randn(4)
    optimizer = KAdam([param])
    calls = []
    first = optimizer.register_update_hook(lambda *_: calls.append("first"))
    second = optimizer.register_update_hook(lambda *_: calls.append("second"))
    for handle in (first, second, None):
        give_grads([param])
        optimizer.step()
        if handle:
            handle.remove()
    assert calls == ["first", "second", "second"]


def test_fused_rejects_update_hooks():
    param = torch.randn(4)
    with pytest.raises(RuntimeError, match="`fused` does not support update hooks"):
        KAdam([param], fused=True).register_update_hook(print)
    optimizer = KAdam([param])
    optimizer.register_update_hook(print)
    optimizer.add_param_group({"params": [torch.zeros(2)], "fused": True})
    give_grads([param])
    with pytest.raises(RuntimeError, match="`fused` does not support update hooks"):
        optimizer.step()
