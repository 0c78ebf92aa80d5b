"""Ways to make one training step of the published network, for the benchmarks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from cotflow.adjoint.gradient import evaluated
from cotflow.adjoint.parallel import Parallel
from cotflow.network.published import Experiment
from cotflow.network.weights import Weights

# Layers that torch.compile takes at once: with more it takes minutes.
BLOCK = 32


def ours(
    e: Experiment, backend: str | Parallel, segment: int | None = None
) -> Callable[[], Weights]:
    return lambda: e.weights.plus(
        evaluated(e.net, e.weights, e.x, e.y, backend=backend, segment=segment).velocity, 1e-2
    )


def captured(step: Callable[[], object]) -> Callable[[], None]:
    """The launches of a step on a CUDA device, recorded once and replayed as one graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def textbook(
    e: Experiment, transform: Callable[[Callable], Callable] = lambda layers: layers
) -> Callable[[], None]:
    """A loop over layers under autograd, one parameter a layer, and SGD: common practice."""
    V = [v.T.clone().requires_grad_() for v in e.weights.V]
    W = [w.T.clone().requires_grad_() for w in e.weights.W]
    optimizer = torch.optim.SGD(V + W, lr=1e-2 * len(V))
    depth = len(V)

    def layers(
        h: torch.Tensor, V: Sequence[torch.Tensor], W: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        for v, w in zip(V, W, strict=True):
            h = h + F.gelu(h @ w) @ v / depth
        return h

    advance = transform(layers)

    def step() -> None:
        h = e.x
        for first in range(0, depth, BLOCK):
            h = advance(h, V[first : first + BLOCK], W[first : first + BLOCK])
        optimizer.zero_grad()
        (h - e.y).square().mean().backward()
        optimizer.step()

    return step


def compiled_loop(e: Experiment) -> Callable[[], None] | None:
    """The textbook loop under ``torch.compile``, where that works: BLOCK layers are a program."""
    step = textbook(e, torch.compile)
    try:
        step()
    except Exception as error:  # whatever its compilers raise
        warnings.warn(f"torch.compile is not compared: {str(error).splitlines()[0]}", stacklevel=2)
        return None
    return step


def diffeq(e: Experiment, solve: Callable) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """torchdiffeq's fixed-step Euler with weights constant on each of L steps."""
    depth = e.weights.depth

    class Field(torch.nn.Module):
        # Steps start at the breakpoints k/L, where the layer is the one that lies ahead.
        ahead = 0.5

        def __init__(self):
            super().__init__()
            self.V = torch.nn.Parameter(e.weights.V.clone())
            self.W = torch.nn.Parameter(e.weights.W.clone())

        def forward(self, s, h):
            layer = min(max(int(float(s.detach()) * depth + self.ahead), 0), depth - 1)
            return F.gelu(h @ self.W[layer].T) @ self.V[layer].T

    field, ends = Field(), torch.tensor([0.0, 1.0], dtype=e.x.dtype)
    optimizer = torch.optim.SGD(field.parameters(), lr=1e-2 * depth)

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        field.zero_grad()
        field.ahead = 0.5
        h = solve(field, e.x, ends, method="euler", options={"step_size": 1.0 / depth})[-1]
        loss = (h - e.y).square().mean()
        field.ahead = -0.5
        loss.backward()
        optimizer.step()
        return field.V.grad, field.W.grad

    return step


def jitted_scan(e: Experiment) -> Callable[[], object] | None:
    """The same step as a ``lax.scan`` under ``jit`` in JAX, where JAX is installed."""
    try:
        import jax
    except ImportError:
        return None
    jnp, depth = jax.numpy, e.weights.depth
    V, W, x, y = (jnp.asarray(t.numpy()) for t in (e.weights.V.mT, e.weights.W.mT, e.x, e.y))

    def loss(V, W):
        def layer(h, vw):
            return h + jax.nn.gelu(h @ vw[1], approximate=False) @ vw[0] / depth, None

        return jnp.square(jax.lax.scan(layer, x, (V, W))[0] - y).mean()

    @jax.jit
    def step(V, W):
        gV, gW = jax.grad(loss, argnums=(0, 1))(V, W)
        return V - 1e-2 * depth * gV, W - 1e-2 * depth * gW

    return lambda: jax.block_until_ready(step(V, W))


def floor(e: Experiment) -> Callable[[], None]:
    """The six matrix products of a step and one pass over every byte it must read or write."""
    h = e.x.expand(e.weights.depth, *e.x.shape).contiguous()
    V, W = e.weights.V, e.weights.W
    a = torch.matmul(h, W.mT)
    values = 3 * (V.numel() + W.numel()) + 2 * (a.numel() + h.numel()) * 2
    source, target = (
        torch.empty(values // 2, dtype=h.dtype),
        torch.empty(values // 2, dtype=h.dtype),
    )
    source.zero_()

    def products() -> None:
        torch.bmm(h, W.mT)
        torch.bmm(a, V.mT)
        torch.bmm(h, V)
        torch.bmm(a, W)
        torch.bmm(h.mT, a)
        torch.bmm(a.mT, h)
        target.copy_(source)

    return products
