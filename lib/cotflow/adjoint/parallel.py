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
from cotflow.adjoint.sweep import Depth, Sweep, turn
from cotflow.network.numbers import real, whole
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import LAYERED, Weights

# Half a unit a layer, added up as if at random, and four times the deviation of one sample: the
# worst of some thousand.
ROUNDINGS = 4 * 0.5


@dataclass(frozen=True)
class Parallel:
    """Both sweeps with depth in parallel, as a backend of :func:`cotflow.gradient`.

    The sweeps are exact but for the gaps between segments. They end when no gap is larger than what
    the roundings of a segment's layers add up to, 2ε√length of its values: all J gaps together then
    do at most about 4√J times what the sequential sweep's own roundings may do. If a tolerance is
    given, they end when the bound on what the gaps do is below it. The gradient carries what came
    out as ``depth``, a :class:`cotflow.adjoint.sweep.Depth`. Where neither comes, and where σ′
    jumps, the sweep is sequential.

    Parameters
    ----------
    length : layers a segment; None is about √L, and then the coarse net is as deep as a segment.
    tolerance : how much the gaps may add to states and adjoints, relative to the largest of them.
    accepted : where gaps are larger than roundings, the largest bound on the relative error of the
        gradient in V, W and b that is accepted; none is, if A or B is trained.
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
        if self.length is not None:
            whole(self.length, "length: expected at least 1 layer", 1)
        whole(self.sweeps, "sweeps: expected at least 1", 1)
        if self.tolerance is not None:
            real(self.tolerance, "tolerance: expected a number > 0", lambda t: t > 0)
        real(self.accepted, "accepted: expected a number > 0", lambda a: a > 0)

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

        error, p = turn(net, weights, ahead.end.reshape(h0.shape), y)
        p = p.reshape(start.shape)
        back = last_of(backward_sweeps(fine, small, size, p, ahead.values, length), *most)
        if back is None:
            return None

        into, squares = segments.room(fine, weights, h0, factors)
        fine.partials(ahead.values, back.values, 0, factors, into, squares)
        depth = size.report(net, weights, ahead, back, squares, factors)
        # The bound speaks of V, W and b.
        bounded = depth.partials <= self.accepted and not {"A", "B"} & set(net.trained)
        if not (depth.gap <= 1.0 or bounded):
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
        return float(over(self.error, lengths(self.values).amax(1)).max())


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
        lambda starts: fine.forward(starts, 0, L, length),
        foretell,
        start,
        growth,
        length,
        forward=True,
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
        foretell, p, size.before[:, 1:-1].exp(), length, forward=False,
    )  # fmt: skip


def _sweeps(
    carry: Callable[[Tensor], tuple[Tensor | None, Tensor]],
    foretell: Callable[[Tensor | None], Tensor],
    given: Float[Tensor, "runs 1 n q"],
    growth: Float[Tensor, "runs gaps"],
    length: int,
    *,
    forward: bool,
) -> Iterator[Joined]:
    """Parareal: begun_{c+1} = G(begun_c) + source_c, where source_c grows by the gap that segment
    c leaves. Σ_c growth_c |gap_c| bounds the errors of all values."""
    rounding = ROUNDINGS * torch.finfo(given.dtype).eps * length**0.5
    reach, meet = (slice(None, -1), slice(1, None))
    if not forward:
        reach, meet = meet, reach
    near, far = (0, -1) if forward else (-1, 0)
    begun, source = foretell(None).clone(), None
    for count in itertools.count(1):
        begun[:, near] = given[:, 0]
        values, reached = carry(begun)
        gaps = reached[:, reach] - begun[:, meet]
        sizes = lengths(gaps)
        # A gap is small or not beside the values of its own segment, not beside the largest of all.
        ends = torch.maximum(lengths(begun[:, reach]), lengths(reached[:, reach]))
        yield Joined(
            kept(values), reached[:, far], times(sizes, growth.unsqueeze(-1)).sum(1),
            float(over(sizes, ends).max()) / rounding, count,
        )  # fmt: skip
        if source is None:
            source = torch.zeros_like(begun)
        source[:, reach] += gaps
        begun = foretell(source).clone()


def last_of(sweeps: Iterator[Joined], tolerance: float | None, most: int) -> Joined | None:
    """The first that is near enough; None where gaps and what they do get small too slowly."""
    last = math.inf, math.inf
    for found in itertools.islice(sweeps, most):
        left, enough = (found.gap, 1.0) if tolerance is None else (found.relative, tolerance)
        if left <= enough:
            return found
        # In deep nets the gaps start at a few roundings and stay there while their sum still falls.
        now = found.gap, found.relative
        if not any(a < 0.7 * b for a, b in zip(now, last, strict=True)):
            return None
        last = now
    return None


def lengths(values: Float[Tensor, "*shape q"]) -> Float[Tensor, "*shape"]:
    """Euclidean, in double precision: squares of small numbers would vanish."""
    found: Tensor = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)
    return found


def over(small: Tensor, large: Tensor) -> Tensor:
    """small/large; 0/0 is 0."""
    return torch.where(small > 0, small / large, small)


def times(small: Tensor, large: Tensor) -> Tensor:
    """small · large; 0 · ∞ is 0."""
    return torch.where(small > 0, small * large, small)


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

    V = weights.V
    count = torch.full((chunks, 1, 1), float(length), dtype=V.dtype, device=V.device)
    count[-1] = L - (chunks - 1) * length
    return replace(
        weights,
        V=summed(weights.V, 3),
        W=summed(weights.W, 3) / count,
        b=None if weights.b is None else summed(weights.b, 2) / count[..., 0],
    )


def schatten(value: Float[Tensor, "*batch a b"]) -> Float[Tensor, "*batch"]:
    """(Σ_j s_j⁸)^⅛ ≥ s_1 over the singular values: at most 1.42 times the spectral norm of sixteen
    rows, and made of products alone."""
    small = (value if value.shape[-2] <= value.shape[-1] else value.mT).double()
    # Eighth powers leave the range of numbers long before the norm does.
    unit = small.abs().amax((-2, -1), keepdim=True)
    small = small / torch.where(unit > 0, unit, 1.0)
    gram = torch.matmul(small, small.mT)
    fourth: Tensor = torch.linalg.matrix_norm(torch.matmul(gram, gram))
    found: Tensor = fourth.pow(0.25) * unit[..., 0, 0]
    return found


@dataclass(frozen=True)
class Norms:
    """What the weights alone say, in each run, with c = L^{−β} c_m the scale of a layer.

    Attributes
    ----------
    before : Λ_j = Σ_{k<j·length} log(1 + a_k); 1 + a_k is a Lipschitz constant of layer k, with
        a_k = c c_q(α|sym V_kW_k| + δ‖V_k‖‖W_k‖) + ½(c c_q C_σ′‖V_k‖‖W_k‖)², where σ′ lies between
        α − δ and α + δ, and C_σ′ = sup|σ′|.
    V, W, row : ‖V_k‖, ‖W_k‖ and the longest row of W_k.
    bend : Σ_k c c_q² C_σ″ ‖V_k‖‖W_k‖ row_k, C_σ″ = sup|σ″|: of Lipschitz constants of Df_k.
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
        V, W = (value.reshape(-1, *value.shape[-3:]).double() for value in (weights.V, weights.W))
        v, w, row = schatten(V), schatten(W), lengths(W).amax(-1)
        both = torch.matmul(V, W)
        unit = layers.scale * c_q
        middle, half = (sigma.lipschitz + sigma.lowest) / 2, (sigma.lipschitz - sigma.lowest) / 2
        first = middle * schatten(0.5 * (both + both.mT)) + half * v * w
        growth = torch.log1p(unit * first + 0.5 * (unit * sigma.lipschitz * v * w).square())
        last = torch.arange(length, layers.depth + length, length, device=V.device)
        last = last.clamp_max(layers.depth) - 1
        before = torch.nn.functional.pad(growth.cumsum(-1)[:, last], (1, 0))
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
        |Δ∂_{V_k}ℛ| ≤ (c/N)Σ_i(|Δp||σ(z)| + (|p| + |Δp|)C_σ′|Δz|), |Δz| ≤ c_q‖W_k‖|Δh|;
        |Δ∂_{W_k}ℛ| ≤ (c c_q/N)Σ_i(|Δζ||h| + ‖V_k‖C_σ′(|p| + |Δp|)|Δh|), ζ = σ′(z) ⊙ V_kᵀp;
        |Δ∂_{b_k}ℛ| ≤ (c/N)Σ_i|Δζ|, |Δζ| ≤ ‖V_k‖(C_σ′|Δp| + C_σ″c_q row_k|Δh||p|).
        """
        sigma, n, c_q = net.activation, ahead.error.shape[-1], self.input_scale
        B = weights.B.reshape(-1, *weights.B.shape[-2:])
        pull = 2.0 * net.loss_factor * schatten(B).square()
        h, seen, off = lengths(ahead.values).amax(1), lengths(back.values).amax(1), ahead.error
        p = seen + back.error
        grown = self.before[:, -1:].exp() * (pull.unsqueeze(-1) + self.bend.unsqueeze(-1) * p)
        unsure = back.error + times(off, grown)
        states, adjoints = float(over(off, h).max()), float(over(unsure, seen).max())

        V, W, row = (value.unsqueeze(-1) for value in (self.V, self.W, self.row))
        h, p, off, unsure = (value.unsqueeze(1) for value in (h, p, off, unsure))
        K = sigma.lipschitz
        feature = K * c_q * W * h
        at_zero = float(sigma(torch.zeros(1, dtype=torch.float64, device="cpu")))
        feature = feature + abs(at_zero) * math.sqrt(weights.width)
        if weights.b is not None:
            b = weights.b.reshape(-1, *weights.b.shape[-2:])
            feature = feature + K * lengths(b).unsqueeze(-1)
        slope = times(unsure, K * V) + times(off, V * sigma.curvature * c_q * row * p)
        reached = p + unsure
        errors = {
            "V": (times(unsure, feature) + times(off, reached * K * c_q * W)).sum(-1),
            "W": c_q * (times(slope, h) + times(off, V * K * reached)).sum(-1),
            "b": slope.sum(-1),
        }
        total, wrong = squares.sum((1, 2)), torch.zeros_like(h[:, 0, 0])
        right = torch.zeros_like(wrong)
        for name, factor in factors.items():
            unit = abs(factor) ** 0.5 * self.scale / n
            wrong = wrong + (unit * errors[name]).square().sum(-1)
            right = right + total[:, LAYERED.index(name)] / abs(factor)
        partials = over(wrong, right).max().sqrt()
        gap = max(ahead.gap, back.gap)
        bounds = (states, adjoints, float(partials))
        return Depth(
            ahead.sweep, back.sweep, gap, *(math.inf if math.isnan(b) else b for b in bounds)
        )
