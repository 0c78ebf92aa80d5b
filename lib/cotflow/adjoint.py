"""Loss and its exact gradient by a hand-written adjoint: discretize first, then differentiate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow import compiled
from cotflow.network import LAYERED, ResidualNet, Weights
from cotflow.sweeps import PlainSweep


@dataclass(frozen=True)
class Gradient:
    """Everything one forward and one backward sweep give.

    Attributes
    ----------
    loss : ℓ, one number a run.
    velocity : −r ∂_θℓ for every trained parameter θ, r from :meth:`ResidualNet.rates`.
    slope_squared : |∂ℓ|² = Σ_θ r |∂_θℓ|², the squared metric slope; dℓ/dt = −|∂ℓ|² along the flow.
    states : h_0..h_L.
    adjoints : p_0..p_L, p_L = 2 c_ℓ Bᵀ(F − y) and p_{k−1} = p_k + (1/L) ∂₁f(h_{k−1}, Z_k)ᵀ p_k.
        The factor 1/n is not in p, as in [M].
    """

    loss: Float[Tensor, "*runs"]
    velocity: dict[str, Tensor]
    slope_squared: Float[Tensor, "*runs"]
    states: Float[Tensor, "*runs layers n q"]
    adjoints: Float[Tensor, "*runs layers n q"]


@torch.no_grad()
def gradient(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    backend: Literal["auto", "plain", "compiled"] = "auto",
) -> Gradient:
    """∂_{Z_k}ℓ = (1/(nL)) Σ_i ∂₂f(h_{k−1,i}, Z_k)ᵀ p_{k,i}, exact to rounding for every depth.

    The state *before* a layer meets the adjoint *after* it; any other pairing is off by O(1/L).

    Parameters
    ----------
    x, y : data; they may omit the run axes, and then serve every run.
    backend : "plain" is the torch loop over layers; "compiled" uses a C kernel built for these
        sizes (CPU, real numbers, gelu, tanh, relu, identity); "auto" takes the kernel where there
        is a compiler and enough work. Both agree to rounding.

    Source: [M] §3 and appendix; the printed backward recurrence there lacks a transpose.
    """
    n = x.shape[-2]
    h0 = torch.matmul(x, weights.A.mT)
    runs = torch.broadcast_shapes(h0.shape[:-2], weights.V.shape[:-3])
    h0 = h0.expand(*runs, *h0.shape[-2:])
    sweep = _engine(backend, net, weights, x)(net, weights, h0)

    h = sweep.states[..., -1, :, :]
    error = torch.matmul(h, weights.B.mT) - y
    loss = net.loss_factor * error.square().sum(-1).mean(-1)
    adjoints = sweep.backward(torch.matmul(error, weights.B).mul_(2.0 * net.loss_factor))

    rates = net.rates(weights)
    velocity = sweep.partials({name: -rate for name, rate in rates.items() if name in LAYERED})
    if "A" in rates:
        velocity["A"] = torch.matmul(adjoints[..., 0, :, :].mT, x).mul_(-rates["A"] / n)
    if "B" in rates:
        factor = -2.0 * net.loss_factor * rates["B"] / n
        velocity["B"] = torch.matmul(error.mT, h).mul_(factor)
    slope_squared = torch.zeros_like(loss)
    for name, value in velocity.items():
        axes = tuple(range(-3 if name in ("V", "W") else -2, 0))
        slope_squared = slope_squared + value.square().sum(axes) / rates[name]
    return Gradient(loss, velocity, slope_squared, sweep.states, adjoints)


def _engine(backend: str, net: ResidualNet, weights: Weights, x: Tensor) -> type:
    if backend == "plain":
        return PlainSweep
    if backend == "compiled":
        if not compiled.supports(net, weights, x):
            raise ValueError(
                "backend 'compiled': expected float32 or float64 tensors on the CPU and one of the "
                f"activations {', '.join(a.name for a in compiled.COVERED)}, received {x.dtype} on "
                f"{x.device} with {net.activation.name}"
            )
        return compiled.CompiledSweep
    if backend != "auto":
        raise ValueError(f"backend: expected auto, plain or compiled, received {backend!r}")
    return compiled.CompiledSweep if compiled.available(net, weights, x) else PlainSweep
