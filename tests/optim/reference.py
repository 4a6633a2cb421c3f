"""Slow reference of k-Adam in the form of the equations: float64, one parameter and one stage at a time.

    m⁽ⁱ⁾ ← γ_i m⁽ⁱ⁾ + (1−γ_i) u⁽ⁱ⁻¹⁾,  v⁽ⁱ⁾ ← β_i v⁽ⁱ⁾ + (1−β_i) (u⁽ⁱ⁻¹⁾)²,
    u⁽ⁱ⁾ = [m⁽ⁱ⁾/(1−γ_i^n)] / (√(v⁽ⁱ⁾/(1−β_i^n)) + ε)   (0 where the denominator is 0),   θ ← θ − η (λθ + u⁽ᵏ⁾)

after n gradients; complex parameters are pairs of real ones.
"""

import numpy as np
import torch


def _floats(tensor):
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.detach().double().numpy().copy()


class Reference:
    def __init__(self, params, *, stages, lr=1e-3, eps=1e-8, weight_decay=1e-2, maximize=False):
        self.theta = [_floats(param) for param in params]
        self.m = [[np.zeros_like(theta) for _ in stages] for theta in self.theta]
        self.v = [[np.zeros_like(theta) for _ in stages] for theta in self.theta]
        self.n = [0 for _ in params]
        self.u = [None for _ in params]
        self.stages, self.lr, self.eps = stages, lr, eps
        self.weight_decay, self.sign = weight_decay, -1 if maximize else 1

    def step(self, grads):
        for p, grad in enumerate(grads):
            if grad is None:
                continue
            self.n[p] += 1
            u = self.sign * _floats(grad)
            for i, (gamma, beta) in enumerate(self.stages):
                m = self.m[p][i] = gamma * self.m[p][i] + (1 - gamma) * u
                v = self.v[p][i] = beta * self.v[p][i] + (1 - beta) * u**2
                m_hat, v_hat = m / (1 - gamma ** self.n[p]), v / (1 - beta ** self.n[p])
                denominator = np.sqrt(v_hat) + self.eps
                u = np.divide(m_hat, denominator, out=np.zeros_like(m), where=denominator != 0)
            self.u[p] = u
            self.theta[p] = self.theta[p] - self.lr * (self.weight_decay * self.theta[p] + u)

    def assert_equals(self, params, optimizer, **tolerance):
        """Parameters and the whole state."""
        for p, param in enumerate(params):
            np.testing.assert_allclose(_floats(param), self.theta[p], **tolerance)
            state = optimizer.state[param]
            assert state.get("step", 0) == self.n[p]
            for i in range(len(self.stages) if state else 0):
                number = "" if len(self.stages) == 1 else f"_{i + 1}"
                for key, expected in (("exp_avg" + number, self.m), ("exp_avg_sq" + number, self.v)):
                    np.testing.assert_allclose(_floats(state[key]), expected[p][i], **tolerance)
