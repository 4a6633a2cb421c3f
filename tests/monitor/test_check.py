"""`ctadam.check` on torch's optimizers, k-Adam, wrappers and optimizers without a known bound."""

import math
import subprocess
import sys

import pytest
import torch

import ctadam
from ctadam import KAdam, check
from ctadam.theory.stability import boundary_beta2, epsilon_cap, growth_rate, stability_coefficient, update_bound


def param():
    return [torch.nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("betas", "verdict"),
    [
        ((0.9, 0.999), "stable"),
        ((0.95, 0.95), "stable"),
        ((0.0, 0.9), "stable"),
        ((0.0, 0.0), "stable"),
        ((0.5, 0.3), "bounded by the exact law only"),
        ((0.95, 0.904), "bounded by the exact law only"),
        ((0.9, 0.81), "boundary"),
        ((0.95, 0.88), "unstable"),
        ((0.5, 0.0), "unstable"),
    ],
)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.SparseAdam])
def test_the_verdict_says_what_the_laws_say(kind, betas, verdict):
    if kind is torch.optim.SparseAdam and 0.0 in betas:
        pytest.skip("SparseAdam does not take a beta of 0")
    report = check(kind(param(), betas=betas))
    assert report[0].verdict == verdict
    assert report.stable == (verdict == "stable")
    assert (report[0].beta1, report[0].beta2) == betas
    assert math.isfinite(report[0].bound) == (verdict not in ("boundary", "unstable"))


def test_the_numbers_of_adam_are_those_of_the_theory():
    pair = {"beta1": 0.95, "beta2": 0.88}
    [group] = check(torch.optim.AdamW(param(), betas=(0.95, 0.88), eps=1e-6))
    assert group.coefficient == stability_coefficient(**pair)
    assert group.exact_coefficient == stability_coefficient(**pair, law="exact")
    assert group.growth_rate == growth_rate(**pair, law="exact") == pytest.approx(math.log(0.95 / math.sqrt(0.88)))
    assert (group.eps_cap_steps, group.eps_cap) == epsilon_cap(**pair, eps=1e-6)
    assert boundary_beta2(beta1=0.95) < group.nearest_stable_beta2 < 0.906
    assert check(torch.optim.AdamW(param(), betas=(0.95, group.nearest_stable_beta2))).stable
    assert check(torch.optim.AdamW(param()))[0].bound == update_bound(
        beta1=0.9, beta2=0.999, step=math.inf, law="exact"
    )
    assert math.isinf(check(torch.optim.AdamW(param(), betas=(0.95, 0.88), eps=0.0))[0].eps_cap)


def test_epsilon_ends_the_growth_where_the_report_says():
    optimizer = torch.optim.Adam(
        [theta := torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], 1.0, (0.95, 0.8), 1e-4
    )
    [group] = check(optimizer)
    updates = []
    for step in range(500):
        before, theta.grad = theta.item(), torch.full_like(theta, float(step < 300))
        optimizer.step()
        updates.append(abs(theta.item() - before))
    assert max(updates) == pytest.approx(group.eps_cap, rel=0.01)
    assert updates.index(max(updates)) - 299 == pytest.approx(group.eps_cap_steps, abs=1)


def test_every_group_has_its_own_verdict():
    optimizer = torch.optim.AdamW(
        [{"params": param()}, {"params": param(), "betas": (0.95, 0.85)}, {"params": param(), "amsgrad": True}]
    )
    report = check(optimizer)
    assert [group.verdict for group in report] == ["stable", "unstable", "stable"] and len(report) == 3
    assert [group.group for group in report] == [0, 1, 2] and not report.stable


def test_amsgrad_is_stable_for_every_pair():
    [group] = check(torch.optim.Adam(param(), betas=(0.95, 0.5), amsgrad=True))
    assert group.verdict == "stable" and group.bound < 1.2 and "AMSGrad" in group.note


def test_adamax_has_its_boundary_at_equal_betas():
    verdicts = {
        betas: check(torch.optim.Adamax(param(), betas=betas))[0] for betas in [(0.9, 0.999), (0.9, 0.9), (0.9, 0.85)]
    }
    assert [group.verdict for group in verdicts.values()] == ["stable", "boundary", "unstable"]
    # Adam is stable with this pair.
    unstable = verdicts[0.9, 0.85]
    assert check(torch.optim.Adam(param(), betas=(0.9, 0.85))).stable
    assert unstable.growth_rate == pytest.approx(math.log(0.9 / 0.85))
    assert check(torch.optim.Adamax(param(), betas=(0.9, unstable.nearest_stable_beta2))).stable


def test_the_epsilon_cap_of_adamax_is_where_its_growth_ends():
    optimizer = torch.optim.Adamax(
        [theta := torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], 1.0, (0.9, 0.8), 1e-6
    )
    [group] = check(optimizer)
    updates = []
    for step in range(400):
        before, theta.grad = theta.item(), torch.full_like(theta, float(step < 200))
        optimizer.step()
        updates.append(abs(theta.item() - before))
    assert max(updates) == pytest.approx(group.eps_cap, rel=0.12)  # within one step
    assert updates.index(max(updates)) - 199 == pytest.approx(group.eps_cap_steps, abs=1)


def test_radam_says_when_it_has_no_bound():
    assert "first 5 steps" in check(torch.optim.RAdam(param()))[0].note
    assert check(torch.optim.RAdam(param(), betas=(0.5, 0.6)))[0].verdict == "no known bound"


def test_kadam_is_judged_by_its_last_stage():
    assert check(KAdam(param(), k=2, stages=[(0.95, 0.85), (0.9, 0.999)]))[0].verdict == "stable"
    with pytest.warns(UserWarning, match="outside the stable region"):
        optimizer = KAdam(param(), k=2, stages=[(0.9, 0.999), (0.95, 0.85)])
    [group] = check(optimizer)
    assert group.verdict == "unstable" and (group.beta1, group.beta2) == (0.95, 0.85)
    [group] = check(KAdam(param(), k=2))
    assert (group.beta1, group.beta2) == ctadam.stage_betas("inverse-exp", 2)[1]


def test_tensor_betas_are_read():
    betas = torch.tensor(0.95), torch.tensor(0.88)
    optimizer = torch.optim.Adam(param(), lr=torch.tensor(1e-3), betas=betas, foreach=False)
    assert check(optimizer)[0].verdict == "unstable"


class Overridden(torch.optim.Adam):
    def step(self, closure=None):
        return super().step(closure)


class Renamed(torch.optim.AdamW):
    pass


def test_an_unknown_optimizer_is_named_and_not_guessed():
    for kind in (torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop, Overridden):
        [group] = check(kind(param(), lr=0.1))
        assert group.verdict == "no known bound" and kind.__name__ in group.note and math.isnan(group.bound)
        assert kind.__name__ in str(check(kind(param(), lr=0.1)))
    assert check(Renamed(param())).stable


def test_the_optimizer_inside_wrappers_is_found():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    assert check(Wrapper(Wrapper(torch.optim.AdamW(param())))).optimizer == "AdamW"
    wrapped = Wrapper(None)
    for wrong in (wrapped, 3, torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match="is not a torch optimizer"):
            check(wrong)
    wrapped.optimizer = wrapped
    with pytest.raises(TypeError):
        check(wrapped)


def test_the_report_prints_a_short_table():
    lines = str(
        check(torch.optim.AdamW([{"params": param()}, {"params": param(), "betas": (0.95, 0.88)}]))
    ).splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 110
    assert lines[1].split()[:3] == ["group", "beta1", "beta2"]
    assert lines[2].endswith("stable") and lines[3].endswith("unstable") and "0.0126" in lines[3]


def test_the_tools_need_torch_and_numpy_only():
    program = """
import sys
import torch, torch._dynamo
before = set(sys.modules)
from ctadam import KAdam, UpdateMonitor, check
p = torch.nn.Parameter(torch.ones(2)); p.grad = torch.ones(2)
optimizer = KAdam([p])
with UpdateMonitor(optimizer):
    optimizer.step()
print(check(optimizer)[0].verdict)
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names) - {"torch", "numpy"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "stable\n['ctadam']\n", done.stderr
