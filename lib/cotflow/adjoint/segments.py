"""Sweeps over a net that is cut into segments of layers, each carried through on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.sweep import Depth, Sweep, turn
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import LAYERED, Weights


@runtime_checkable
class Layers(Protocol):
    """Layers first..last−1, in chunks of ``length`` of them (the last one may be shorter), each
    with a start of its own: arrays (runs, chunks, n, q), and (runs, layers, n, q) once joined.

    Attributes
    ----------
    depth, scale, input_scale : L, L^{−β} c_m and c_q.
    parts : rows of squares that a layer writes.
    """

    depth: int
    scale: float
    input_scale: float
    parts: int

    def forward(
        self,
        starts: Float[Tensor, "runs chunks n q"],
        first: int,
        last: int,
        length: int,
        *,
        every: int = 1,
        source: Float[Tensor, "runs layers n q"] | None = None,
    ) -> tuple[Float[Tensor, "runs kept n q"] | None, Float[Tensor, "runs chunks n q"]]:
        """h_k = h_{k−1} + f_k(h_{k−1}) + source_k: the first state and then every so manieth, or
        none (0), and each chunk's last."""

    def backward(
        self,
        ends: Float[Tensor, "runs chunks n q"],
        states: Float[Tensor, "runs values n q"],
        first: int,
        last: int,
        length: int,
        *,
        keep: bool = True,
        source: Float[Tensor, "runs layers n q"] | None = None,
    ) -> tuple[Float[Tensor, "runs values n q"] | None, Float[Tensor, "runs chunks n q"]]:
        """p_{k−1} = p_k + Df_k(h_{k−1})ᵀ p_k + source_k: all of them, and each chunk's first."""

    def partials(
        self,
        states: Float[Tensor, "runs values n q"],
        adjoints: Float[Tensor, "runs values n q"],
        first: int,
        factors: Mapping[str, float],
        into: Mapping[str, Tensor],
        squares: Float[Tensor, "runs L parts 3"],
    ) -> None:
        """Write factor · ∂ℛ of the layers from ``first`` on, and their squares."""


class Batched:
    """The layers in plain torch: a product a layer of a segment, for all segments at once."""

    parts = 1

    def __init__(self, net: ResidualNet, weights: Weights) -> None:
        self.depth, self.scale = weights.depth, net.residual_scale(weights.depth, weights.width)
        self.input_scale, self._activation = net.input_scale(weights.state), net.activation
        self._V = weights.V.reshape(-1, *weights.V.shape[-3:])
        self._W = weights.W.reshape(-1, *weights.W.shape[-3:])
        self._b = None
        if weights.b is not None:
            self._b = weights.b.reshape(-1, weights.depth, 1, weights.width)

    def _cut(
        self, runs: int, first: int, last: int, length: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
        """V, W and b of each layer of a segment, (runs · segments, …): where the last segment is
        shorter, its missing layers have V = 0."""

        def cut(value: Tensor) -> list[Tensor]:
            value = value[:, first:last]
            if missing := -(last - first) % length:
                ends = value.new_zeros((len(value), missing, *value.shape[2:]))
                value = torch.cat((value, ends), 1)
            value = value.unflatten(1, (-1, length))
            value = value.expand(runs, *value.shape[1:])
            return [v.flatten(0, 1) for v in value.unbind(2)]

        b: list[Tensor | None] = [None] * length
        return cut(self._V), cut(self._W), b if self._b is None else [*cut(self._b)]

    def _before(self, h: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        z = torch.matmul(h, W.mT).mul_(self.input_scale)
        return z if b is None else z.add_(b)

    def forward(
        self,
        starts: Float[Tensor, "runs chunks n q"],
        first: int,
        last: int,
        length: int,
        *,
        every: int = 1,
        source: Float[Tensor, "runs layers n q"] | None = None,
    ) -> tuple[Float[Tensor, "runs kept n q"] | None, Float[Tensor, "runs chunks n q"]]:
        V, W, b = self._cut(len(starts), first, last, length)
        h, after = starts.flatten(0, 1), []
        for k in range(length):
            feature = self._activation(self._before(h, W[k], b[k]))
            h = torch.baddbmm(h, feature, V[k].mT, alpha=self.scale)
            if source is not None:
                h = h + _at(source, k, length)
            after.append(h)
        ends = h.unflatten(0, starts.shape[:2])
        if every == 0:
            return None, ends
        states = torch.stack(after, 1).unflatten(0, starts.shape[:2]).flatten(1, 2)
        states = torch.cat((starts[:, :1], states[:, : last - first]), 1)
        return states[:, ::every], ends

    def backward(
        self,
        ends: Float[Tensor, "runs chunks n q"],
        states: Float[Tensor, "runs values n q"],
        first: int,
        last: int,
        length: int,
        *,
        keep: bool = True,
        source: Float[Tensor, "runs layers n q"] | None = None,
    ) -> tuple[Float[Tensor, "runs values n q"] | None, Float[Tensor, "runs chunks n q"]]:
        V, W, b = self._cut(len(ends), first, last, length)
        p = ends.flatten(0, 1)
        before: list[Tensor] = []
        for k in reversed(range(length)):
            z = self._before(_at(states[:, :-1], k, length), W[k], b[k])
            slope = self._activation.derivative(z).mul_(torch.bmm(p, V[k]))
            p = torch.baddbmm(p, slope, W[k], alpha=self.scale * self.input_scale)
            if source is not None:
                p = p + _at(source, k, length)
            before.insert(0, p)
        starts = p.unflatten(0, ends.shape[:2])
        if not keep:
            return None, starts
        adjoints = torch.stack(before, 1).unflatten(0, ends.shape[:2]).flatten(1, 2)
        return torch.cat((adjoints[:, : last - first], ends[:, -1:]), 1), starts

    def partials(
        self,
        states: Float[Tensor, "runs values n q"],
        adjoints: Float[Tensor, "runs values n q"],
        first: int,
        factors: Mapping[str, float],
        into: Mapping[str, Tensor],
        squares: Float[Tensor, "runs L parts 3"],
    ) -> None:
        here, unit = slice(first, first + states.shape[1] - 1), self.scale / states.shape[-2]
        V, W, b = self._V[:, here], self._W[:, here], None if self._b is None else self._b[:, here]
        z = self._before(states[:, :-1], W, b)
        p = adjoints[:, 1:]
        slope = self._activation.derivative(z).mul_(torch.matmul(p, V))
        made = {
            "V": lambda: torch.matmul(p.mT, self._activation(z)),
            "W": lambda: torch.matmul(slope.mT, states[:, :-1]).mul_(self.input_scale),
            "b": lambda: slope.sum(-2),
        }
        for name, value in into.items():
            value[:, here] = made[name]().mul_(factors[name] * unit)
            squared = value[:, here].square().flatten(2).sum(-1)
            squares[:, here, 0, LAYERED.index(name)] = squared.to(squares.dtype)


def _at(value: Float[Tensor, "runs layers n q"], k: int, length: int) -> Tensor:
    """Layer k of each segment, (runs · segments, n, q); 0 where the last segment has none."""
    segments = -(-value.shape[1] // length)
    found = value[:, k::length]
    if found.shape[1] < segments:
        found = torch.cat((found, torch.zeros_like(value[:, :1])), 1)
    return found.flatten(0, 1)


def room(
    layers: Layers, weights: Weights, h0: Tensor, factors: Mapping[str, float]
) -> tuple[dict[str, Tensor], Tensor]:
    """Where partial derivatives and their squares go, one flat axis of runs."""
    runs = h0.shape[:-2].numel()
    shapes = {"V": weights.V.shape[-3:], "W": weights.W.shape[-3:]}
    if weights.b is not None:
        shapes["b"] = weights.b.shape[-2:]
    into = {name: h0.new_empty((runs, *shapes[name])) for name in factors}
    return into, h0.new_zeros((runs, layers.depth, layers.parts, 3), dtype=torch.float64)


def found(
    into: Mapping[str, Tensor],
    squares: Tensor,
    h0: Tensor,
    *,
    error: Tensor,
    last_state: Tensor,
    first_adjoint: Tensor,
    states: Tensor | None,
    adjoints: Tensor | None,
    depth: Depth | None = None,
) -> Sweep:
    """What the sweeps have left, in the shape of the runs."""
    runs, total = h0.shape[:-2], squares.sum((1, 2)).to(h0.dtype)

    def shaped(value: Tensor) -> Tensor:
        return value.reshape(*runs, *value.shape[1:])

    return Sweep(
        error=error,
        partials={name: shaped(value) for name, value in into.items()},
        squares={name: total[:, LAYERED.index(name)].reshape(runs) for name in into},
        last_state=shaped(last_state),
        first_adjoint=shaped(first_adjoint),
        states=None if states is None else shaped(states),
        adjoints=None if adjoints is None else shaped(adjoints),
        depth=depth,
    )


def sweep(
    layers: Layers,
    net: ResidualNet,
    weights: Weights,
    h0: Float[Tensor, "*runs n q"],
    y: Float[Tensor, "*data n dy"],
    factors: dict[str, float],
    segment: int | None = None,
) -> Sweep:
    """One layer after the other; see :func:`cotflow.adjoint.plain.sweep`."""
    L = layers.depth
    flat = h0.reshape(-1, 1, *h0.shape[-2:])
    into, squares = room(layers, weights, h0, factors)
    c = min(segment or L, L)
    kept, ends = layers.forward(flat, 0, L, L, every=c if c < L else 1)
    assert kept is not None
    states, last = kept, ends[:, 0]
    error, p = turn(net, weights, last.reshape(h0.shape), y)
    p = p.reshape(flat.shape)
    for first in reversed(range(0, L, c)):
        end = min(first + c, L)
        if c < L:
            made, _ = layers.forward(kept[:, first // c].unsqueeze(1), first, end, end - first)
            assert made is not None
            states = made
        adjoints, p = layers.backward(p, states, first, end, end - first)
        assert adjoints is not None
        layers.partials(states, adjoints, first, factors, into, squares)
    whole = segment is None
    return found(
        into, squares, h0,
        error=error, last_state=last, first_adjoint=p[:, 0],
        states=states if whole else None, adjoints=adjoints if whole else None,
    )  # fmt: skip
