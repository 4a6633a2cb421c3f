"""Adam, AdamW and k-Adam in continuous time: ordinary differential equations whose solution follows the optimizer.

This serves section 2 of arXiv 2411.05746 (its continuous-time formulation). The paper's γ is ``beta1`` and its β is
``beta2``; η is ``lr``, λ is ``weight_decay``, and step n happens at time t_n = n·η^p. The optimizer itself is in
`ctadam.optim`; below, each function gives its discrete update and, beside it, the equation that takes its place.

How a difference becomes a derivative. The paper expands both averages to first order,

    m_n = γ m_{n−1} + (1−γ) g_n     becomes     γ η^p ṁ = (1−γ)(g − m),

an exponential kernel of rate (1−γ)/(γη^p), and likewise v with β and g². The parameters' difference is expanded to the
first or to the second order:

    θ_{n+1} − θ_n = −η(λθ_n + u_n)     becomes     η^{p−1} θ̇ = −(λθ + u)
                                               or     η^{p−1} θ̇ + ½ η^{2p−1} θ̈ = −(λθ + u).

What is derived for this artifact, and not the paper's:

- *The kernel.* ``kernel="paper"`` has the mean lag γ/(1−γ) of the discrete average; ``kernel="exact"``, rate ln(1/γ) per
  step, has its decay instead, and the lag 1/ln(1/γ) ≈ γ/(1−γ) + ½.
- *Half a step.* θ_{n+1} − θ_n is the velocity at n + ½, so the parameters lag their update by half a step more. The
  second-order equation carries that half step, the first-order one does not, but the exact kernel does: in total first
  order with the exact kernel and second order with the paper's lag like the optimizer, see `lag_error`.
- *The start.* m and v start from the state after the first average, m(0) = (1−γ)g and v(0) = (1−β)g², because the first
  discrete update is m_0/√v_0 = ±1 after correction; the second-order equation starts with the first step's velocity.
- *The time.* With s = t/η^p every p gives the same equation. p = 0 is that time, counted in steps.

All is float64 in, float64 out (whatever the parameters' dtype, it is kept). A flow is a right-hand side for
``torchdiffeq.odeint(flow, flow.start(theta), flow.times(n))``, whose state is a tuple of tensors shaped like theta.
"""

import math
from typing import Literal

import torch

Kernel = Literal["paper", "exact"]
KERNELS = ("paper", "exact")
ORDERS = (1, 2)


def kernel_rate(beta, *, kernel: Kernel = "paper"):
    """The rate, per step, at which an exponential average with decay ``beta`` forgets in continuous time.

    Args:
        beta: decay of one discrete average, in (0, 1).
        kernel: ``"paper"`` for (1−β)/β (arXiv 2411.05746, section 2), ``"exact"`` for ln(1/β).

    Raises:
        ValueError: beta outside (0, 1), or an unknown kernel. At 0 there is no average to replace.
    """
    if kernel not in KERNELS:
        raise ValueError(f"Invalid kernel: {kernel!r} is neither 'paper' nor 'exact'")
    if not 0.0 < beta < 1.0:
        raise ValueError(f"Invalid beta: {beta} is not in (0, 1): only an average that remembers has a rate")
    return (1 - beta) / beta if kernel == "paper" else -math.log(beta)


def lag_error(*, beta1, order=1, kernel: Kernel = "paper"):
    """By how many steps the equation's parameters lag behind their gradients more (less, if negative) than Adam's.

    Adam's lag is γ/(1−γ) of the average and ½ of the forward difference; the equation's is 1/rate, and ½ if it is of
    second order. Derived for this artifact; lags are first moments of the kernels, so that two equations of the same
    lag differ from Adam at second order in the gradients' change per step.

    Args:
        beta1: decay of the first moment (paper's γ), in (0, 1).
        order, kernel: as in `adam`.

    Raises:
        ValueError: as `adam`.
    """
    _check_order(order)
    return 1 / kernel_rate(beta1, kernel=kernel) - beta1 / (1 - beta1) + (order - 2) / 2


def curvature_limit(*, beta1, order=None, kernel: Kernel = "paper"):
    """Up to which curvature a minimum is stable: the largest x = η·h for a quadratic of preconditioned curvature h.

    With √v held fixed and no weight decay, Adam on ½hθ² is m_n = γm_{n−1} + (1−γ)hθ_n, θ_{n+1} = θ_n − ηm_n, stable for
    x < 2(1+γ)/(1−γ) (the stability threshold of full-batch Adam; Cohen et al., arXiv 2207.14484). Its equations are
    stable (derived for this artifact, by Routh's criterion)

    - of first order, (s + a)·s + a·x = 0: for every x;
    - of second order, (s + a)(s + ½s²) + a·x = 0: for x < 2 + a only, a the kernel's rate per step.

    So with the usual γ = 0.9 the optimizer bears 38, the second-order equation 2.1, and the first-order one everything.

    Args:
        beta1: decay of the first moment (paper's γ), in (0, 1).
        order: 1 or 2; None for the optimizer.
        kernel: as in `adam`; without effect on the optimizer.

    Raises:
        ValueError: as `adam`.
    """
    rate = kernel_rate(beta1, kernel=kernel)
    if order is None:
        return 2 * (1 + beta1) / (1 - beta1)
    _check_order(order)
    return math.inf if order == 1 else 2 + rate


def _check_order(order):
    if order not in ORDERS:
        raise ValueError(f"Invalid order: {order!r} is neither 1 nor 2")


def adam(gradient, *, lr, beta1, beta2, order=1, kernel: Kernel = "paper", p=0.0):
    """Adam as a differential equation: no weight decay, one stage (arXiv 2411.05746, section 2).

    Discrete, n = 0, 1, 2, …, from m_{−1} = v_{−1} = 0, with ε = 0 and u = 0 where v = 0::

        m_n = γ m_{n−1} + (1−γ) g_n
        v_n = β v_{n−1} + (1−β) g_n²
        u_n = √(1−β^{n+1}) / (1−γ^{n+1}) · m_n/√v_n
        θ_{n+1} = θ_n − η u_n

    Continuous, n = t/η^p a real number, g the gradient at θ(t)::

        η^p ṁ = a (g − m)       a = (1−γ)/γ, or ln(1/γ) with the exact kernel
        η^p v̇ = b (g² − v)      b = (1−β)/β, or ln(1/β)
        u     = √(1−β^{n+1}) / (1−γ^{n+1}) · m/√v
        η^p θ̇ = −η u                              first order
        η^p θ̇ + ½ η^{2p} θ̈ = −η u                 second order

    (the paper's equations times η). Start: m = (1−γ)g, v = (1−β)g², and for the second order η^p θ̇ = −η u.

    Args:
        gradient: function of theta alone, of theta's shape: for the paper's equation the full-batch gradient.
        lr: learning rate η > 0: a float, or with p = 0 a tensor that broadcasts against theta (many runs at once).
        beta1, beta2: decays (paper's γ and β), in (0, 1).
        order: 1 or 2.
        kernel: ``"paper"`` or ``"exact"``, see the module.
        p: the time is t = n·η^p. It relabels time and changes nothing else; 0 counts steps.

    Returns:
        `Flow`.

    Raises:
        ValueError: a parameter out of its range.
    """
    return Flow(gradient, lr=lr, stages=[(beta1, beta2)], weight_decay=0.0, order=order, kernel=kernel, p=p)


def adamw(gradient, *, lr, beta1, beta2, weight_decay, order=1, kernel: Kernel = "paper", p=0.0):
    """AdamW as a differential equation: Adam's, with decoupled weight decay (arXiv 2411.05746, section 2).

    Discrete (m_n, v_n and u_n as in `adam`)::

        θ_{n+1} = θ_n − η(λθ_n + u_n)

    Continuous (m, v and u as in `adam`)::

        η^p θ̇ = −η(λθ + u)                        first order
        η^p θ̇ + ½ η^{2p} θ̈ = −η(λθ + u)           second order, the paper's λθ + η^{p−1} θ̇ + ½ η^{2p−1} θ̈ = −u

    Args:
        weight_decay: λ ≥ 0, float or (with p = 0) tensor like ``lr``.

    The other arguments, the start, the result and the errors are those of `adam`.
    """
    return Flow(gradient, lr=lr, stages=[(beta1, beta2)], weight_decay=weight_decay, order=order, kernel=kernel, p=p)


def kadam(gradient, *, lr, stages, weight_decay=0.0, order=1, kernel: Kernel = "paper", p=0.0):
    """k-Adam as a differential equation: AdamW's, with k averages of each kind in a row (arXiv 2411.05746, k-Adam).

    Discrete, u⁽⁰⁾ = g, stage i = 1 … k::

        m⁽ⁱ⁾_n = γ_i m⁽ⁱ⁾_{n−1} + (1−γ_i) u⁽ⁱ⁻¹⁾_n
        v⁽ⁱ⁾_n = β_i v⁽ⁱ⁾_{n−1} + (1−β_i) (u⁽ⁱ⁻¹⁾_n)²
        u⁽ⁱ⁾_n = √(1−β_i^{n+1}) / (1−γ_i^{n+1}) · m⁽ⁱ⁾_n/√v⁽ⁱ⁾_n
        θ_{n+1} = θ_n − η(λθ_n + u⁽ᵏ⁾_n)

    Continuous: every stage as the one of `adam`, and θ as in `adamw` with u = u⁽ᵏ⁾ (derived here; the paper gives k-Adam
    in discrete time)::

        η^p ṁ⁽ⁱ⁾ = a_i (u⁽ⁱ⁻¹⁾ − m⁽ⁱ⁾)
        η^p v̇⁽ⁱ⁾ = b_i ((u⁽ⁱ⁻¹⁾)² − v⁽ⁱ⁾)

    Each stage starts after its first average: m⁽ⁱ⁾ = (1−γ_i)u⁽ⁱ⁻¹⁾, v⁽ⁱ⁾ = (1−β_i)(u⁽ⁱ⁻¹⁾)².

    Args:
        stages: k pairs (beta1, beta2), first stage first, each in (0, 1); `ctadam.optim.stage_betas` makes them.

    The other arguments, the result and the errors are those of `adamw`.
    """
    return Flow(gradient, lr=lr, stages=stages, weight_decay=weight_decay, order=order, kernel=kernel, p=p)


class Flow:
    """The right-hand side that `adam`, `adamw` and `kadam` have in common; made by them.

    Its state is ``(θ, [θ̇,] m⁽¹⁾, v⁽¹⁾, …, m⁽ᵏ⁾, v⁽ᵏ⁾)``, θ̇ only for the second order, every entry shaped like theta.

    Attributes:
        unit: η^p, the time of one step.
    """

    def __init__(self, gradient, *, lr, stages, weight_decay, order, kernel, p):
        _check_order(order)
        if not _all(lr, lambda x: (x > 0) & (x < math.inf)):  # so that NaN is rejected
            raise ValueError(f"Invalid learning rate: {lr}")
        if not _all(weight_decay, lambda x: (x >= 0) & (x < math.inf)):
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if not math.isfinite(p):
            raise ValueError(f"Invalid p: {p} is not a finite number")
        if p != 0 and torch.is_tensor(lr) and lr.numel() > 1:
            raise ValueError(f"p={p} needs one learning rate: with several, the same time would be different steps")
        if not len(stages):
            raise ValueError("Invalid stages: at least one pair (beta1, beta2) is needed")
        self.gradient, self.lr, self.weight_decay, self.order = gradient, lr, weight_decay, order
        self.stages = [
            (beta1, beta2, kernel_rate(beta1, kernel=kernel), kernel_rate(beta2, kernel=kernel))
            for beta1, beta2 in stages
        ]
        self.unit = 1.0 if p == 0 else float(lr) ** p

    def start(self, theta):
        """The state at t = 0: after the first average of every stage.

        Args:
            theta: initial parameters, any shape.

        Returns:
            tuple of tensors like theta.
        """
        averages, update = [], self.gradient(theta)
        for beta1, beta2, _, _ in self.stages:
            averages += [(1 - beta1) * update, (1 - beta2) * update**2]
            update = _update(*averages[-2:], beta1=beta1, beta2=beta2, step=0.0)
        velocity = [self._drift(theta, update) / self.unit] if self.order == 2 else []
        return (theta, *velocity, *averages)

    def times(self, steps, *, first=0, substeps=1):
        """Times of the steps ``first`` … ``first + steps`` with ``substeps`` − 1 times between, shape (steps·substeps + 1,).

        Given to a fixed-step solver, they are its grid.
        """
        n = torch.arange(steps * substeps + 1, dtype=torch.float64) / substeps + first
        return n * self.unit

    def __call__(self, t, state):
        """d(state)/dt at time t; see `adam` and `kadam` for the equations."""
        step = t / self.unit
        theta, *averages = state
        velocity = averages.pop(0) if self.order == 2 else None
        change, update = [], self.gradient(theta)
        for i, (beta1, beta2, rate1, rate2) in enumerate(self.stages):
            m, v = averages[2 * i : 2 * i + 2]
            change += [(rate1 / self.unit) * (update - m), (rate2 / self.unit) * (update**2 - v)]
            update = _update(m, v, beta1=beta1, beta2=beta2, step=step)
        drift = self._drift(theta, update) / self.unit
        if velocity is None:
            return (drift, *change)
        return (velocity, (2 / self.unit) * (drift - velocity), *change)

    def _drift(self, theta, update):
        """What θ would change by in one step: −η(λθ + u)."""
        return -self.lr * (self.weight_decay * theta + update)


def _update(m, v, *, beta1, beta2, step):
    """u at the (real) step index n: bias-corrected m/√v, and 0 where v is 0, as the optimizer has it with ε = 0."""
    correction = (1 - beta2 ** (step + 1)) ** 0.5 / (1 - beta1 ** (step + 1))
    return correction * torch.where(v > 0, m * v.clamp_min(torch.finfo(v.dtype).tiny).rsqrt(), 0.0)


def _all(value, good):
    return bool(good(value).all()) if torch.is_tensor(value) else bool(good(value))
