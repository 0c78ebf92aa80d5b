"""The neural ODE of given weights, by torchdiffeq: an independent check of the layered nets.

>>> import torch
>>> from cotflow import neural_ode
>>> s = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
>>> h0 = torch.ones(5, 2, dtype=torch.float64)  # N = 5 states of dimension q = 2
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
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.limits.depth import interpolate
from cotflow.network.checks import kind, require_kind, require_tensor, require_values
from cotflow.network.numbers import real, shown
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


# A step has six evaluations; more than two steps of them at one place lead nowhere.
STAYS = 12


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
    require_function("f", f)
    tolerance = _require(h0, s, tolerance)
    from torchdiffeq import odeint

    evaluations, stays, before = 0, 0, math.nan
    rounding = torch.finfo(h0.dtype).eps

    def velocity(time: Tensor, h: Tensor) -> Tensor:
        nonlocal evaluations, stays, before
        evaluations += 1
        now, near = float(time), 4.0 * rounding * max(abs(before), rounding)
        stays, before = (stays + 1 if abs(now - before) <= near else 0), now
        # What torchdiffeq asserts as well, and python -O leaves out: else it would go on for ever.
        if stays > STAYS or not math.isfinite(before):
            raise AssertionError(f"no step onwards from s = {before:.6g}")
        found = f(min(max(float(time), 0.0), 1.0), h)
        if not isinstance(found, Tensor) or found.shape != h.shape or found.is_complex():
            raise ValueError(
                f"neural ODE: expected a right-hand side of shape {tuple(h.shape)}, received "
                f"{shown(found)}"
            )
        return found

    options = (
        {}
        if jumps is None
        else {"jump_t": torch.as_tensor(_jumps(jumps), dtype=torch.float64, device=h0.device)}
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


def require_function(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"neural ODE: expected a function {name} of s, received {kind(value)}")


def _require(h0: Tensor, s: Tensor, tolerance: float | None) -> float:
    """The tolerance, where depths, tolerance and state are what they must be."""
    for name, value in (("h0", h0), ("s", s)):
        require_values(value, f"neural ODE: expected a torch tensor for {name}")
    if not h0.is_floating_point() or not h0.numel() or not bool(torch.isfinite(h0).all()):
        raise ValueError(
            "neural ODE: expected a state of finite real numbers, at least one, received "
            f"{str(h0.dtype).removeprefix('torch.')} of shape {tuple(h0.shape)} with "
            f"{int((~torch.isfinite(h0)).sum())} that are not finite"
        )
    if s.is_complex():
        raise ValueError(f"neural ODE: expected real depths, received {s.dtype}")
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
    rounding = torch.finfo(h0.dtype).eps
    if tolerance is None:
        return max(1e-9, rounding)
    return real(
        tolerance,
        f"neural ODE: expected a tolerance of at least {rounding:.2g}, the resolution of "
        f"{str(h0.dtype).removeprefix('torch.')}",
        lambda t: rounding <= t < math.inf,
    )


def _jumps(jumps: Any) -> list[float]:
    """Different places between 0 and 1, in plain numbers."""
    expected = "neural ODE: expected jumps between 0 and 1"
    try:
        given = list(jumps)
    except TypeError:
        raise ValueError(f"{expected}, received {shown(jumps)}") from None
    try:
        found = [real(jump, expected, lambda at: 0.0 <= at <= 1.0) for jump in given]
    except ValueError:
        raise ValueError(f"{expected}, received {shown(given)}") from None
    if len(set(found)) < len(found):
        raise ValueError(f"{expected}, each once, received {shown(given)}")
    return found


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
    require_kind(net, ResidualNet, "neural ODE: expected a network such as marion_net()")
    for name, function in (("V", V), ("W", W)):
        require_function(name, function)
    if net.depth_exponent != 1.0:
        raise ValueError(f"neural ODE: expected depth_exponent 1, received {net.depth_exponent}")

    require_values(h0, "neural ODE: expected a torch tensor for h0")
    if h0.ndim < 2:
        raise ValueError(
            f"neural ODE: expected h0 of shape (*runs, n, q), received {tuple(h0.shape)}"
        )
    q = h0.shape[-1]

    def velocity(at: float, h: Tensor) -> Tensor:
        v, w = V(at), W(at)
        for name, value in (("V", v), ("W", w)):
            require_tensor(value, f"neural ODE: expected {name}(s) to be a torch tensor")
        if (
            min(v.ndim, w.ndim) < 2
            or v.shape[-2] != q
            or w.shape[-2:] != (v.shape[-1], q)
            or v.dtype != h.dtype
        ):
            raise ValueError(
                f"neural ODE: expected V(s) (*runs, {q}, m) and W(s) (*runs, m, {q}) in {h.dtype}, "
                f"as the state, received {tuple(v.shape)} and {tuple(w.shape)} in {v.dtype}"
            )
        z = torch.matmul(h, w.mT) * net.input_scale(w.shape[-1])
        return torch.matmul(net.activation(z), v.mT) * net.residual_scale(1, v.shape[-1])

    return integrate(velocity, h0, s, tolerance=tolerance).states


def sample_layers(
    depth: int, V: Callable[[float], Tensor], W: Callable[[float], Tensor]
) -> tuple[Tensor, Tensor]:
    """(V(k/L), W(k/L)) for k = 1..L, stacked on the layer axis ([M] Prop. 2)."""
    at = [k / depth for k in range(1, depth + 1)]
    return torch.stack([V(s) for s in at], dim=-3), torch.stack([W(s) for s in at], dim=-3)
