"""The quadratic experiment: against torch's own optimizer, and independent of how runs are assigned to shards."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam.artifact import config as configuration
from ctadam.experiments import configure
from ctadam.experiments.quadratic import runs as quadratic
from ctadam.experiments.quadratic.measure import measure
from ctadam.experiments.quadratic.predict import predict
from ctadam.theory import stability

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config():
    return configure("quadratic", configuration.resolve("smoke")["quadratic"])


def run(runs, config):
    return quadratic.run(runs, config, device=CPU, progress=lambda amount: None)[0]


def test_grid_is_the_whole_square_with_every_setting(config):
    runs = quadratic.grid(config)
    assert len(runs) == 10 * 10 * 8 and runs["run"].tolist() == list(range(800))
    pairs = runs[["pair", "beta1", "beta2"]].drop_duplicates()
    assert len(pairs) == 100 and pairs["pair"].is_unique
    assert ((pairs[["beta1", "beta2"]] >= 0) & (pairs[["beta1", "beta2"]] < 1)).all(axis=None)
    assert (pairs["beta1"] == 0).sum() == (pairs["beta2"] == 0).sum() == 10  # RMSprop, and no second moment at all
    alone = runs.query("sweep == 'lr'")
    assert sorted(alone["lr"].unique()) == [1e-3, 1e-2, 1e-1]
    assert not alone[["noise", "weight_decay", "minimum"]].any(axis=None)
    assert (runs["minimum"] > 0).sum() == 100 and (runs.query("minimum > 0")["weight_decay"] > 0).all()


def test_hessian_is_symmetric_coupled_and_as_conditioned_as_said():
    matrix = quadratic.hessian_product(torch.eye(8, dtype=torch.float64), condition=100.0)
    assert torch.allclose(matrix, matrix.T, atol=1e-15) and (matrix.abs() > 1e-6).all()
    np.testing.assert_allclose(torch.linalg.eigvalsh(matrix), np.logspace(-2, 0, 8), rtol=1e-12)


@pytest.mark.parametrize("sweep, value", [("lr", 0.1), ("noise", 1.0), ("weight_decay", 1.0), ("distant", 1.0)])
@pytest.mark.parametrize("pair", [(0.9, 0.9), (0.0, 0.9), (0.9, 0.3)])
def test_runs_equal_torchs_own_adamw(config, sweep, value, pair):
    """Every column from parameters before and after torch's step; ε so small that it is lost.

    To 1e-6: where the loss is near its minimum, Adam's steps of full length amplify rounding by the oscillation.
    """
    runs = quadratic.grid(config)
    column = "weight_decay" if sweep == "distant" else sweep
    (row,) = runs.index[
        (runs["sweep"] == sweep) & (runs[column] == value) & np.isclose(runs[["beta1", "beta2"]], pair).all(1)
    ]
    setting, found = runs.loc[row], run(runs.loc[[row]], config).iloc[0]
    generator = torch.Generator().manual_seed(config.seed)
    theta = torch.nn.Parameter(torch.randn(8, dtype=torch.float64, generator=generator))
    noise = torch.randn(config.steps, 8, dtype=torch.float64, generator=generator)
    lr, decay = float(setting["lr"]), float(setting["weight_decay"])
    optimizer = torch.optim.AdamW([theta], lr=lr, betas=pair, eps=1e-300, weight_decay=decay)
    updates, params = [], [theta.detach().abs().max().item()]
    for n in range(config.steps):
        distance = theta.detach() - setting["minimum"]
        theta.grad = quadratic.hessian_product(distance, condition=100.0) + setting["noise"] * noise[n]
        before = theta.detach().clone()
        optimizer.step()
        updates.append(((before * (1 - lr * decay) - theta.detach()) / lr).abs().max().item())
        params.append(theta.detach().abs().max().item())
    updates = np.array(updates)
    assert found["update_max"] == pytest.approx(updates.max(), rel=1e-6)
    assert found["param_start"] == pytest.approx(params[0])
    assert found["param_max"] == pytest.approx(max(params) if decay else np.nan, rel=1e-6, nan_ok=True)
    steps = np.arange(len(updates))
    for law in ("paper", "exact"):
        ratio = updates / stability.update_bound(beta1=pair[0], beta2=pair[1], step=steps, law=law)
        assert found[f"excess_{law}"] == pytest.approx(max(0.0, ratio.max() - 1), rel=1e-6, abs=1e-9)
    assert found["ratio_late"] == pytest.approx(ratio[len(ratio) // 2 :].max(), rel=1e-6)
    assert found["diverged_at"] == -1 and found["step"] == len(updates) - 1


@pytest.mark.parametrize("chunk, shards", [(8192, 3), (100, 1), (64, 7), (1, 50)])
def test_a_run_does_not_depend_on_its_place(config, monkeypatch, chunk, shards):
    runs = quadratic.grid(config)
    whole = run(runs, config)
    monkeypatch.setattr(quadratic, "CPU_CHUNK", chunk)
    part = run(runs.iloc[1::shards], config)
    pd.testing.assert_frame_equal(part, whole.iloc[1::shards].reset_index(drop=True), check_exact=True)


def test_bounds_in_blocks_are_the_same(config, monkeypatch):
    runs = quadratic.grid(config).iloc[:64]
    whole = run(runs, config)
    monkeypatch.setattr(quadratic, "_TABLE", 130)
    pd.testing.assert_frame_equal(run(runs, config), whole, check_exact=True)


def test_a_run_that_leaves_float64_is_recorded_and_touches_no_other(config):
    runs = quadratic.grid(config).iloc[:20].copy()
    whole = run(runs, config)
    runs.loc[3, "lr"] = 1e200  # its squares overflow
    table = run(runs, config)
    assert 0 <= table.loc[3, "diverged_at"] < 3 and np.isfinite(table.loc[3, "update_max"])
    pd.testing.assert_frame_equal(table.drop(3), whole.drop(3), check_exact=True)


def test_an_update_above_its_bound_is_recorded_as_an_excess(config, monkeypatch):
    monkeypatch.setattr(quadratic, "update_bound", lambda **k: 0.5 * stability.update_bound(**k))
    table = run(quadratic.grid(config).iloc[:8], config)
    assert (table["excess_exact"] >= 1 - 1e-12).all()  # the first update is 1 and its bound is now 1/2


def test_a_setting_with_a_diverged_run_has_no_measurements_but_counts(config):
    table = run(quadratic.grid(config).iloc[:80], config)
    table.loc[3, ["excess_exact", "diverged_at"]] = [0.0, 3]
    measured = measure(table).set_index(["sweep", "weight_decay", "noise", "lr"])
    lost = table.loc[3, ["sweep", "weight_decay", "noise", "lr"]].tolist()
    assert np.isnan(measured.loc[tuple(lost), "update_max"]) and measured.loc[tuple(lost), "diverged"] == 1
    rest = measured.drop(index=tuple(lost))
    assert (rest["diverged"] == 0).all() and rest["update_max"].notna().all() and len(rest) == 7


def test_the_exact_bound_never_exceeds_its_limit(config):
    pairs = quadratic.grid(config).drop_duplicates("pair").assign(step=1)
    predicted = predict(pairs)
    inside = np.isfinite(predicted["limit_exact"]).to_numpy()
    pair = {name: pairs.loc[inside, name].to_numpy()[:, None] for name in ("beta1", "beta2")}
    bound = stability.update_bound(**pair, step=np.arange(500), law="exact")
    limit = predicted.loc[inside, "limit_exact"].to_numpy()[:, None]
    assert inside.sum() > 30 and (bound <= limit * (1 + 1e-12)).all()
    assert (predicted.loc[predicted["C"] > 0, "limit_exact"] < np.inf).all()
