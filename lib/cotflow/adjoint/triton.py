"""The same sweeps by Triton kernels that stay on the card through all layers of a segment.

One program carries a block of samples of one run through the layers, so that a sweep is one launch
whatever the depth. Weight gradients are sums over samples, layer by layer: a program sums all of
its layer's, nothing is added by several at once, and a result repeats bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.elementary import DOUBLE, SINGLE
from cotflow.network.activations import COVERED
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import LAYERED, Weights

# A tile of a product has at least so many rows and columns.
SMALLEST = 16
# The kernels' constants, which have to be names of the module: S_… single, D_… double precision.
S_LOG2E = tl.constexpr(SINGLE.log2e)
S_SHIFT = tl.constexpr(SINGLE.shift)
S_LN2_HIGH = tl.constexpr(SINGLE.ln2_high)
S_LN2_LOW = tl.constexpr(SINGLE.ln2_low)
S_MANTISSA = tl.constexpr(SINGLE.mantissa)
S_TAIL_END = tl.constexpr(SINGLE.tail_end)
S_DENSITY = tl.constexpr(SINGLE.density)
S_TANH_END = tl.constexpr(SINGLE.tanh_end)
S_UNIT = tl.constexpr(SINGLE.unit)
S_SCALE = tl.constexpr(SINGLE.scale_bits << SINGLE.mantissa)
S_HEAD = tl.constexpr(SINGLE.head - (1 << 32))
S_SERIES = tl.constexpr(SINGLE.series)
S_SERIES_SIZE = tl.constexpr(len(SINGLE.series))
S_TAIL_TOP = tl.constexpr(SINGLE.tail_top)
S_TAIL_TOP_SIZE = tl.constexpr(len(SINGLE.tail_top))
S_TAIL_BOTTOM = tl.constexpr(SINGLE.tail_bottom)
S_TAIL_BOTTOM_SIZE = tl.constexpr(len(SINGLE.tail_bottom))
D_LOG2E = tl.constexpr(DOUBLE.log2e)
D_SHIFT = tl.constexpr(DOUBLE.shift)
D_LN2_HIGH = tl.constexpr(DOUBLE.ln2_high)
D_LN2_LOW = tl.constexpr(DOUBLE.ln2_low)
D_MANTISSA = tl.constexpr(DOUBLE.mantissa)
D_TAIL_END = tl.constexpr(DOUBLE.tail_end)
D_DENSITY = tl.constexpr(DOUBLE.density)
D_TANH_END = tl.constexpr(DOUBLE.tanh_end)
D_UNIT = tl.constexpr(DOUBLE.unit)
D_SCALE = tl.constexpr(DOUBLE.scale_bits << DOUBLE.mantissa)
D_HEAD = tl.constexpr(DOUBLE.head - (1 << 64))
D_SERIES = tl.constexpr(DOUBLE.series)
D_SERIES_SIZE = tl.constexpr(len(DOUBLE.series))
D_TAIL_TOP = tl.constexpr(DOUBLE.tail_top)
D_TAIL_TOP_SIZE = tl.constexpr(len(DOUBLE.tail_top))
D_TAIL_BOTTOM = tl.constexpr(DOUBLE.tail_bottom)
D_TAIL_BOTTOM_SIZE = tl.constexpr(len(DOUBLE.tail_bottom))


@triton.jit
@no_type_check
def _tile(base, i, j, stride, I: tl.constexpr, J: tl.constexpr, whole: tl.constexpr):
    """Rows i and columns j of an I × J matrix, 0 outside."""
    at = base + i[:, None] * stride + j[None, :]
    if whole:
        return tl.load(at)
    else:
        return tl.load(at, mask=(i < I)[:, None] & (j < J)[None, :], other=0.0)


@triton.jit
@no_type_check
def _put(base, value, i, j, stride, I, J: tl.constexpr):
    at = base + i[:, None] * stride + j[None, :]
    tl.store(at, value, mask=(i < I)[:, None] & (j < J)[None, :])


@triton.jit
@no_type_check
def _polynomial(x, square, c: tl.constexpr, n: tl.constexpr):
    """Σ_i c_i x^{n−1−i} as even(x²) + x · odd(x²)."""
    evens = tl.full(square.shape, c[(n - 1) % 2], square.dtype)
    odds = tl.full(square.shape, c[n % 2], square.dtype)
    for i in tl.static_range((n - 1) % 2 + 2, n, 2):
        evens = evens * square + c[i]
    for i in tl.static_range(n % 2 + 2, n, 2):
        odds = odds * square + c[i]
    return odds * x + evens


@triton.jit
@no_type_check
def _exponential(x, low, about):
    """m and 2^{k+o}, where exp(x + low) = 2^k (1 + m)."""
    if x.dtype == tl.float64:
        shifted = about * D_LOG2E + D_SHIFT
        k = shifted - D_SHIFT
        r = ((x - k * D_LN2_HIGH) - k * D_LN2_LOW) + low
        word = (shifted.to(tl.int64, bitcast=True) << D_MANTISSA) + D_SCALE
        series = _polynomial(r, r * r, D_SERIES, D_SERIES_SIZE)
    else:
        shifted = about * S_LOG2E + S_SHIFT
        k = shifted - S_SHIFT
        r = ((x - k * S_LN2_HIGH) - k * S_LN2_LOW) + low
        word = (shifted.to(tl.int32, bitcast=True) << S_MANTISSA) + S_SCALE
        series = _polynomial(r, r * r, S_SERIES, S_SERIES_SIZE)
    return r + r * r * series, word.to(x.dtype, bitcast=True)


@triton.jit
@no_type_check
def _normal(z):
    """Φ(z), and z times the density."""
    size = tl.abs(z)
    if z.dtype == tl.float64:
        a = tl.where(size > D_TAIL_END, D_TAIL_END, size)
        h = (a.to(tl.int64, bitcast=True) & D_HEAD).to(tl.float64, bitcast=True)
        top = _polynomial(a, a * a, D_TAIL_TOP, D_TAIL_TOP_SIZE)
        bottom = _polynomial(a, a * a, D_TAIL_BOTTOM, D_TAIL_BOTTOM_SIZE)
    else:
        a = tl.where(size > S_TAIL_END, S_TAIL_END, size)
        h = (a.to(tl.int32, bitcast=True) & S_HEAD).to(tl.float32, bitcast=True)
        top = _polynomial(a, a * a, S_TAIL_TOP, S_TAIL_TOP_SIZE)
        bottom = _polynomial(a, a * a, S_TAIL_BOTTOM, S_TAIL_BOTTOM_SIZE)
    m, scale = _exponential(-0.5 * (h * h), -0.5 * ((a - h) * (a + h)), -0.5 * (a * a))
    bell = scale + scale * m
    tail = bell * top / bottom
    density = D_DENSITY if z.dtype == tl.float64 else S_DENSITY
    moment = tl.where(z < 0, -a, a) * bell * density
    return tl.where(z < 0, tail, 1.0 - tail), moment


@triton.jit
@no_type_check
def _tanh(z):
    """tanh and its derivative."""
    size = tl.abs(z)
    end = D_TANH_END if z.dtype == tl.float64 else S_TANH_END
    unit = D_UNIT if z.dtype == tl.float64 else S_UNIT
    x = -2.0 * tl.where(size > end, end, size)
    m, scale = _exponential(x, tl.zeros(x.shape, x.dtype), x)
    s = scale * unit
    less = s * m + (s - 1.0)
    u = 1.0 / (2.0 + less)
    slope = (4.0 * u * u) * ((scale + scale * m) * unit)
    value = -less * u
    return tl.where(z < 0, -value, value), slope


@triton.jit
@no_type_check
def _value(z, KIND: tl.constexpr):
    """σ(z)."""
    if KIND == 0:
        cdf, _ = _normal(z)
        return z * cdf
    elif KIND == 1:
        value, _ = _tanh(z)
        return value
    elif KIND == 2:
        return tl.where(z <= 0, 0.0, z)
    else:
        return z


@triton.jit
@no_type_check
def _slope(z, KIND: tl.constexpr):
    """σ′(z)."""
    if KIND == 0:
        cdf, moment = _normal(z)
        return cdf + moment
    elif KIND == 1:
        _, slope = _tanh(z)
        return slope
    elif KIND == 2:
        return tl.where(z > 0, 1.0, 0.0).to(z.dtype)
    else:
        return tl.full(z.shape, 1.0, z.dtype)


@triton.jit
@no_type_check
def _states(base, q, i, n, Q: tl.constexpr, whole: tl.constexpr):
    """Samples i of an (n, Q) array, as columns."""
    at = base + i[None, :] * Q + q[:, None]
    if whole:
        return tl.load(at, mask=(i < n)[None, :], other=0.0)
    else:
        return tl.load(at, mask=(i < n)[None, :] & (q < Q)[:, None], other=0.0)


@triton.jit
@no_type_check
def _keep(base, value, q, i, n, Q: tl.constexpr, whole: tl.constexpr):
    at = base + i[None, :] * Q + q[:, None]
    if whole:
        tl.store(at, value, mask=(i < n)[None, :])
    else:
        tl.store(at, value, mask=(i < n)[None, :] & (q < Q)[:, None])


@triton.jit
@no_type_check
def _high(a):
    """The nearest number with eleven significant bits: what a tensor core multiplies."""
    return ((a.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def _product(a, b, PRECISION: tl.constexpr):
    """ab; in single precision by tensor cores, each factor in two parts of eleven bits."""
    if PRECISION == "split":
        a_high, b_high = _high(a), _high(b)
        total = tl.dot(a - a_high, b_high, input_precision="tf32")
        total = tl.dot(a_high, b - b_high, acc=total, input_precision="tf32")
        return tl.dot(a_high, b_high, acc=total, input_precision="tf32")
    else:
        return tl.dot(a, b, input_precision=PRECISION, out_dtype=a.dtype)


@triton.jit
@no_type_check
def _before(W, h, bias, c_q, HAS_B: tl.constexpr, PRECISION: tl.constexpr):
    """z = c_q W h + b, samples as columns."""
    z = _product(W, h, PRECISION) * c_q
    if HAS_B:
        z += bias[:, None]
    return z


@triton.jit(do_not_specialize=["n", "first", "last", "length", "chunks", "kept", "every"])
@no_type_check
def _forward(
    starts, W, V, b, W_run, V_run, b_run, source, states, ends, numbers, n, first, last, length,
    chunks, kept, every,
    Q: tl.constexpr, M: tl.constexpr, QP: tl.constexpr, MB: tl.constexpr, ROWS: tl.constexpr,
    KIND: tl.constexpr, HAS_B: tl.constexpr, HAS_SOURCE: tl.constexpr, EVERY: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Layers first + chunk·length … of one chunk, for a block of samples of a run."""
    exact: tl.constexpr = QP == Q and M % MB == 0
    scale, c_q = tl.load(numbers), tl.load(numbers + 1)
    blocks = tl.cdiv(n, ROWS)
    block = tl.program_id(0) % blocks
    chunk = tl.program_id(0) // blocks % chunks
    run = (tl.program_id(0) // blocks // chunks).to(tl.int64)
    i, q, u = block * ROWS + tl.arange(0, ROWS), tl.arange(0, QP), tl.arange(0, MB)
    here = (run * chunks + chunk) * n * Q
    h = _states(starts + here, q, i, n, Q, QP == Q)
    low = first + chunk * length
    high = tl.minimum(low + length, last)
    for k in tl.range(low, high, num_stages=STAGES):
        after = h
        for part in range(0, (M + MB - 1) // MB):
            m = part * MB + u
            w = _tile(W + run * W_run + k * (M * Q), m, q, Q, M, Q, exact)
            v = _tile(V + run * V_run + k * (M * Q), q, m, M, Q, M, exact)
            bias = u * 0.0
            if HAS_B:
                bias = tl.load(b + run * b_run + k * M + m, mask=m < M, other=0.0)
            after += scale * _product(
                v, _value(_before(w, h, bias, c_q, HAS_B, PRECISION), KIND), PRECISION
            )
        h = after
        if HAS_SOURCE:
            h += _states(source + (run * (last - first) + k - first) * n * Q, q, i, n, Q, QP == Q)
        if EVERY == 1:
            _keep(states + (run * kept + k - first + 1) * n * Q, h, q, i, n, Q, QP == Q)
        elif EVERY == 2:  # noqa: SIM102
            if (k - first + 1) % every == 0:
                at = run * kept + (k - first + 1) // every
                _keep(states + at * n * Q, h, q, i, n, Q, QP == Q)
    _keep(ends + here, h, q, i, n, Q, QP == Q)


@triton.jit(do_not_specialize=["n", "first", "last", "length", "chunks", "kept"])
@no_type_check
def _backward(
    ends, W, V, b, W_run, V_run, b_run, source, states, adjoints, starts, numbers, n, first, last,
    length, chunks, kept,
    Q: tl.constexpr, M: tl.constexpr, QP: tl.constexpr, MB: tl.constexpr, ROWS: tl.constexpr,
    KIND: tl.constexpr, HAS_B: tl.constexpr, HAS_SOURCE: tl.constexpr, KEEP: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """p_{k−1} = p_k + α Wᵀ(σ′ ⊙ Vᵀp_k), from a chunk's last layer to its first."""
    exact: tl.constexpr = QP == Q and M % MB == 0
    c_q = tl.load(numbers + 1)
    alpha = tl.load(numbers) * c_q
    blocks = tl.cdiv(n, ROWS)
    block = tl.program_id(0) % blocks
    chunk = tl.program_id(0) // blocks % chunks
    run = (tl.program_id(0) // blocks // chunks).to(tl.int64)
    i, q, u = block * ROWS + tl.arange(0, ROWS), tl.arange(0, QP), tl.arange(0, MB)
    here = (run * chunks + chunk) * n * Q
    p = _states(ends + here, q, i, n, Q, QP == Q)
    low = first + chunk * length
    high = tl.minimum(low + length, last)
    for back in tl.range(0, high - low, num_stages=STAGES):
        k = high - 1 - back
        h = _states(states + (run * kept + k - first) * n * Q, q, i, n, Q, QP == Q)
        before = p
        for part in range(0, (M + MB - 1) // MB):
            m = part * MB + u
            w = _tile(W + run * W_run + k * (M * Q), m, q, Q, M, Q, exact)
            v = _tile(V + run * V_run + k * (M * Q), q, m, M, Q, M, exact)
            bias = u * 0.0
            if HAS_B:
                bias = tl.load(b + run * b_run + k * M + m, mask=m < M, other=0.0)
            slope = _slope(_before(w, h, bias, c_q, HAS_B, PRECISION), KIND)
            slope *= _product(tl.trans(v), p, PRECISION)
            before += alpha * _product(tl.trans(w), slope, PRECISION)
        p = before
        if HAS_SOURCE:
            p += _states(source + (run * (last - first) + k - first) * n * Q, q, i, n, Q, QP == Q)
        if KEEP:
            _keep(adjoints + (run * kept + k - first) * n * Q, p, q, i, n, Q, QP == Q)
    _keep(starts + here, p, q, i, n, Q, QP == Q)


@triton.jit(do_not_specialize=["n", "first", "last", "L", "kept"])
@no_type_check
def _partials(
    states, adjoints, W, V, b, W_run, V_run, b_run, grad_V, grad_W, grad_b, squares, numbers, n,
    first, last, L, kept,
    Q: tl.constexpr, M: tl.constexpr, QP: tl.constexpr, MB: tl.constexpr, ROWS: tl.constexpr,
    KIND: tl.constexpr, HAS_B: tl.constexpr, WITH_V: tl.constexpr, WITH_W: tl.constexpr,
    WITH_B: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The weight gradients of one layer, or of MB of its features, and their squares."""
    exact: tl.constexpr = QP == Q and M % MB == 0
    parts: tl.constexpr = (M + MB - 1) // MB
    c_q = tl.load(numbers + 1)
    part = tl.program_id(0) % parts
    at = tl.program_id(0) // parts % (last - first)
    run = (tl.program_id(0) // parts // (last - first)).to(tl.int64)
    k = first + at
    q, m = tl.arange(0, QP), part * MB + tl.arange(0, MB)
    w = _tile(W + run * W_run + k * (M * Q), m, q, Q, M, Q, exact)
    v = tl.trans(_tile(V + run * V_run + k * (M * Q), q, m, M, Q, M, exact))
    bias = m * 0.0
    if HAS_B:
        bias = tl.load(b + run * b_run + k * M + m, mask=m < M, other=0.0)
    sum_V = tl.zeros((QP, MB), dtype=w.dtype)
    sum_W = tl.zeros((MB, QP), dtype=w.dtype)
    sum_b = tl.zeros((MB,), dtype=w.dtype)
    for r in tl.range(0, n, ROWS, num_stages=STAGES):
        i = r + tl.arange(0, ROWS)
        h = _states(states + (run * kept + at) * n * Q, q, i, n, Q, QP == Q)
        p = _states(adjoints + (run * kept + at + 1) * n * Q, q, i, n, Q, QP == Q)
        z = _before(w, h, bias, c_q, HAS_B, PRECISION)
        if WITH_V:
            sum_V += _product(p, tl.trans(_value(z, KIND)), PRECISION)
        if WITH_W or WITH_B:
            t = _slope(z, KIND) * _product(v, p, PRECISION)
            if WITH_W:
                sum_W += _product(t, tl.trans(h), PRECISION)
            if WITH_B:
                sum_b += tl.sum(t, 1)
    found = squares + ((run * L + k) * parts + part) * 3
    if WITH_V:
        sum_V *= tl.load(numbers + 2)
        _put(grad_V + (run * L + k) * (M * Q), sum_V, q, m, M, Q, M)
        tl.store(found, tl.sum(tl.sum((sum_V * sum_V).to(tl.float64), 1), 0))
    if WITH_W:
        sum_W *= tl.load(numbers + 3)
        _put(grad_W + (run * L + k) * (M * Q), sum_W, m, q, Q, M, Q)
        tl.store(found + 1, tl.sum(tl.sum((sum_W * sum_W).to(tl.float64), 1), 0))
    if WITH_B:
        sum_b *= tl.load(numbers + 4)
        tl.store(grad_b + (run * L + k) * M + m, sum_b, mask=m < M)
        tl.store(found + 2, tl.sum((sum_b * sum_b).to(tl.float64), 0))


@dataclass(frozen=True)
class Launch:
    """How sweeps are cut: samples a program and its warps."""

    rows: int
    warps: int


# Few programs: the latency of a layer counts, and each gets as little to do as a product allows.
# Many: they hide each other's latency, and more samples share the work on a layer's weights.
FEW, MANY = Launch(rows=8, warps=2), Launch(rows=16, warps=1)
# Features that a product takes at once, and stages of the loop over layers: loads run ahead.
FEATURES, STAGES = 64, 3


def _power(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


@functools.lru_cache(maxsize=64)
def _on_card(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)


@functools.cache
def _enough(device: torch.device) -> int:
    """Programs that fill the card."""
    if device.type != "cuda":
        return 1
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count


class Layers:
    """The layers on the card; see :class:`cotflow.adjoint.segments.Layers`."""

    def __init__(self, net: ResidualNet, weights: Weights) -> None:
        def flat(value: Tensor, axes: int) -> Tensor:
            return value.reshape(-1, *value.shape[-axes:]).contiguous()

        self.V, self.W = flat(weights.V, 3), flat(weights.W, 3)
        self.b = None if weights.b is None else flat(weights.b, 2)
        self.depth, self.scale = weights.depth, net.residual_scale(weights.depth, weights.width)
        self.input_scale = net.input_scale(weights.state)
        features = min(FEATURES, _power(weights.width))
        self.parts = -(-weights.width // features)
        self._constants: dict[str, object] = {
            "Q": weights.state, "M": weights.width, "QP": _power(weights.state), "MB": features,
            "KIND": COVERED.index(net.activation), "HAS_B": self.b is not None,
            # Three products of tensor cores are as exact as one in single precision.
            "PRECISION": "split" if self.V.dtype == torch.float32 else "ieee",
        }  # fmt: skip

    def _launch(self, like: Tensor) -> tuple[int, dict[str, object]]:
        """Programs for (runs, chunks, n, q), and how they are cut."""
        runs, chunks, n, _ = like.shape
        many = -(-n // FEW.rows) * chunks * runs >= _enough(like.device)
        cut = MANY if many else FEW
        options = {"ROWS": cut.rows, "num_warps": cut.warps, "STAGES": STAGES}
        return -(-n // cut.rows) * chunks * runs, self._constants | options

    def _weights(self) -> tuple[Tensor | int, ...]:
        """W, V and b, and how far apart two runs are in each: 0 where one serves all."""
        found = (self.W, self.V, self.V if self.b is None else self.b)
        return *found, *(v.stride(0) if len(v) > 1 else 0 for v in found)

    def _numbers(self, like: Tensor, *factors: float) -> Tensor:
        """Triton passes numbers in single precision, and memory as it is."""
        return _on_card((self.scale, self.input_scale, *factors), like.dtype, like.device)

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
        runs, chunks, n, q = starts.shape
        starts, ends = starts.contiguous(), torch.empty_like(starts)
        kept = (last - first) // every + 1 if every else 0
        states = starts.new_empty(runs, kept, n, q) if kept else None
        if states is not None:
            states[:, 0] = starts[:, 0]
        programs, options = self._launch(starts)
        _forward[(programs,)](
            starts, *self._weights(), starts if source is None else source.contiguous(),
            starts if states is None else states, ends, self._numbers(starts), n, first, last,
            length, chunks, kept, max(every, 1),
            HAS_SOURCE=source is not None, EVERY=min(every, 2), **options,
        )  # fmt: skip
        return states, ends

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
        ends, states = ends.contiguous(), states.contiguous()
        starts = torch.empty_like(ends)
        adjoints = torch.empty_like(states) if keep else None
        if adjoints is not None:
            adjoints[:, last - first] = ends[:, -1]
        programs, options = self._launch(ends)
        _backward[(programs,)](
            ends, *self._weights(), ends if source is None else source.contiguous(), states,
            ends if adjoints is None else adjoints, starts, self._numbers(ends), ends.shape[2],
            first, last, length, ends.shape[1], states.shape[1],
            HAS_SOURCE=source is not None, KEEP=keep, **options,
        )  # fmt: skip
        return adjoints, starts

    def partials(
        self,
        states: Float[Tensor, "runs values n q"],
        adjoints: Float[Tensor, "runs values n q"],
        first: int,
        factors: Mapping[str, float],
        into: Mapping[str, Tensor],
        squares: Float[Tensor, "runs L parts 3"],
    ) -> None:
        runs, kept, n, _ = states.shape
        unit = self.scale / n
        units = {"V": unit, "W": unit * self.input_scale, "b": unit}
        numbers = self._numbers(states, *(factors.get(name, 0.0) * units[name] for name in LAYERED))
        _partials[(self.parts * (kept - 1) * runs,)](
            states.contiguous(), adjoints.contiguous(), *self._weights(),
            *(into.get(name, states) for name in LAYERED), squares, numbers, n, first,
            first + kept - 1, self.depth, kept,
            WITH_V="V" in into, WITH_W="W" in into, WITH_B="b" in into,
            ROWS=MANY.rows, num_warps=MANY.warps, STAGES=1, **self._constants,
        )  # fmt: skip
