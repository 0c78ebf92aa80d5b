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
    tolerance: float = 1e-9,
    jumps: Sequence[float] | None = None,
) -> Trajectory:
    """∂_sH = f(s, H), H(s_0) = h0, by torchdiffeq's Dormand–Prince 5(4) with adaptive steps.

    Parameters
    ----------
    f : called with s in [0, 1] only; the last step may ask beyond 1 and is given f(1, ·).
    tolerance : relative and absolute, on the root mean square of all entries.
    jumps : where f jumps in s: steps end there, and each side sees its own value.
    """
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
    states: Tensor = odeint(
        velocity, h0, times, rtol=tolerance, atol=tolerance, method="dopri5", options=options
    )
    return Trajectory(states=states, evaluations=evaluations)


@torch.no_grad()
def solve(
    net: ResidualNet,
    V: Callable[[float], Tensor],
    W: Callable[[float], Tensor],
    h0: Float[Tensor, "*runs n q"],
    s: Float[Tensor, " times"],
    *,
    tolerance: float = 1e-9,
) -> Float[Tensor, "times *runs n q"]:
    """∂_sH = c_m V(s) σ(c_q W(s) H), H(0) = h0, at the given s ([M] Thm 4 (iii)).

    Dormand–Prince 5(4) with adaptive steps from torchdiffeq; relative and absolute tolerance as
    given. Only nets of depth exponent 1 and without bias have this limit here.
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
