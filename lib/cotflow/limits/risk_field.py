"""The gradient field of the risk at any ω of a layer, of layered nets and of continuous depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.limits.neural_ode import integrate
from cotflow.network.residual import ResidualNet
from cotflow.network.tensors import require_numbers


def risk_gradient(
    net: ResidualNet,
    omega: Float[Tensor, "*batch j p"],
    h: Float[Tensor, "*batch n q"],
    p: Float[Tensor, "*batch n q"],
    *,
    width: int,
) -> Float[Tensor, "*batch j p"]:
    """∇ℛ[μ](ω) = (1/N) Σ_i D_ωφ(ω, h_i)ᵀ p_i with φ(ω, h) = M c_m u σ(c_q⟨w, h⟩ + b).

    For the layers of a net, h is the state before each layer, ``states[..., :-1, :, :]``, and p
    the adjoint after it, ``adjoints[..., 1:, :, :]``; any other pairing is off by O(1/L). At the
    particles of a net of depth exponent 1 this is −velocity of the metric "particle" at speed 1,
    and L·M·∂ℛ/∂ω.

    Parameters
    ----------
    omega : points (u, w) or (u, w, b), ordered as :func:`cotflow.transport.exact.particles` does.
    width : M; for the width scaling "mean" the field does not depend on it.

    Source: [C], standard.
    """
    _require(omega, h=h, p=p)
    u, w, b = _split(omega, h.shape[-1])
    z = _pre_activations(net, w, b, h)
    scale = _phi_scale(net, width) / h.shape[-2]
    push = torch.matmul(u, p.mT) * net.activation.derivative(z)
    parts = [
        torch.matmul(net.activation(z), p),
        torch.matmul(push, h) * net.input_scale(h.shape[-1]),
    ]
    if b is not None:
        parts.append(push.sum(-1, keepdim=True))
    return scale * torch.cat(parts, dim=-1)


def landscape(
    net: ResidualNet,
    omega: Float[Tensor, "*batch j p"],
    h: Float[Tensor, "*batch n q"],
    p: Float[Tensor, "*batch n q"],
    *,
    width: int,
) -> Float[Tensor, "*batch j"]:
    """V(ω) = (1/N) Σ_i ⟨φ(ω, h_i), p_i⟩, whose gradient in ω is :func:`risk_gradient`."""
    _require(omega, h=h, p=p)
    u, w, b = _split(omega, h.shape[-1])
    features = net.activation(_pre_activations(net, w, b, h))
    return _phi_scale(net, width) * (features * torch.matmul(u, p.mT)).mean(-1)


@dataclass(frozen=True)
class ContinuousSweep:
    """What the state and the adjoint equation of continuous depth give.

    Attributes
    ----------
    loss : (c_ℓ/N) Σ_i |x_i(1) − y_i|².
    states, adjoints : x_i(s) and p_i(s) at the depths that were asked for, on the first axis.
    """

    loss: Float[Tensor, "*runs"]
    states: Float[Tensor, "times *runs n q"]
    adjoints: Float[Tensor, "times *runs n q"]


@torch.no_grad()
def continuous_sweep(
    net: ResidualNet,
    omega: Callable[[float], Float[Tensor, "*runs m p"]],
    x: Float[Tensor, "*data n q"],
    y: Float[Tensor, "*data n q"],
    s: Float[Tensor, " times"],
    *,
    tolerance: float = 1e-10,
) -> ContinuousSweep:
    """∂_s x = F(x), x(0) = x, and ∂_s p = −[D_x F]ᵀ p, p(1) = 2c_ℓ(x(1) − y), no embeddings.

    F(x) = (1/M) Σ_j φ(ω_j(s), x): the measure has M atoms a layer that are functions of s.
    By :func:`cotflow.limits.neural_ode.integrate`, forwards for x and then backwards for the pair
    (x, p), with that tolerance. Discretize first for the gradient of a layered net
    (:func:`cotflow.gradient`): this one is its limit, O(1/L) away.

    Parameters
    ----------
    s : increasing, between 0 and 1.
    """
    if net.depth_exponent != 1.0:
        raise ValueError(
            f"continuous depth: expected depth_exponent 1, received {net.depth_exponent}"
        )
    if not (s.ndim == 1 and len(s) and s[0] >= 0.0 and s[-1] <= 1.0 and bool((s.diff() > 0).all())):
        raise ValueError(f"continuous depth: expected 0 ≤ s_1 < s_2 < … ≤ 1, received {s}")
    _require(omega(0.0), x=x, y=y)

    def layer(depth: float, h: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        at = omega(depth)
        u, w, b = _split(at, h.shape[-1])
        return u, w, _pre_activations(net, w, b, h), _phi_scale(net, at.shape[-2]) / at.shape[-2]

    def forward(depth: float, h: Tensor) -> Tensor:
        u, _, z, scale = layer(depth, h)
        return scale * torch.matmul(net.activation(z).mT, u)

    def backward(depth: float, pair: Tensor) -> Tensor:
        h, p = pair
        u, w, z, scale = layer(depth, h)
        slope = torch.matmul(u, p.mT) * net.activation.derivative(z)
        pull = torch.matmul(slope.mT, w) * net.input_scale(h.shape[-1])
        return scale * torch.stack([torch.matmul(net.activation(z).mT, u), -pull])

    ends = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
    runs = torch.broadcast_shapes(x.shape[:-2], omega(0.0).shape[:-2])
    start = x.expand(*runs, *x.shape[-2:])
    last = integrate(forward, start, ends, tolerance=tolerance).states[-1]
    error = last - y
    at_end = torch.stack([last, 2.0 * net.loss_factor * error])
    inner = s.to(x)[s < 1.0]
    found = at_end[None]
    if len(inner):
        times = torch.cat([inner, ends[1:]]).flip(0)
        found = integrate(backward, at_end, times, tolerance=tolerance).states.flip(0)
    found = found[: len(s)]
    loss = net.loss_factor * error.square().sum(-1).mean(-1)
    return ContinuousSweep(loss=loss, states=found[:, 0], adjoints=found[:, 1])


def _require(omega: Tensor, **pair: Tensor) -> None:
    """Refuse numbers that are none, and a pair in which one sample would serve for others."""
    require_numbers(omega, "field", "points")
    for name, value in pair.items():
        require_numbers(value, "field", f"entries of {name}")
    shapes = [tuple(value.shape) for value in pair.values()]
    if len({shape[-2:] for shape in shapes}) > 1 or min(map(len, shapes)) < 2:
        raise ValueError(
            f"field: expected {' and '.join(pair)} of one shape (n, q), or both with runs before "
            f"it, received {' and '.join(map(str, shapes))}"
        )


def _split(
    omega: Float[Tensor, "*batch j p"], state: int
) -> tuple[
    Float[Tensor, "*batch j q"], Float[Tensor, "*batch j q"], Float[Tensor, "*batch j"] | None
]:
    """ω = (u, w) or (u, w, b) in its parts."""
    if omega.shape[-1] not in (2 * state, 2 * state + 1):
        raise ValueError(
            f"field: a state of dimension {state} asks for points (u, w) or (u, w, b) of dimension "
            f"{2 * state} or {2 * state + 1}, received {omega.shape[-1]}"
        )
    b = omega[..., 2 * state] if omega.shape[-1] > 2 * state else None
    return omega[..., :state], omega[..., state : 2 * state], b


def _phi_scale(net: ResidualNet, width: int) -> float:
    """M c_m, the factor of φ that turns (1/M) Σ_j φ(ω_j, h) into the residual of the net."""
    return width * net.residual_scale(1, width)


def _pre_activations(
    net: ResidualNet, w: Tensor, b: Tensor | None, h: Float[Tensor, "*batch n q"]
) -> Float[Tensor, "*batch j n"]:
    z = torch.matmul(w, h.mT) * net.input_scale(h.shape[-1])
    return z if b is None else z + b.unsqueeze(-1)
