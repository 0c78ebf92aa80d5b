"""Training of infinitely deep networks, by collocation in the depth variable.

Functions of s are polynomials, known by their values at Chebyshev points. Shared with the
networks of finite depth are the activation, the factors of width, state and loss, and the step in
time; derivatives of f come from autograd.

>>> import torch
>>> from cotflow.limits.collocation import at, points, slope
>>> s = points(12).reshape(-1, 1, 1)
>>> bool((at((3 * s).sin(), [0.3]) - torch.tensor(0.9, dtype=s.dtype).sin()).abs() < 1e-9)
True
>>> bool((slope(s**3) - 3 * s**2).abs().max() < 1e-12)
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev
from torch import Tensor

from cotflow.flows.velocity import Clip
from cotflow.network.numbers import Number, real, whole
from cotflow.network.residual import ResidualNet
from cotflow.network.tensors import require_numbers
from cotflow.network.weights import Weights, require_finite, require_fit


@dataclass(frozen=True)
class LimitState:
    """The limit at one training time: A, B, and V, W, H, P at the Chebyshev points of s.

    Attributes
    ----------
    weights : the values of V and W at the points stand on the layer axis.
    """

    weights: Weights
    states: Float[Tensor, "*runs points n q"]
    adjoints: Float[Tensor, "*runs points n q"]

    def lipschitz(self) -> Float[Tensor, "*runs"]:
        """max over the points of ‖∂_sZ‖ = (‖∂_sV‖_F² + ‖∂_sW‖_F²)^½."""
        parts = [slope(z).square().sum((-2, -1)) for z in (self.weights.V, self.weights.W)]
        largest: Tensor = (parts[0] + parts[1]).amax(-1).sqrt()
        return largest


def points(count: int) -> Float[Tensor, " count"]:
    """s_j = (1 − cos(πj/(count − 1)))/2 for j = 0..count − 1."""
    count = whole(count, "collocation: expected at least 2 points", 2)
    return torch.from_numpy((1.0 - np.cos(np.pi * np.arange(count) / (count - 1))) / 2.0)


def at(values: Float[Tensor, "*runs points a c"], s: Sequence[float]) -> Tensor:
    """The polynomials through values at the points, at the given s: (*runs, s, a, c)."""
    places = np.asarray(s, dtype=float)
    if places.ndim != 1 or not bool(((places >= 0.0) & (places <= 1.0)).all()):
        raise ValueError(f"collocation: expected s between 0 and 1, received {s}")
    count = values.shape[-3]
    return _along(chebyshev.chebvander(2.0 * places - 1.0, count - 1) @ _inverse(count), values)


def slope(values: Float[Tensor, "*runs points a c"]) -> Float[Tensor, "*runs points a c"]:
    """Their derivatives in s, at the points."""
    return _along(_derivative(values.shape[-3]), values)


def _along(matrix: np.ndarray, values: Tensor) -> Tensor:
    """A matrix on the axis of points."""
    return torch.einsum("jk,...kac->...jac", torch.from_numpy(matrix).to(values), values)


@cache
def _inverse(count: int) -> np.ndarray:
    """Coefficients from values."""
    return np.linalg.inv(chebyshev.chebvander(2.0 * points(count).numpy() - 1.0, count - 1))


@cache
def _derivative(count: int) -> np.ndarray:
    change = 2.0 * chebyshev.chebder(np.eye(count))
    at_points = chebyshev.chebvander(2.0 * points(count).numpy() - 1.0, count - 2)
    derivative: np.ndarray = at_points @ change @ _inverse(count)
    return derivative


@cache
def _integral(count: int) -> np.ndarray:
    """∫₀^s at the points."""
    change = chebyshev.chebint(np.eye(count), lbnd=-1) / 2.0
    at_points = chebyshev.chebvander(2.0 * points(count).numpy() - 1.0, count)
    integral: np.ndarray = at_points @ change @ _inverse(count)
    return integral


def _settled(update: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The fixed point of an integral equation in s."""
    for _ in range(300):
        new = update(value)
        size = float(new.abs().max())
        if not math.isfinite(size):
            break
        if float((new - value).abs().max()) <= 500.0 * torch.finfo(new.dtype).eps * (1.0 + size):
            return new
        value = new
    raise RuntimeError(
        "collocation: expected states that fixed-point iteration finds in 300 steps; the weights "
        "are too large"
    )


def limit_flow(
    net: ResidualNet,
    start: Weights,
    x: Float[Tensor, "*runs n d"],
    y: Float[Tensor, "*runs n dy"],
    *,
    step: Number,
    steps: int,
    shift: Number = 0.0,
    clip: Clip | None = None,
) -> Iterator[LimitState]:
    """Explicit Euler steps in time of the limit of ``net``'s flow as the depth goes to infinity:

    ∂_sH = f(H, Z), H(0) = Ax;  ∂_sP = −∂₁f(H, Z)ᵀP, P(1) = 2c_ℓBᵀ(BH(1) − y);
    ∂_tZ = −⟨∂₂f(H, Z)ᵀP⟩,  Ȧ = −⟨P(0)xᵀ⟩,  Ḃ = −2c_ℓ⟨(BH(1) − y)H(1)ᵀ⟩,

    f(h, Z) = c_m V σ(c_q W h). Yields the states at times 0, step, …, steps·step, as
    ``flow(…, step=step)`` does for networks.

    Parameters
    ----------
    start : its layers are V and W at ``points(start.depth)``.
    shift : ε; 1/L gives what a network of depth L is up to O(1/L²). Arguments of f are then moved:
        H(s − ε/2), Z(s + ε/2) and P(s + ε/2) in the equations in s, H(s − ε) in the velocity.
    clip : applied to every right-hand side.

    Raises
    ------
    ValueError : there is no such limit, or arguments do not fit together.
    RuntimeError : the equations in s could not be solved.

    Source: [C], chapter on the depth limit.
    """
    plain = net.metric == "layer" and not net.speed and net.depth_exponent == 1.0
    if not plain or start.b is not None:
        raise ValueError(
            "collocation: expected a net without bias, of depth exponent 1, in the layer metric "
            f"without extra speeds, received {net}"
        )
    require_fit("collocation", start, x, y)
    require_finite("collocation", start, x)
    require_numbers(y, "collocation", "entries of y")
    whole(start.depth, "collocation: expected at least 2 points", 2)
    eta = real(step, "collocation: expected a finite step > 0", lambda v: 0.0 < v < math.inf)
    steps = whole(steps, "collocation: expected a number of steps ≥ 0", 0)
    shift = real(shift, "collocation: expected a finite shift")
    return _march(net, start.map(Tensor.detach), x.detach(), y.detach(), eta, steps, shift, clip)


def _march(
    net: ResidualNet,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    step: float,
    steps: int,
    shift: float,
    clip: Clip | None,
) -> Iterator[LimitState]:
    H = P = None
    for turn in range(steps + 1):
        H, P, velocity = _swept(net, weights, x, y, shift, H, P)
        yield LimitState(weights, H, P)
        if turn < steps:
            weights = weights.plus(velocity if clip is None else clip(velocity), step)


def _swept(
    net: ResidualNet,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    shift: float,
    H: Tensor | None,
    P: Tensor | None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(H, P, velocity) at these weights; H and P of the step before are where iteration starts."""
    V, W, count, n = weights.V, weights.W, weights.depth, x.shape[-2]
    c_m, c_q = net.residual_scale(1, weights.width), net.input_scale(weights.state)
    integral = _integral(count)

    def f(h: Tensor, V: Tensor, W: Tensor) -> Tensor:
        return c_m * torch.matmul(net.activation(c_q * torch.matmul(h, W.mT)), V.mT)

    def earlier(h: Tensor, by: float) -> Tensor:
        return h - by * f(h, V, W) if by else h

    V_hat, W_hat = V + 0.5 * shift * slope(V), W + 0.5 * shift * slope(W)
    first = torch.matmul(x, weights.A.mT).unsqueeze(-3)
    H = _settled(
        lambda h: first + _along(integral, f(earlier(h, 0.5 * shift), V_hat, W_hat)),
        first.expand(*first.shape[:-3], count, *first.shape[-2:]) if H is None else H,
    )
    error = torch.matmul(H[..., -1, :, :], weights.B.mT) - y
    last = 2.0 * net.loss_factor * torch.matmul(error, weights.B).unsqueeze(-3)

    with torch.enable_grad():
        H_hat = earlier(H, 0.5 * shift).detach().requires_grad_()
        force = f(H_hat, V_hat, W_hat)

    def back(p: Tensor) -> Tensor:
        return torch.autograd.grad(force, H_hat, p, retain_graph=True)[0]

    def swept(p: Tensor) -> Tensor:
        collected = _along(integral, back(p - 0.5 * shift * back(p) if shift else p))
        return last + collected[..., -1:, :, :] - collected

    P = _settled(swept, last.expand_as(H) if P is None else P)
    with torch.enable_grad():
        layers = [z.detach().requires_grad_() for z in (V, W)]
        force = f(earlier(H, shift).detach(), *layers)
        parts = torch.autograd.grad(force, layers, P / n)
    velocity = {
        "A": -torch.matmul(P[..., 0, :, :].mT, x) / n,
        "V": -parts[0],
        "W": -parts[1],
        "B": -2.0 * net.loss_factor * torch.matmul(error.mT, H[..., -1, :, :]) / n,
    }
    return H, P, {name: velocity[name] for name in net.trained if name in velocity}
