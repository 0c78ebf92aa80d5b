"""One forward and one backward sweep through the layers, in plain torch: the reference."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network import ResidualNet, Weights

# Layers whose activations are differentiated at once: a few hundred kilobytes fit the cache.
BLOCK = 64


class PlainSweep:
    """h_0 ↦ (h_0, …, h_L) at construction, p_L ↦ (p_0, …, p_L) by :meth:`backward`, and then
    the partial derivatives by the layers' parameters.

    Two products a layer forward, two backward, and two batched over all layers;
    memory O(L n (q + m)).

    Attributes
    ----------
    states : (*runs, L+1, n, q).
    """

    def __init__(self, net: ResidualNet, weights: Weights, h0: Float[Tensor, "*runs n q"]):
        depth, m = weights.depth, weights.width
        self._runs, (n, q) = h0.shape[:-2], h0.shape[-2:]
        self._scale = net.residual_scale(depth, m)
        self._input_scale = net.input_scale(q)
        # One flat run axis, and layers first: every layer is one contiguous batch of products.
        self._V, self._W = (
            value.expand(*self._runs, *value.shape[-3:])
            .reshape(-1, *value.shape[-3:])
            .movedim(1, 0)
            .unbind()
            for value in (weights.V, weights.W)
        )
        batch = self._V[0].shape[0]
        self._states = h0.new_empty((depth + 1, batch, n, q))
        z = h0.new_empty((depth, batch, n, m))
        self._features = torch.empty_like(z)
        self._states[0] = h0.reshape(-1, n, q)
        for k, (before, after, pre, feature) in enumerate(
            zip(
                self._states[:-1].unbind(),
                self._states[1:].unbind(),
                z.unbind(),
                self._features.unbind(),
                strict=True,
            )
        ):
            torch.bmm(before, self._W[k].mT, out=pre).mul_(self._input_scale)
            if weights.b is not None:
                pre += weights.b[..., k, None, :].expand(*self._runs, 1, m).reshape(-1, 1, m)
            feature.copy_(net.activation(pre))
            torch.baddbmm(before, feature, self._V[k].mT, alpha=self._scale, out=after)
        # σ′ overwrites its argument, a block of layers at a time: z is not needed again.
        for block in z.split(BLOCK):
            block.copy_(net.activation.derivative(block))
        self._slopes = z
        self.states = self._per_run(self._states)

    def backward(self, last: Float[Tensor, "*runs n q"]) -> Float[Tensor, "*runs layers n q"]:
        self._adjoints = torch.empty_like(self._states)
        self._adjoints[-1] = last.reshape(self._states.shape[1:])
        p = self._adjoints.unbind()
        for k, slope in reversed(list(enumerate(self._slopes.unbind()))):
            slope.mul_(torch.bmm(p[k + 1], self._V[k]))
            alpha = self._scale * self._input_scale
            torch.baddbmm(p[k + 1], slope, self._W[k], alpha=alpha, out=p[k])
        return self._per_run(self._adjoints)

    def partials(self, factors: dict[str, float]) -> dict[str, Tensor]:
        """factor · ∂ℓ for each of V, W, b that ``factors`` names, (*runs, L, …)."""
        scale, found = self._scale / self._states.shape[-2], {}
        if "V" in factors:
            found["V"] = torch.matmul(self._adjoints[1:].mT, self._features).mul_(
                factors["V"] * scale
            )
        if "W" in factors:
            found["W"] = torch.matmul(self._slopes.mT, self._states[:-1]).mul_(
                factors["W"] * scale * self._input_scale
            )
        if "b" in factors:
            found["b"] = self._slopes.sum(-2).mul_(factors["b"] * scale)
        return {name: self._per_run(value) for name, value in found.items()}

    def _per_run(self, layers: Tensor) -> Tensor:
        """(L, flat runs, …) → (*runs, L, …)."""
        return layers.movedim(0, 1).reshape(*self._runs, *layers.shape[:1], *layers.shape[2:])
