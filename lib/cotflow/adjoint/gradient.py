"""Loss and its exact gradient by a hand-written adjoint: discretize first, then differentiate."""

from __future__ import annotations

import contextlib
import math
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint import card, compiled, plain
from cotflow.adjoint.inputs import admitted
from cotflow.adjoint.library import warn
from cotflow.adjoint.parallel import Parallel
from cotflow.adjoint.sweep import Depth, Sweep
from cotflow.network.checks import require_kind
from cotflow.network.numbers import shown
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import LAYERED, Weights

Engine = Callable[..., Sweep]
Backend = Literal["auto", "plain", "compiled", "triton"] | Parallel


@dataclass(frozen=True)
class Gradient:
    """Everything one forward and one backward sweep give.

    Attributes
    ----------
    loss : ℛ, one number a run.
    velocity : −r ∂_θℛ for every trained parameter θ, r from :meth:`ResidualNet.rates`.
    slope_squared : |∂ℛ|² = Σ_θ r |∂_θℛ|², the squared metric slope; dℛ/dt = −|∂ℛ|² along the flow.
    states : h_0..h_L.
    adjoints : p_0..p_L, p_L = 2 c_ℓ Bᵀ(F − y) and p_{k−1} = p_k + L^{−β} ∂₁f(h_{k−1}, Z_k)ᵀ p_k,
        f(h, Z) = c_m V σ(c_q W h + b). The factor 1/N is not in p, as in [M]. With checkpointing
        over depth neither is kept.
    depth : with depth in parallel, how near the sweeps came to the sequential ones.
    """

    loss: Float[Tensor, "*runs"]
    velocity: dict[str, Tensor]
    slope_squared: Float[Tensor, "*runs"]
    states: Float[Tensor, "*runs layers n q"] | None
    adjoints: Float[Tensor, "*runs layers n q"] | None
    depth: Depth | None = None


def gradient(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    backend: Backend = "auto",
    segment: int | None = None,
) -> Gradient:
    """∂_{Z_k}ℛ = (1/(NL^β)) Σ_i ∂₂f(h_{k−1,i}, Z_k)ᵀ p_{k,i}, exact to rounding for every depth.

    The state before a layer meets the adjoint after it; other pairings are off by O(1/L) at β = 1.

    Parameters
    ----------
    x, y : data; they may omit the run axes, and then serve every run, and so may all weights
        together. Everything is of one real dtype on one device; no axis is empty.
    backend : "plain" is the torch loop over layers; "compiled" uses a C kernel built for these
        sizes (CPU, gelu, tanh, relu, identity); "triton" uses Triton's kernels on a CUDA device
        (the same activations); "auto" takes Triton on a card, and on a CPU the C kernel where there
        is a compiler and enough work. All agree to rounding. For very deep smooth nets on a card,
        :class:`cotflow.adjoint.parallel.Parallel` takes all segments of the depth at once.
    segment : checkpointing over depth. Of each segment of so many layers the first state alone is
        kept and the rest made again in the backward sweep: the same gradient, to rounding, for one
        more forward sweep. Memory beside the weights O(N q L/c + N (q + m) c) instead of
        O(N (q + m) L); states and adjoints are then None.

    Raises
    ------
    TypeError, ValueError : arguments that do not fit together, what and what was expected; or a
        loss or a squared slope beyond the range of their precision.

    Source: [M] §3 and appendix; the printed backward recurrence there lacks a transpose.

    >>> from cotflow import gradient, published
    >>> e = published("figure 2", depth=4, seed=0)
    >>> found = gradient(e.net, e.weights, e.x, e.y)
    >>> found.velocity["V"].shape, found.states.shape
    (torch.Size([4, 16, 64]), torch.Size([5, 50, 16]))
    """
    found = evaluated(net, weights, x, y, backend=backend, segment=segment)
    if not _is_finite(found):
        raise ValueError(
            "gradient: expected a loss and a squared slope within the range of "
            f"{str(found.loss.dtype).removeprefix('torch.')}, received "
            f"{found.loss.abs().max():.3g} and {found.slope_squared.max():.3g}"
        )
    return found


def _is_finite(found: Gradient) -> bool:
    """One look in most cases: a sum of finite numbers may be infinite, but not the other way.
    Tensors without numbers, as those of a mode that only traces, are taken as they are."""
    if type(found.loss) is not Tensor or found.loss.is_meta:
        return True
    if math.isfinite(float((found.loss + found.slope_squared).sum())):
        return True
    both = torch.stack([found.loss, found.slope_squared])
    return bool(torch.isfinite(both).all())


@torch.no_grad()
def evaluated(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    backend: Backend = "auto",
    segment: int | None = None,
) -> Gradient:
    """:func:`gradient`, whatever numbers come out."""
    require_kind(net, ResidualNet, "gradient: expected a network such as cotflow.marion_net()")
    require_kind(weights, Weights, "gradient: expected cotflow.Weights")
    weights, x, y, runs = admitted(weights, x, y)
    segment = _layers(segment)
    engine = _engine(backend, net, weights, x)
    _threads.note()
    kind = x.device.type
    # Every number here is of the precision that the arguments have.
    exact = kind != "meta" and torch.is_autocast_enabled(kind)
    with torch.autocast(kind, enabled=False) if exact else contextlib.nullcontext():
        try:
            return _gradient(engine, net, weights, x, y, runs, segment)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(
                f"gradient: {x.device} has not enough memory for depth {weights.depth}, width "
                f"{weights.width}, {x.shape[-2]} samples and {math.prod(runs)} runs: expected "
                "fewer of them, or segment=c, which keeps the state before every c-th layer "
                f"alone, received segment={segment}"
            ) from error


def _gradient(
    engine: Engine,
    net: ResidualNet,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    runs: tuple[int, ...],
    segment: int | None,
) -> Gradient:
    n = x.shape[-2]
    h0 = torch.matmul(x, weights.A.mT)
    if h0.shape[:-2] != runs:
        h0 = h0.expand(*runs, *h0.shape[-2:])
    rates = net.rates(weights)
    factors = {name: -rate for name, rate in rates.items() if name in LAYERED}
    sweep = engine(net, weights, h0, y, factors, segment)
    loss = net.loss_factor * sweep.error.square().sum(-1).mean(-1)
    velocity, squares = dict(sweep.partials), dict(sweep.squares)
    if "A" in rates:
        velocity["A"] = torch.matmul(sweep.first_adjoint.mT, x).mul_(-rates["A"] / n)
    if "B" in rates:
        factor = -2.0 * net.loss_factor * rates["B"] / n
        velocity["B"] = torch.matmul(sweep.error.mT, sweep.last_state).mul_(factor)
    squares |= {name: velocity[name].square().sum((-2, -1)) for name in velocity.keys() - squares}
    slope_squared = torch.zeros_like(loss)
    for name, rate in rates.items():
        slope_squared = slope_squared + squares[name] / rate
    return Gradient(
        loss=loss,
        velocity=velocity,
        slope_squared=slope_squared,
        states=sweep.states,
        adjoints=sweep.adjoints,
        depth=sweep.depth,
    )


def _layers(segment: int | None) -> int | None:
    if segment is None:
        return None
    try:
        layers = operator.index(segment)
    except (TypeError, RuntimeError):
        layers = 0
    if layers < 1:
        raise ValueError(
            f"segment: expected at least 1 layer, a whole number, received {shown(segment)}"
        )
    return layers


class _Threads:
    """Whether this process has used several threads: they do not survive a fork, and OpenMP, in
    torch as in the kernel, waits for them for ever. A child of such a process has one thread."""

    def __init__(self) -> None:
        self._several = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def note(self) -> None:
        self._several = self._several or torch.get_num_threads() > 1

    def _forked(self) -> None:
        if self._several:
            torch.set_num_threads(1)


_threads = _Threads()


def _engine(backend: str | Parallel, net: ResidualNet, weights: Weights, x: Tensor) -> Engine:
    match backend:
        case Parallel():
            return backend
        case "plain":
            return plain.sweep
        case "compiled":
            if not compiled.supports(net, weights, x):
                raise ValueError(
                    "backend 'compiled': expected plain float32 or float64 tensors on the CPU, a "
                    f"state of at most {compiled.LARGEST_STATE}, a width of at most "
                    f"{compiled.LARGEST_WIDTH} and one of the activations "
                    f"{', '.join(a.name for a in compiled.COVERED)}, received {x.dtype} on "
                    f"{x.device} with {net.activation.name}, state {weights.state}, width "
                    f"{weights.width}"
                )
            return compiled.sweep
        case "triton":
            if why := card.obstacle(net, weights, x):
                raise ValueError(f"backend 'triton': there are no kernels for this: {why}")
            return card.sweep
        case "auto":
            if x.device.type != "cuda":
                return compiled.sweep if compiled.available(net, weights, x) else plain.sweep
            if why := card.obstacle(net, weights, x):
                warn(f"the plain torch step is used on {x.device}, which is slower: {why}")
                return plain.sweep
            return card.sweep
    raise ValueError(
        "backend: expected auto, plain, compiled, triton or an object of type Parallel, received "
        f"{shown(backend)}"
    )
