"""The quadratic experiment: against torch's own optimizer, and independent of how runs are assigned to shards."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam.artifact import config
from ctadam.experiments.quadratic import runs as quadratic
from ctadam.theory import stability

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parameters():
    return config.resolve("smoke")["quadratic"]


def run(points, parameters):
    return quadratic.run(points, parameters, device=CPU, progress=lambda amount: None)[0]


def test_points_are_the_whole_square_with_every_setting(parameters):
    points = quadratic.points(parameters)
    assert len(points) == 10 * 10 * 7 and points["run"].tolist() == list(range(700))
    pairs = points[["beta1", "beta2"]].drop_duplicates()
    assert len(pairs) == 100 and ((pairs >= 0) & (pairs < 1)).all(axis=None)
    assert (pairs["beta1"] == 0).sum() == (pairs["beta2"] == 0).sum() == 10  # RMSprop, and no second moment at all
    alone = points.query("sweep == 'lr'")
    assert sorted(alone["lr"].unique()) == [1e-3, 1e-2, 1e-1] and not alone[["noise", "weight_decay"]].any(axis=None)


def test_hessian_is_symmetric_coupled_and_as_conditioned_as_said():
    matrix = quadratic.hessian_product(torch.eye(8, dtype=torch.float64), condition=100.0)
    assert torch.allclose(matrix, matrix.T, atol=1e-15) and (matrix.abs() > 1e-6).all()
    np.testing.assert_allclose(torch.linalg.eigvalsh(matrix), np.logspace(-2, 0, 8), rtol=1e-12)


@pytest.mark.parametrize("setting", [("lr", 0.1), ("noise", 1.0), ("weight_decay", 1.0)])
@pytest.mark.parametrize("pair", [(0.9, 0.9), (0.0, 0.9), (0.9, 0.3)])
def test_runs_equal_torchs_own_adamw(parameters, setting, pair):
    """Every column from parameters before and after torch's step; ε so small that it is lost.

    To 1e-6: where the loss is near its minimum, Adam's steps of full length amplify rounding by the oscillation.
    """
    points = quadratic.points(parameters)
    sweep, value = setting
    (row,) = points.index[
        (points["sweep"] == sweep) & (points[sweep] == value) & np.isclose(points[["beta1", "beta2"]], pair).all(1)
    ]
    point, found = points.loc[row], run(points.loc[[row]], parameters).iloc[0]
    generator = torch.Generator().manual_seed(parameters["seed"])
    theta = torch.nn.Parameter(torch.randn(8, dtype=torch.float64, generator=generator))
    noise = torch.randn(parameters["steps"], 8, dtype=torch.float64, generator=generator)
    lr, decay = float(point["lr"]), float(point["weight_decay"])
    optimizer = torch.optim.AdamW([theta], lr=lr, betas=pair, eps=1e-300, weight_decay=decay)
    updates = []
    for n in range(parameters["steps"]):
        theta.grad = quadratic.hessian_product(theta.detach(), condition=100.0) + point["noise"] * noise[n]
        before = theta.detach().clone()
        optimizer.step()
        updates.append(((before * (1 - lr * decay) - theta.detach()) / lr).abs().max().item())
    updates = np.array(updates)
    assert found["update_max"] == pytest.approx(updates.max(), rel=1e-6) and found["update_step"] == updates.argmax()
    assert found["param_max"] == pytest.approx(theta.abs().max().item(), rel=1e-6)
    hessian = quadratic.hessian_product(torch.eye(8, dtype=torch.float64), condition=100.0)
    assert found["loss"] == pytest.approx(0.5 * (theta @ hessian @ theta).item(), rel=1e-6)
    steps = np.arange(len(updates))
    for law in ("paper", "exact"):
        ratio = updates / stability.update_bound(beta1=pair[0], beta2=pair[1], step=steps, law=law)
        assert found[f"ratio_{law}"] == pytest.approx(ratio.max(), rel=1e-6)
    assert found["ratio_late"] == pytest.approx(ratio[len(ratio) // 2 :].max(), rel=1e-6)
    assert found["diverged_at"] == -1 and found["step"] == len(updates) - 1


@pytest.mark.parametrize("chunk, deal", [(8192, 3), (100, 1), (64, 7), (1, 50)])
def test_a_run_does_not_depend_on_its_place(parameters, monkeypatch, chunk, deal):
    points = quadratic.points(parameters)
    whole = run(points, parameters)
    monkeypatch.setattr(quadratic, "CPU_CHUNK", chunk)
    part = run(points.iloc[1::deal], parameters)
    pd.testing.assert_frame_equal(part, whole.iloc[1::deal].reset_index(drop=True), check_exact=True)


def test_bounds_in_blocks_are_the_same(parameters, monkeypatch):
    points = quadratic.points(parameters).iloc[:64]
    whole = run(points, parameters)
    monkeypatch.setattr(quadratic, "_TABLE", 130)
    pd.testing.assert_frame_equal(run(points, parameters), whole, check_exact=True)


def test_a_run_that_leaves_float64_is_recorded_and_touches_no_other(parameters):
    points = quadratic.points(parameters).iloc[:20].copy()
    whole = run(points, parameters)
    points.loc[3, "lr"] = 1e200  # its squares overflow
    table = run(points, parameters)
    assert 0 <= table.loc[3, "diverged_at"] < 3 and np.isfinite(table.loc[3, "update_max"])
    pd.testing.assert_frame_equal(table.drop(3), whole.drop(3), check_exact=True)
