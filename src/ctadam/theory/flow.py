"""Ordinary differential equations whose solutions approximate Adam, AdamW and k-Adam (arXiv 2411.05746, section 2).

The paper's γ is ``beta1`` and its β is ``beta2``. η is ``lr`` and λ is ``weight_decay``. Step n happens at time
t_n = n·η^p. The optimizer itself is in `ctadam.optim`. Each function below states the discrete update and the
differential equation that replaces it.

The paper expands both averages to first order:

    m_n = γ m_{n−1} + (1−γ) g_n     becomes     γ η^p ṁ = (1−γ)(g − m),

which is an exponential kernel with rate (1−γ)/(γη^p). The same holds for v with β and g². The difference of the
parameters is expanded to first or second order:

    θ_{n+1} − θ_n = −η(λθ_n + u_n)     becomes     η^{p−1} θ̇ = −(λθ + u)
                                               or     η^{p−1} θ̇ + ½ η^{2p−1} θ̈ = −(λθ + u).

Four choices are derived for this artifact and are not in the paper:

- *Kernel.* ``kernel="paper"`` has the mean lag of the discrete average, γ/(1−γ). ``kernel="exact"`` has its decay rate,
  ln(1/γ) per step, and the lag 1/ln(1/γ) ≈ γ/(1−γ) + ½.
- *Half a step.* θ_{n+1} − θ_n is the velocity at n + ½, so the parameters lag their update by another half step. The
  second-order equation has this half step. The first-order equation lacks it, but the exact kernel adds it. Therefore
  first order with the exact kernel and second order with the paper's kernel have the optimizer's lag (see `lag_error`).
- *Initial state.* m and v start after the first average, m(0) = (1−γ)g and v(0) = (1−β)g², because the first discrete
  update is m_0/√v_0 = ±1 after bias correction. The second-order equation starts with the velocity of the first step.
- *Time.* With s = t/η^p, every p gives the same equation. p = 0 counts time in steps.

The dtype of the parameters is kept; use float64. A flow is a right-hand side for
``torchdiffeq.odeint(flow, flow.start(theta), flow.times(n))``. Its state is a tuple of tensors shaped like theta.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]

Kernel = Literal["paper", "exact"]
KERNELS = ("paper", "exact")
ORDERS = (1, 2)


def kernel_rate(beta: float, *, kernel: Kernel = "paper") -> float:
    """Return the decay rate, per step, of the continuous-time kernel that replaces an exponential average.

    Args:
        beta: decay of the discrete average, in (0, 1).
        kernel: ``"paper"`` for (1−β)/β (arXiv 2411.05746, section 2), ``"exact"`` for ln(1/β).

    Raises:
        ValueError: if beta is outside (0, 1) or the kernel is unknown. For beta = 0 there is no average to replace.
    """
    if kernel not in KERNELS:
        raise ValueError(f"Invalid kernel: {kernel!r} is neither 'paper' nor 'exact'")
    if not 0.0 < beta < 1.0:
        raise ValueError(f"Invalid beta: {beta} is not in (0, 1), so it has no decay rate")
    return (1 - beta) / beta if kernel == "paper" else -math.log(beta)


def lag_error(*, beta1: float, order: int = 1, kernel: Kernel = "paper") -> float:
    """Return how many steps the equation's parameters lag further behind the gradients than Adam's.

    The result is negative if they lag less. Adam's lag is γ/(1−γ) from the average plus ½ from the forward difference. The
    equation's lag is 1/rate, plus ½ at second order. Derived for this artifact. Lags are first moments of the kernels, so an
    equation with Adam's lag differs from Adam at second order in the gradients' change per step.

    Args:
        beta1: decay of the first moment (paper's γ), in (0, 1).
        order: order of the equation, as in `adam`.
        kernel: kernel of the averages, as in `adam`.

    Raises:
        ValueError: as in `adam`.
    """
    _check_order(order)
    return 1 / kernel_rate(beta1, kernel=kernel) - beta1 / (1 - beta1) + (order - 2) / 2


def curvature_limit(*, beta1: float, order: int | None = None, kernel: Kernel = "paper") -> float:
    """Return the largest x = η·h at which a quadratic minimum of preconditioned curvature h is stable.

    With fixed √v and no weight decay, Adam on ½hθ² is m_n = γm_{n−1} + (1−γ)hθ_n, θ_{n+1} = θ_n − ηm_n. It is stable for
    x < 2(1+γ)/(1−γ), the stability threshold of full-batch Adam (Cohen et al., arXiv 2207.14484). Let a be the kernel's rate
    per step. By Routh's criterion (derived for this artifact) the equations are stable

    - at first order, (s + a)·s + a·x = 0, for every x;
    - at second order, (s + a)(s + ½s²) + a·x = 0, for x < 2 + a only.

    With the usual γ = 0.9, the limit is 38 for the optimizer, 2.1 for the second-order equation with the paper's kernel and
    infinite at first order.

    Args:
        beta1: decay of the first moment (paper's γ), in (0, 1).
        order: 1 or 2; None for the optimizer.
        kernel: kernel of the averages, as in `adam`. Has no effect for the optimizer.

    Raises:
        ValueError: as in `adam`.
    """
    rate = kernel_rate(beta1, kernel=kernel)
    if order is None:
        return 2 * (1 + beta1) / (1 - beta1)
    _check_order(order)
    return math.inf if order == 1 else 2 + rate


def _check_order(order: int) -> None:
    if order not in ORDERS:
        raise ValueError(f"Invalid order: {order!r} is neither 1 nor 2")


def adam(
    gradient: Gradient,
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    order: int = 1,
    kernel: Kernel = "paper",
    p: float = 0.0,
) -> "Flow":
    """Return Adam as a differential equation, without weight decay (arXiv 2411.05746, section 2).

    Discrete update for n = 0, 1, 2, … with m_{−1} = v_{−1} = 0, ε = 0, and u = 0 where v = 0::

        m_n = γ m_{n−1} + (1−γ) g_n
        v_n = β v_{n−1} + (1−β) g_n²
        u_n = √(1−β^{n+1}) / (1−γ^{n+1}) · m_n/√v_n
        θ_{n+1} = θ_n − η u_n

    Differential equation, with real n = t/η^p and g the gradient at θ(t)::

        η^p ṁ = a (g − m)       a = (1−γ)/γ, or ln(1/γ) with the exact kernel
        η^p v̇ = b (g² − v)      b = (1−β)/β, or ln(1/β) with the exact kernel
        u     = √(1−β^{n+1}) / (1−γ^{n+1}) · m/√v
        η^p θ̇ = −η u                              first order
        η^p θ̇ + ½ η^{2p} θ̈ = −η u                 second order

    These are the paper's equations multiplied by η. The initial state is m = (1−γ)g, v = (1−β)g², and η^p θ̇ = −η u at
    second order.

    Args:
        gradient: function of theta that returns a tensor of theta's shape. The paper's equation takes the full-batch gradient.
        lr: learning rate η > 0. With p = 0 it may be a tensor that broadcasts against theta, to solve many runs at once.
        beta1: decay of the first moment (paper's γ), in (0, 1).
        beta2: decay of the second moment (paper's β), in (0, 1).
        order: order of the equation, 1 or 2.
        kernel: ``"paper"`` or ``"exact"``; see the module's docstring.
        p: exponent of the time scale t = n·η^p. It only relabels time; 0 counts steps.

    Returns:
        Flow: the right-hand side of the equation.

    Raises:
        ValueError: if an argument is out of range.
    """
    return Flow(gradient, lr=lr, stages=[(beta1, beta2)], weight_decay=0.0, order=order, kernel=kernel, p=p)


def adamw(
    gradient: Gradient,
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float | Tensor,
    order: int = 1,
    kernel: Kernel = "paper",
    p: float = 0.0,
) -> "Flow":
    """Return AdamW as a differential equation: Adam's with decoupled weight decay (arXiv 2411.05746, section 2).

    Discrete update, with m_n, v_n and u_n as in `adam`::

        θ_{n+1} = θ_n − η(λθ_n + u_n)

    Differential equation, with m, v and u as in `adam`::

        η^p θ̇ = −η(λθ + u)                        first order
        η^p θ̇ + ½ η^{2p} θ̈ = −η(λθ + u)           second order

    The paper writes the second-order equation as λθ + η^{p−1} θ̇ + ½ η^{2p−1} θ̈ = −u.

    Args:
        weight_decay: λ ≥ 0; a float or, with p = 0, a tensor like ``lr``.

    The other arguments, the initial state, the result and the errors are those of `adam`.
    """
    return Flow(gradient, lr=lr, stages=[(beta1, beta2)], weight_decay=weight_decay, order=order, kernel=kernel, p=p)


def kadam(
    gradient: Gradient,
    *,
    lr: float | Tensor,
    stages: Sequence[tuple[float, float]],
    weight_decay: float | Tensor = 0.0,
    order: int = 1,
    kernel: Kernel = "paper",
    p: float = 0.0,
) -> "Flow":
    """Return k-Adam as a differential equation: AdamW's with k stages of averages (arXiv 2411.05746, k-Adam).

    Discrete update, with u⁽⁰⁾ = g and stages i = 1 … k::

        m⁽ⁱ⁾_n = γ_i m⁽ⁱ⁾_{n−1} + (1−γ_i) u⁽ⁱ⁻¹⁾_n
        v⁽ⁱ⁾_n = β_i v⁽ⁱ⁾_{n−1} + (1−β_i) (u⁽ⁱ⁻¹⁾_n)²
        u⁽ⁱ⁾_n = √(1−β_i^{n+1}) / (1−γ_i^{n+1}) · m⁽ⁱ⁾_n/√v⁽ⁱ⁾_n
        θ_{n+1} = θ_n − η(λθ_n + u⁽ᵏ⁾_n)

    Differential equation: each stage follows `adam`'s equations, and θ follows `adamw`'s with u = u⁽ᵏ⁾. The paper gives
    k-Adam in discrete time only; this form is derived for this artifact::

        η^p ṁ⁽ⁱ⁾ = a_i (u⁽ⁱ⁻¹⁾ − m⁽ⁱ⁾)
        η^p v̇⁽ⁱ⁾ = b_i ((u⁽ⁱ⁻¹⁾)² − v⁽ⁱ⁾)

    Each stage starts after its first average: m⁽ⁱ⁾ = (1−γ_i)u⁽ⁱ⁻¹⁾, v⁽ⁱ⁾ = (1−β_i)(u⁽ⁱ⁻¹⁾)².

    Args:
        stages: k pairs (beta1, beta2), first stage first, each in (0, 1); see `ctadam.optim.stage_betas`.

    The other arguments, the result and the errors are those of `adamw`.
    """
    return Flow(gradient, lr=lr, stages=stages, weight_decay=weight_decay, order=order, kernel=kernel, p=p)


class Flow:
    """Right-hand side of the differential equations that `adam`, `adamw` and `kadam` return.

    The state is ``(θ, [θ̇,] m⁽¹⁾, v⁽¹⁾, …, m⁽ᵏ⁾, v⁽ᵏ⁾)``, with θ̇ only at second order. Every entry has theta's shape.

    Attributes:
        unit: duration of one step, η^p.
    """

    def __init__(
        self,
        gradient: Gradient,
        *,
        lr: float | Tensor,
        stages: Sequence[tuple[float, float]],
        weight_decay: float | Tensor,
        order: int,
        kernel: Kernel,
        p: float,
    ) -> None:
        _check_order(order)
        if not _all(lr, lambda x: (x > 0) & (x < math.inf)):  # NaN fails too
            raise ValueError(f"Invalid learning rate: {lr}")
        if not _all(weight_decay, lambda x: (x >= 0) & (x < math.inf)):
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if not math.isfinite(p):
            raise ValueError(f"Invalid p: {p} is not a finite number")
        if p != 0 and torch.is_tensor(lr) and lr.numel() > 1:
            raise ValueError(f"p={p} needs a single learning rate: each learning rate has its own time scale")
        if not len(stages):
            raise ValueError("Invalid stages: at least one pair (beta1, beta2) is needed")
        self.gradient, self.lr, self.weight_decay, self.order = gradient, lr, weight_decay, order
        self.stages = [
            (beta1, beta2, kernel_rate(beta1, kernel=kernel), kernel_rate(beta2, kernel=kernel))
            for beta1, beta2 in stages
        ]
        self.unit = 1.0 if p == 0 else float(lr) ** p

    def start(self, theta: Tensor) -> State:
        """Return the state at t = 0, after the first average of every stage.

        Args:
            theta: initial parameters, any shape.

        Returns:
            tuple of tensors shaped like theta.
        """
        averages, update = [], self.gradient(theta)
        for beta1, beta2, _, _ in self.stages:
            averages += [(1 - beta1) * update, (1 - beta2) * update**2]
            update = _update(*averages[-2:], beta1=beta1, beta2=beta2, step=0.0)
        velocity = [self._drift(theta, update) / self.unit] if self.order == 2 else []
        return (theta, *velocity, *averages)

    def times(self, steps: int, *, first: int = 0, substeps: int = 1) -> Tensor:
        """Return the times of the steps ``first`` … ``first + steps``, each step divided into ``substeps``.

        A fixed-step solver uses these times as its grid.

        Returns:
            float64 tensor of shape (steps · substeps + 1,).
        """
        n = torch.arange(steps * substeps + 1, dtype=torch.float64) / substeps + first
        return n * self.unit

    def __call__(self, t: Tensor, state: State) -> State:
        """Return d(state)/dt at time t; see `adam` and `kadam` for the equations."""
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

    def _drift(self, theta: Tensor, update: Tensor) -> Tensor:
        """Return −η(λθ + u), the change of θ per step."""
        return -self.lr * (self.weight_decay * theta + update)


def _update(m: Tensor, v: Tensor, *, beta1: float, beta2: float, step: float | Tensor) -> Tensor:
    """Return u at the real step index n: bias-corrected m/√v, or 0 where v = 0, as in the optimizer with ε = 0."""
    correction = (1 - beta2 ** (step + 1)) ** 0.5 / (1 - beta1 ** (step + 1))
    return correction * torch.where(v > 0, m * v.clamp_min(torch.finfo(v.dtype).tiny).rsqrt(), 0.0)


def _all(value: Any, condition: Callable[[Any], Any]) -> bool:
    return bool(condition(value).all()) if torch.is_tensor(value) else bool(condition(value))
