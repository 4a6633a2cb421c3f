"""Test the preconditioned sharpness against dense eigenvalue decompositions."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam.artifact import config
from ctadam.experiments import configure
from ctadam.experiments.trajectory import runs as trajectory
from ctadam.experiments.trajectory.sharpness import largest_eigenvalue, preconditioned_sharpness

CPU = torch.device("cpu")


def symmetric(eigenvalues, seed):
    """Return a random symmetric matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    axes, _ = torch.linalg.qr(torch.randn((size, size), dtype=torch.float64, generator=generator))
    return axes @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ axes.T


def test_largest_eigenvalue_is_found_for_every_matrix_of_a_batch():
    spectra = [np.linspace(0, 1, 30), [*np.linspace(0, 1, 29), 5.0], [-9.0, *np.linspace(-1, 2, 29)]]
    matrices = torch.stack([symmetric(values, seed) for seed, values in enumerate(spectra)])
    start = torch.randn((3, 30), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    values, vectors = largest_eigenvalue(lambda x: (matrices @ x[..., None])[..., 0], start, iterations=25)
    assert values.tolist() == pytest.approx([1, 5, 2], rel=1e-6)  # also where −9 is larger in absolute value
    torch.testing.assert_close((matrices @ vectors[..., None])[..., 0], values[:, None] * vectors, atol=1e-3, rtol=0)


def test_a_warm_start_needs_few_iterations():
    matrix = symmetric(np.linspace(0, 1, 200) ** 3, 0)
    start = torch.randn((1, 200), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    _, vector = largest_eigenvalue(lambda x: x @ matrix, start, iterations=40)
    moved = matrix + 0.01 * symmetric(np.linspace(-1, 1, 200), 1)
    value, _ = largest_eigenvalue(lambda x: x @ moved, vector, iterations=8)
    assert float(value) == pytest.approx(float(torch.linalg.eigvalsh(moved)[-1]), rel=1e-3)


def test_one_run_that_is_not_finite_leaves_the_others():
    scale = torch.tensor([[1.0, 2.0, 3.0], [1.0, torch.nan, 1.0]], dtype=torch.float64)
    start = torch.ones((2, 3), dtype=torch.float64)
    values, _ = largest_eigenvalue(lambda x: scale * x, start, iterations=3)
    assert float(values[0]) == pytest.approx(3) and values[1].isnan()


def test_sharpness_equals_a_dense_decomposition_with_unused_coordinates():
    def gradient(theta):
        return torch.stack(
            [torch.sin(theta[:, 0]) + theta[:, 1], theta[:, 0] + 4 * theta[:, 1] ** 3, 0 * theta[:, 2]], -1
        )

    theta = torch.tensor([[0.3, -0.7, 0.1]], dtype=torch.float64)
    square = torch.tensor([[4.0, 0.25, 0.0]], dtype=torch.float64)
    hessian = np.array([[np.cos(0.3), 1], [1, 12 * 0.49]])
    expected = np.linalg.eigvals(np.diag([1 / 2, 1 / 0.5]) @ hessian).real.max()
    value, _ = preconditioned_sharpness(gradient, theta, square, torch.ones_like(theta), iterations=3)
    assert float(value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("model", trajectory.MODELS)
def test_recorded_sharpness_equals_the_dense_one_on_the_optimizers_path(model):
    """Tiny models; the Hessian is the Jacobian of the gradient, and v̂ the mean that the update at that step uses."""
    parameters = config.resolve("smoke")["trajectory"] | {"lrs": [1e-3], "steps": 10, "weight_decays": [0.0]}
    parameters["mlp"] |= {"width": 2, "examples": 32}
    parameters["transformer"]["model"] |= {"width": 2, "heads": 1, "context": 4}
    parameters |= {"sharpness": {"every": 2, "iterations": 12}}
    small = configure("trajectory", parameters)
    runs = trajectory.grid(small).query("model == @model and variant == 'discrete'")
    table, _ = trajectory.run(runs, small, device=CPU, progress=lambda amount: None)
    problem = trajectory._Problem(model, small, CPU)
    optimizer = trajectory._Optimizer(problem, runs[trajectory.SETTING], small)
    for _ in range(small.steps):
        optimizer.step()
    square = (optimizer._square / (1 - 0.999**11))[0]
    used = square > 0
    hessian = torch.func.jacrev(lambda theta: problem.gradient(theta[None])[0])(optimizer.theta[0])[used][:, used]
    dense = torch.linalg.eigvals(square[used].rsqrt()[:, None] * hessian).real.max()
    recorded = table.set_index("step")["sharpness"]
    assert recorded[10] == pytest.approx(float(dense), rel=1e-2)
    assert recorded.notna().to_numpy().nonzero()[0].tolist() == [0, 2, 4, 6, 8, 10]


def test_sharpness_is_measured_without_weight_decay_only():
    parameters = configure("trajectory", config.resolve("smoke")["trajectory"] | {"lrs": [1e-3]})
    runs = trajectory.grid(parameters).query("model == 'mlp' and variant == 'discrete'")
    table, _ = trajectory.run(runs, parameters, device=CPU, progress=lambda amount: None)
    assert table.groupby("weight_decay")["sharpness"].count().to_dict() == {0.0: 3, 1.0: 0}
    assert isinstance(table, pd.DataFrame) and (table["sharpness"].dropna() > 0).all()
