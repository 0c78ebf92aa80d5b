"""Depth in parallel: all segments of a deep net at once, corrected by a coarse net, and certified.

A smooth deep net is nearly an ODE, and the net with one layer a segment, of the mean weights, is
nearly the same ODE. Parareal: that coarse net foretells where each segment starts; all segments are
carried through at once; what is missing at their ends is handed to the coarse net as a source; and
again, until the certificate is small enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint import card, segments
from cotflow.adjoint.segments import Layers
from cotflow.adjoint.sweep import Depth, Sweep
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import LAYERED, Weights

# Half a unit a layer, added up as if at random, and four times the deviation of one sample: the
# worst of some thousand.
ROUNDINGS = 4 * 0.5


@dataclass(frozen=True)
class Parallel:
    """Both sweeps with depth in parallel, as a backend of :func:`cotflow.gradient`.

    The sweeps are exact but for the gaps between segments. They end when no gap is larger than what
    the roundings of a segment's layers add up to, √length of them, so that the result is as near to
    exact arithmetic as the sequential sweep's; or, if a tolerance is given, when the bound on what
    the gaps do is below it. The gradient carries what came out as ``depth``, a
    :class:`cotflow.adjoint.sweep.Depth`. Where neither comes, and where σ′ jumps, the sweep is
    sequential.

    Parameters
    ----------
    length : layers a segment; None is about √L, and then the coarse net is as deep as a segment.
    tolerance : how much the gaps may add to states and adjoints, relative to the largest of them.
    accepted : the largest bound on the gradient's relative error that is accepted where gaps are
        larger than roundings.
    sweeps : the most sweeps over all segments, forward and backward each.
    layers : the engine; by default Triton on a card that has it, products in batches elsewhere.

    >>> from cotflow import gradient, published
    >>> from cotflow.adjoint.parallel import Parallel
    >>> e = published("figure 1", depth=64, seed=0)
    >>> found = gradient(e.net, e.weights, e.x, e.y, backend=Parallel())
    >>> found.depth.forward, found.depth.gap
    (1, 0.0)
    """

    length: int | None = None
    tolerance: float | None = None
    accepted: float = 1e-3
    sweeps: int = 12
    layers: Callable[[ResidualNet, Weights, Tensor], Layers] = field(
        default=card.layers, repr=False
    )

    def __post_init__(self) -> None:
        for name in ("length", "sweeps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected at least 1, a whole number, received {value!r}")
        for name in ("tolerance", "accepted"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a number > 0, received {value!r}")

    def __call__(
        self,
        net: ResidualNet,
        weights: Weights,
        h0: Float[Tensor, "*runs n q"],
        y: Float[Tensor, "*data n dy"],
        factors: dict[str, float],
        segment: int | None = None,
    ) -> Sweep:
        fine = self.layers(net, weights, h0)
        found = None
        if math.isfinite(net.activation.curvature) and segment is None:
            found = self._parallel(fine, net, weights, h0, y, factors)
        if found is None:
            found = segments.sweep(fine, net, weights, h0, y, factors, segment)
            return replace(found, depth=Depth(0, 0, 0.0, 0.0, 0.0, 0.0))
        return found

    def _parallel(
        self,
        fine: Layers,
        net: ResidualNet,
        weights: Weights,
        h0: Float[Tensor, "*runs n q"],
        y: Float[Tensor, "*data n dy"],
        factors: dict[str, float],
    ) -> Sweep | None:
        L = weights.depth
        length = min(self.length or math.isqrt(L - 1) + 1, L)
        chunks = -(-L // length)
        if chunks == 1:
            return None
        small = coarse_layers(self.layers, fine, net, weights, h0, length)
        size = Norms.of(fine, net, weights, length)
        most = self.tolerance, self.sweeps

        start = h0.reshape(-1, 1, *h0.shape[-2:])
        ahead = last_of(forward_sweeps(fine, small, size, start, length), *most)
        if ahead is None:
            return None

        error, p = segments.turn(net, weights, ahead.end.reshape(h0.shape), y)
        p = p.reshape(start.shape)
        back = last_of(backward_sweeps(fine, small, size, p, ahead.values, length), *most)
        if back is None:
            return None

        into, squares = segments.room(fine, weights, h0, factors)
        fine.partials(ahead.values, back.values, 0, factors, into, squares)
        depth = size.report(net, weights, ahead, back, squares, factors)
        if not (depth.gap <= 1.0 or depth.partials <= self.accepted):
            return None
        return segments.found(
            into, squares, h0, error=error, last_state=ahead.end, first_adjoint=back.end,
            states=ahead.values, adjoints=back.values, depth=depth,
        )  # fmt: skip


@dataclass(frozen=True)
class Joined:
    """What a sweep over all segments leaves: the values of all layers, the one at the far end, a
    bound on what the gaps do to them, the largest gap over a segment's roundings, and which sweep
    it was.
    """

    values: Float[Tensor, "runs values n q"]
    end: Float[Tensor, "runs n q"]
    error: Float[Tensor, "runs n"]
    gap: float
    sweep: int

    @property
    def relative(self) -> float:
        """The bound relative to the largest value, over samples and runs."""
        size = torch.linalg.vector_norm(self.values, dim=-1).amax(1)
        return float((self.error / size).max())


def states_by_sweeps(
    net: ResidualNet,
    weights: Weights,
    h0: Float[Tensor, "*runs n q"],
    length: int,
    layers: Callable[[ResidualNet, Weights, Tensor], Layers] = card.layers,
) -> Iterator[Joined]:
    """The states from h_0 on after one sweep over all segments of so many layers, after two, …"""
    fine = layers(net, weights, h0)
    small = coarse_layers(layers, fine, net, weights, h0, length)
    start = h0.reshape(-1, 1, *h0.shape[-2:])
    return forward_sweeps(fine, small, Norms.of(fine, net, weights, length), start, length)


def forward_sweeps(
    fine: Layers,
    small: Layers,
    size: Norms,
    start: Float[Tensor, "runs 1 n q"],
    length: int,
) -> Iterator[Joined]:
    """The states after one sweep over all segments, after two, …"""
    L, chunks = fine.depth, small.depth

    def foretell(source: Tensor | None) -> Tensor:
        values, _ = small.forward(start, 0, chunks, chunks, source=source)
        return kept(values)[:, :-1]

    growth = (size.before[:, -1:] - size.before[:, 1:-1]).exp()
    return _sweeps(
        lambda starts: fine.forward(starts, 0, L, length), foretell, start, growth, forward=True
    )


def backward_sweeps(
    fine: Layers,
    small: Layers,
    size: Norms,
    p: Float[Tensor, "runs 1 n q"],
    states: Float[Tensor, "runs values n q"],
    length: int,
) -> Iterator[Joined]:
    """The adjoints at these states after one sweep over all segments, after two, …"""
    L, chunks = fine.depth, small.depth
    begun = torch.cat((states[:, :-1:length], states[:, -1:]), 1)

    def foretell(source: Tensor | None) -> Tensor:
        values, _ = small.backward(p, begun, 0, chunks, chunks, source=source)
        return kept(values)[:, 1:]

    return _sweeps(
        lambda ends: fine.backward(ends, states, 0, L, length),
        foretell, p, size.before[:, 1:-1].exp(), forward=False,
    )  # fmt: skip


def _sweeps(
    carry: Callable[[Tensor], tuple[Tensor | None, Tensor]],
    foretell: Callable[[Tensor | None], Tensor],
    given: Float[Tensor, "runs 1 n q"],
    growth: Float[Tensor, "runs gaps"],
    *,
    forward: bool,
) -> Iterator[Joined]:
    """Parareal: begun_{c+1} = G(begun_c) + source_c, where source_c grows by the gap that segment
    c leaves. Σ_c growth_c |gap_c| bounds the errors of all values."""
    reach, meet = (slice(None, -1), slice(1, None))
    if not forward:
        reach, meet = meet, reach
    near, far = (0, -1) if forward else (-1, 0)
    begun, source = foretell(None).clone(), None
    for count in itertools.count(1):
        begun[:, near] = given[:, 0]
        values, reached = carry(begun)
        gaps = reached[:, reach] - begun[:, meet]
        lengths = torch.linalg.vector_norm(gaps, dim=-1)
        size = torch.linalg.vector_norm(reached, dim=-1).amax(1)
        length = -(-(kept(values).shape[1] - 1) // reached.shape[1])
        rounding = ROUNDINGS * torch.finfo(given.dtype).eps * length**0.5
        yield Joined(
            kept(values), reached[:, far], (lengths * growth.unsqueeze(-1)).sum(1),
            float((lengths.amax(1) / size).max()) / rounding, count,
        )  # fmt: skip
        if source is None:
            source = torch.zeros_like(begun)
        source[:, reach] += gaps
        begun = foretell(source).clone()


def last_of(sweeps: Iterator[Joined], tolerance: float | None, most: int) -> Joined | None:
    """The first that is near enough; None where the gaps get small too slowly."""
    last = math.inf
    for found in itertools.islice(sweeps, most):
        left, enough = (found.gap, 1.0) if tolerance is None else (found.relative, tolerance)
        if left <= enough:
            return found
        if not left < 0.7 * last:
            return None
        last = left
    return None


def kept(values: Tensor | None) -> Tensor:
    assert values is not None, "every value was asked for"
    return values


def coarse_layers(
    layers: Callable[[ResidualNet, Weights, Tensor], Layers],
    fine: Layers,
    net: ResidualNet,
    weights: Weights,
    h0: Tensor,
    length: int,
) -> Layers:
    """The coarse net, with the scale of the fine one: its V is a sum over a segment."""
    small = layers(net, coarse(weights, length), h0)
    small.scale = fine.scale
    return small


def coarse(weights: Weights, length: int) -> Weights:
    """One layer a segment: the means of W and of b over it, and the sum of V."""
    L = weights.depth
    chunks = -(-L // length)

    def summed(value: Tensor, axes: int) -> Tensor:
        if short := chunks * length - L:
            value = torch.nn.functional.pad(value, (*(0, 0) * (axes - 1), 0, short))
        parts: Tensor = value.unflatten(-axes, (chunks, length))
        return parts.sum(-axes)

    count = torch.full((chunks, 1, 1), float(length), dtype=torch.float64)
    count[-1] = L - (chunks - 1) * length
    count = count.to(weights.V)
    return replace(
        weights,
        V=summed(weights.V, 3),
        W=summed(weights.W, 3) / count,
        b=None if weights.b is None else summed(weights.b, 2) / count[..., 0],
    )


def schatten(value: Float[Tensor, "*batch a b"]) -> Float[Tensor, "*batch"]:
    """(Σ_j s_j⁸)^⅛ ≥ s_1 over the singular values: at most 1.42 times the spectral norm of sixteen
    rows, and made of products alone."""
    small = value if value.shape[-2] <= value.shape[-1] else value.mT
    # Eighth powers leave the range of numbers long before the norm does.
    unit = torch.linalg.vector_norm(small, dim=(-2, -1), keepdim=True)
    small = small / unit.clamp_min(torch.finfo(value.dtype).tiny)
    gram = torch.matmul(small, small.mT)
    fourth: Tensor = torch.linalg.matrix_norm(torch.matmul(gram, gram))
    found: Tensor = fourth.pow(0.25) * unit[..., 0, 0]
    return found


@dataclass(frozen=True)
class Norms:
    """What the weights alone say, in each run, with c the scale of a layer.

    Attributes
    ----------
    before : Λ_c = Σ_{k<c·length} log(1 + ℓ_k); 1 + ℓ_k is a Lipschitz constant of layer k, with
        ℓ_k = c c_q(a|sym V_kW_k| + b‖V_k‖‖W_k‖) + ½(c c_q K_σ‖V_k‖‖W_k‖)², where σ′ lies between
        a − b and a + b.
    V, W, row : ‖V_k‖, ‖W_k‖ and the longest row of W_k.
    bend : Σ_k c c_q² K₂ ‖V_k‖‖W_k‖ row_k, K₂ = sup|σ″|: of Lipschitz constants of Df_k.
    """

    before: Float[Tensor, "runs ends"]
    V: Float[Tensor, "runs L"]
    W: Float[Tensor, "runs L"]
    row: Float[Tensor, "runs L"]
    bend: Float[Tensor, "runs"]
    scale: float
    input_scale: float

    @classmethod
    def of(cls, layers: Layers, net: ResidualNet, weights: Weights, length: int) -> Norms:
        sigma, c_q = net.activation, layers.input_scale
        V, W = (value.reshape(-1, *value.shape[-3:]) for value in (weights.V, weights.W))
        v, w = schatten(V), schatten(W)
        row = torch.linalg.vector_norm(W, dim=-1).amax(-1)
        both = torch.matmul(V, W)
        unit = layers.scale * c_q
        middle, half = (sigma.lipschitz + sigma.lowest) / 2, (sigma.lipschitz - sigma.lowest) / 2
        first = middle * schatten(0.5 * (both + both.mT)) + half * v * w
        growth = torch.log1p(unit * first + 0.5 * (unit * sigma.lipschitz * v * w).square())
        last = torch.arange(length, layers.depth + length, length).clamp_max(layers.depth) - 1
        before = torch.nn.functional.pad(growth.cumsum(-1)[:, last.to(V.device)], (1, 0))
        bend = unit * c_q * sigma.curvature * (v * w * row).sum(-1)
        return cls(before, v, w, row, bend, layers.scale, c_q)

    def report(
        self,
        net: ResidualNet,
        weights: Weights,
        ahead: Joined,
        back: Joined,
        squares: Float[Tensor, "runs L parts 3"],
        factors: dict[str, float],
    ) -> Depth:
        """The bounds, over all samples and runs; Δ is the distance from the sequential sweep.

        |Δp| ≤ what the gaps add + e^Λ(2c_ℓ‖B‖²|Δh| + bend·|Δh|·max|p|);
        |Δ∂_Vℓ_k| ≤ (c/n)Σ_i(|Δp||σ(z)| + (|p| + |Δp|)K_σ|Δz|), |Δz| ≤ c_q‖W_k‖|Δh|;
        |Δ∂_Wℓ_k| ≤ (c c_q/n)Σ_i(|Δt||h| + ‖V_k‖K_σ(|p| + |Δp|)|Δh|), t = σ′(z) ⊙ Vᵀp;
        |Δ∂_bℓ_k| ≤ (c/n)Σ_i|Δt|, |Δt| ≤ ‖V_k‖(K_σ|Δp| + K₂c_q row_k|Δh||p|).
        """
        sigma, n, c_q = net.activation, ahead.error.shape[-1], self.input_scale
        B = weights.B.reshape(-1, *weights.B.shape[-2:])
        turn = 2.0 * net.loss_factor * schatten(B).square()
        h = torch.linalg.vector_norm(ahead.values, dim=-1).amax(1)
        p = torch.linalg.vector_norm(back.values, dim=-1).amax(1) + back.error
        off = ahead.error
        grown = self.before[:, -1:].exp()
        unsure = back.error + grown * off * (turn.unsqueeze(-1) + self.bend.unsqueeze(-1) * p)
        states, adjoints = float((off / h).max()), float((unsure / p).max())

        V, W, row = (value.unsqueeze(-1) for value in (self.V, self.W, self.row))
        h, p, off, unsure = (value.unsqueeze(1) for value in (h, p, off, unsure))
        K = sigma.lipschitz
        feature = K * c_q * W * h
        at_zero = float(sigma(torch.zeros(1, dtype=torch.float64)))
        feature = feature + abs(at_zero) * math.sqrt(weights.width)
        if weights.b is not None:
            b = weights.b.reshape(-1, *weights.b.shape[-2:])
            feature = feature + K * torch.linalg.vector_norm(b, dim=-1).unsqueeze(-1)
        slope = V * (K * unsure + sigma.curvature * c_q * row * off * p)
        errors = {
            "V": (unsure * feature + (p + unsure) * K * c_q * W * off).sum(-1),
            "W": c_q * (slope * h + V * K * (p + unsure) * off).sum(-1),
            "b": slope.sum(-1),
        }
        total, wrong = squares.sum((1, 2)), torch.zeros_like(grown[:, 0])
        right = torch.zeros_like(wrong)
        for name, factor in factors.items():
            wrong = wrong + abs(factor) * (self.scale / n * errors[name]).square().sum(-1)
            right = right + total[:, LAYERED.index(name)] / abs(factor)
        partials = torch.where(wrong > 0, wrong / right, wrong).max().sqrt()
        gap = max(ahead.gap, back.gap)
        return Depth(ahead.sweep, back.sweep, gap, states, adjoints, float(partials))
