"""Loss and its exact gradient by a hand-written adjoint: discretize first, then differentiate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network import LAYERED, ResidualNet, Weights

# Layers whose activations are differentiated at once: a few hundred kilobytes fit the cache.
BLOCK = 64


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
) -> Gradient:
    """∂_{Z_k}ℓ = (1/(nL)) Σ_i ∂₂f(h_{k−1,i}, Z_k)ᵀ p_{k,i}, exact to rounding for every depth.

    The state *before* a layer meets the adjoint *after* it; any other pairing is off by O(1/L).

    Shapes: data may omit the run axes, they then serve every run.
    Cost: two products a layer forward, two backward, and two batched over all layers;
    memory O(L n (q + m)).
    Source: [M] §3 and appendix; the printed backward recurrence there lacks a transpose.
    """
    depth, q, m, n = weights.depth, weights.state, weights.width, x.shape[-2]
    scale, input_scale = net.residual_scale(depth, m), net.input_scale(q)

    h = torch.matmul(x, weights.A.mT)
    runs = torch.broadcast_shapes(h.shape[:-2], weights.V.shape[:-3])
    # One flat run axis, and layers first: every layer is then one contiguous batch of products.
    V, W = (
        value.expand(*runs, *value.shape[-3:]).reshape(-1, *value.shape[-3:]).movedim(1, 0).unbind()
        for value in (weights.V, weights.W)
    )
    batch = V[0].shape[0]
    states = h.new_empty((depth + 1, batch, n, q))
    z = h.new_empty((depth, batch, n, m))
    features = torch.empty_like(z)
    states[0] = h.expand(*runs, n, q).reshape(-1, n, q)
    for k, (before, after, pre, feature) in enumerate(
        zip(states[:-1].unbind(), states[1:].unbind(), z.unbind(), features.unbind(), strict=True)
    ):
        torch.bmm(before, W[k].mT, out=pre).mul_(input_scale)
        if weights.b is not None:
            pre += weights.b[..., k, None, :].expand(*runs, 1, m).reshape(-1, 1, m)
        feature.copy_(net.activation(pre))
        torch.baddbmm(before, feature, V[k].mT, alpha=scale, out=after)

    h = states[depth].reshape(*runs, n, q)
    error = torch.matmul(h, weights.B.mT) - y
    loss = net.loss_factor * error.square().sum(-1).mean(-1)
    # σ′ overwrites its argument, a block of layers at a time: z is not needed again.
    for block in z.split(BLOCK):
        block.copy_(net.activation.derivative(block))
    sensitivities = z
    adjoints = torch.empty_like(states)
    adjoints[depth] = torch.matmul(error, weights.B).mul_(2.0 * net.loss_factor).reshape(-1, n, q)
    p = adjoints.unbind()
    for k, sensitivity in reversed(list(enumerate(sensitivities.unbind()))):
        sensitivity.mul_(torch.bmm(p[k + 1], V[k]))
        torch.baddbmm(p[k + 1], sensitivity, W[k], alpha=scale * input_scale, out=p[k])

    def per_run(layers: Tensor) -> Tensor:
        """(L, flat runs, …) → (*runs, L, …)."""
        return layers.movedim(0, 1).reshape(*runs, *layers.shape[:1], *layers.shape[2:])

    partial = {
        "A": lambda: torch.matmul(adjoints[0].reshape(*runs, n, q).mT, x).div_(n),
        "V": lambda: per_run(torch.matmul(adjoints[1:].mT, features).mul_(scale / n)),
        "W": lambda: per_run(
            torch.matmul(sensitivities.mT, states[:-1]).mul_(scale * input_scale / n)
        ),
        "b": lambda: per_run(sensitivities.sum(-2).mul_(scale / n)),
        "B": lambda: torch.matmul(error.mT, h).mul_(2.0 * net.loss_factor / n),
    }
    velocity, slope_squared = {}, torch.zeros_like(loss)
    for name, rate in net.rates(weights).items():
        value = partial[name]()
        axes = tuple(range(-3 if name in LAYERED and name != "b" else -2, 0))
        slope_squared = slope_squared + rate * value.square().sum(axes)
        velocity[name] = value.mul_(-rate)
    return Gradient(loss, velocity, slope_squared, per_run(states), per_run(adjoints))
