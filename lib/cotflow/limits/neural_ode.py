"""The neural ODE of given weights, by torchdiffeq: an independent check of the layered nets.

>>> import torch
>>> from cotflow import neural_ode
>>> s = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
>>> h0 = torch.ones(5, 2, dtype=torch.float64)  # n = 5 states of dimension q = 2
>>> H = neural_ode.integrate(lambda s, h: 2 * s * h, h0, s).states  # H(s) = e^{s²} H(0)
>>> H.shape
torch.Size([3, 5, 2])
>>> bool((H[-1] - torch.e).abs().max() < 1e-6)
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.limits.depth import interpolate
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


def weight_functions(
    weights: Weights,
) -> tuple[Callable[[float], Tensor], Callable[[float], Tensor]]:
    """(V(s), W(s)), piecewise linear between the layers at s = k/(L−1)."""
    return (
        lambda s: interpolate(weights.V, s),
        lambda s: interpolate(weights.W, s),
    )


@dataclass(frozen=True)
class Trajectory:
    """H at the given s, and how often the right-hand side was evaluated for it."""

    states: Float[Tensor, "times *state"]
    evaluations: int


@torch.no_grad()
def integrate(
    f: Callable[[float, Tensor], Tensor],
    h0: Float[Tensor, "*state"],
    s: Float[Tensor, " times"],
    *,
    tolerance: float | None = None,
    jumps: Sequence[float] | None = None,
) -> Trajectory:
    """∂_sH = f(s, H), H(s_0) = h0, by torchdiffeq's Dormand–Prince 5(4) with adaptive steps.

    Parameters
    ----------
    f : called with s in [0, 1] only; the last step may ask beyond 1 and is given f(1, ·).
    s : at least two, increasing or decreasing, between 0 and 1.
    tolerance : relative and absolute, on the root mean square of all entries; 1e-9 if not given,
        or the resolution of h0's precision where that is coarser, below which it may not be.
    jumps : where f jumps in s: steps end there, and each side sees its own value.

    Raises
    ------
    ValueError : depths, tolerance, jumps or the state are none.
    RuntimeError : the solver's steps vanish, or the solution is not finite.
    """
    tolerance = _require(h0, s, tolerance, jumps)
    from torchdiffeq import odeint

    evaluations = 0

    def velocity(time: Tensor, h: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return f(min(max(float(time), 0.0), 1.0), h)

    options = (
        {}
        if jumps is None
        else {"jump_t": torch.as_tensor(jumps, dtype=torch.float64, device=h0.device)}
    )
    times = s.to(h0)
    states: Tensor
    try:
        states = odeint(
            velocity, h0, times, rtol=tolerance, atol=tolerance, method="dopri5", options=options
        )
    except AssertionError as stopped:  # torchdiffeq's own checks of its steps and states
        raise RuntimeError(
            f"neural ODE: expected a finite solution at tolerance {tolerance:g}, received "
            f"{str(stopped).splitlines()[0][:80]} after {evaluations} evaluations"
        ) from stopped
    if not bool(torch.isfinite(states).all()):
        first = next(k for k, h in enumerate(states) if not bool(torch.isfinite(h).all()))
        raise RuntimeError(
            f"neural ODE: expected a finite solution, received one that is not at s = {s[first]:g}"
        )
    return Trajectory(states=states, evaluations=evaluations)


def _require(
    h0: Tensor, s: Tensor, tolerance: float | None, jumps: Sequence[float] | None
) -> float:
    """The tolerance, where depths, tolerance, jumps and state are what they must be."""
    if not h0.is_floating_point() or not h0.numel() or not bool(torch.isfinite(h0).all()):
        raise ValueError(
            "neural ODE: expected a state of finite real numbers, at least one, received "
            f"{str(h0.dtype).removeprefix('torch.')} of shape {tuple(h0.shape)} with "
            f"{int((~torch.isfinite(h0)).sum())} that are not finite"
        )
    moves = s.to(h0).diff() if s.ndim == 1 else s
    if not (
        s.ndim == 1
        and len(s) > 1
        and bool(((s >= 0) & (s <= 1)).all())
        and (bool((moves > 0).all()) or bool((moves < 0).all()))
    ):
        raise ValueError(
            "neural ODE: expected at least two depths between 0 and 1, all increasing or all "
            f"decreasing, received {_short(s)}"
        )
    if jumps is not None and not all(0.0 <= jump <= 1.0 for jump in jumps):
        raise ValueError(f"neural ODE: expected jumps between 0 and 1, received {list(jumps)}")
    rounding = torch.finfo(h0.dtype).eps
    if tolerance is None:
        return max(1e-9, rounding)
    if not rounding <= tolerance < math.inf:
        raise ValueError(
            f"neural ODE: expected a tolerance of at least {rounding:.2g}, the resolution of "
            f"{str(h0.dtype).removeprefix('torch.')}, received {tolerance:g}"
        )
    return tolerance


def _short(s: Tensor) -> str:
    values = s.flatten().tolist()
    return str(values) if len(values) <= 8 else f"{values[:4]}… of shape {tuple(s.shape)}"


@torch.no_grad()
def solve(
    net: ResidualNet,
    V: Callable[[float], Tensor],
    W: Callable[[float], Tensor],
    h0: Float[Tensor, "*runs n q"],
    s: Float[Tensor, " times"],
    *,
    tolerance: float | None = None,
) -> Float[Tensor, "times *runs n q"]:
    """∂_sH = c_m V(s) σ(c_q W(s) H), H(0) = h0, at the given s ([M] Thm 4 (iii)).

    Depths, tolerance and errors as in :func:`integrate`, which does it. Only nets of depth
    exponent 1 and without bias have this limit here.
    """
    if net.depth_exponent != 1.0:
        raise ValueError(f"neural ODE: expected depth_exponent 1, received {net.depth_exponent}")

    def velocity(at: float, h: Tensor) -> Tensor:
        v, w = V(at), W(at)
        z = torch.matmul(h, w.mT) * net.input_scale(w.shape[-1])
        return torch.matmul(net.activation(z), v.mT) * net.residual_scale(1, v.shape[-1])

    return integrate(velocity, h0, s, tolerance=tolerance).states


def sample_layers(
    depth: int, V: Callable[[float], Tensor], W: Callable[[float], Tensor]
) -> tuple[Tensor, Tensor]:
    """(V(k/L), W(k/L)) for k = 1..L, stacked on the layer axis ([M] Prop. 2)."""
    at = [k / depth for k in range(1, depth + 1)]
    return torch.stack([V(s) for s in at], dim=-3), torch.stack([W(s) for s in at], dim=-3)
