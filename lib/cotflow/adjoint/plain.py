"""One forward and one backward sweep through the layers, in plain torch: the reference."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.sweep import Sweep, turn
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights

# Layers whose activations are differentiated at once: a few hundred kilobytes fit the cache.
BLOCK = 64


def sweep(
    net: ResidualNet,
    weights: Weights,
    h0: Float[Tensor, "*runs n q"],
    y: Float[Tensor, "*data n dy"],
    factors: dict[str, float],
    segment: int | None = None,
) -> Sweep:
    """h_0 ↦ (h_0, …, h_L) and p_L ↦ (p_0, …, p_L), then the partial derivatives by the layers.

    Two products a layer forward, two backward, and two batched over the layers of a segment.
    Memory O(L N (q + m)); with ``segment`` = c layers O((L/c) N q + c N (q + m)), for one more
    forward sweep: of each segment only the first state is kept, the rest is made again.
    """
    runs, depth = h0.shape[:-2], weights.depth
    layers = _Layers(net, weights, runs)
    c = min(segment or depth, depth)
    kept = [h0.reshape(-1, *h0.shape[-2:])]
    for first in range(0, depth - c, c):
        kept.append(layers.forward(kept[-1], first, first + c)[0][-1])
    found: dict[str, list[Tensor]] = {name: [] for name in factors}
    for first in reversed(range(0, depth, c)):
        states, features, slopes = layers.forward(kept.pop(), first, min(first + c, depth))
        if first + c >= depth:
            last_state = states[-1].reshape(h0.shape)
            error, p = turn(net, weights, last_state, y)
            p = p.reshape(states[-1].shape)
        adjoints = layers.backward(slopes, p, first)
        p = adjoints[0]
        for name, value in layers.partials(factors, states, adjoints, features, slopes).items():
            found[name].insert(0, value.movedim(0, 1))
    partials = {
        name: torch.cat(v, 1).reshape(*runs, depth, *v[0].shape[2:]) for name, v in found.items()
    }
    squares = {
        name: v.square().sum(tuple(range(len(runs), v.ndim))) for name, v in partials.items()
    }

    whole = segment is None
    return Sweep(
        error=error,
        partials=partials,
        squares=squares,
        last_state=last_state,
        first_adjoint=p.reshape(h0.shape),
        states=_runs_first(states, h0) if whole else None,
        adjoints=_runs_first(adjoints, h0) if whole else None,
    )


def _runs_first(value: Tensor, like: Tensor) -> Tensor:
    """(layers, runs, n, q) → (*runs, layers, n, q) with like's runs."""
    return value.movedim(0, 1).reshape(*like.shape[:-2], -1, *like.shape[-2:])


def _layers_first(value: Tensor, runs: tuple[int, ...], axes: int) -> Tensor:
    """(*runs, layers, …) → (layers, runs, …), the last axes of a value that may omit the runs."""
    value = value.expand(*runs, *value.shape[-axes:])
    return value.reshape(-1, *value.shape[-axes:]).movedim(1, 0)


class _Layers:
    """The layers' weights, one flat axis of runs, layers first: each a batch of products."""

    def __init__(self, net: ResidualNet, weights: Weights, runs: tuple[int, ...]):
        self._net = net
        self._scale = net.residual_scale(weights.depth, weights.width)
        self._input_scale = net.input_scale(weights.state)
        self._V = _layers_first(weights.V, runs, 3).unbind()
        self._W = _layers_first(weights.W, runs, 3).unbind()
        self._b = None
        if weights.b is not None:
            self._b = _layers_first(weights.b, runs, 2).unsqueeze(-2)

    def forward(self, start: Tensor, first: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """States first..end, features and σ′ of the layers between, each (layers, runs, n, ·)."""
        states = start.new_empty((end - first + 1, *start.shape))
        z = start.new_empty((end - first, *start.shape[:-1], self._W[0].shape[-2]))
        features = torch.empty_like(z)
        states[0] = start
        each = (states[:-1].unbind(), states[1:].unbind(), z.unbind(), features.unbind())
        for k, (before, after, pre, feature) in enumerate(zip(*each, strict=True), first):
            torch.bmm(before, self._W[k].mT, out=pre).mul_(self._input_scale)
            if self._b is not None:
                pre += self._b[k]
            feature.copy_(self._net.activation(pre))
            torch.baddbmm(before, feature, self._V[k].mT, alpha=self._scale, out=after)
        # σ′ overwrites its argument, a block of layers at a time: z is not needed again.
        for block in z.split(BLOCK):
            block.copy_(self._net.activation.derivative(block))
        return states, features, z

    def backward(self, slopes: Tensor, last: Tensor, first: int) -> Tensor:
        """p_{k−1} = p_k + c c_q W_kᵀ(σ′ ⊙ V_kᵀp_k), c = L^{−β}c_m, σ′ at c_q W_k h_{k−1} + b_k.

        The slopes σ′ are overwritten by σ′ ⊙ V_kᵀp_k.
        """
        adjoints = last.new_empty((len(slopes) + 1, *last.shape))
        adjoints[-1] = last
        p, alpha = adjoints.unbind(), self._scale * self._input_scale
        for k, slope in reversed(list(enumerate(slopes.unbind()))):
            slope.mul_(torch.bmm(p[k + 1], self._V[first + k]))
            torch.baddbmm(p[k + 1], slope, self._W[first + k], alpha=alpha, out=p[k])
        return adjoints

    def partials(
        self,
        factors: dict[str, float],
        states: Tensor,
        adjoints: Tensor,
        features: Tensor,
        slopes: Tensor,
    ) -> dict[str, Tensor]:
        scale, found = self._scale / states.shape[-2], {}
        if "V" in factors:
            found["V"] = torch.matmul(adjoints[1:].mT, features).mul_(factors["V"] * scale)
        if "W" in factors:
            factor = factors["W"] * scale * self._input_scale
            found["W"] = torch.matmul(slopes.mT, states[:-1]).mul_(factor)
        if "b" in factors:
            found["b"] = slopes.sum(-2).mul_(factors["b"] * scale)
        return found
