"""What one forward and one backward sweep through the layers leave, whoever makes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class Depth:
    """What depth in parallel took, and how far its gradient can be from that of the sequential
    sweep in exact arithmetic.

    Attributes
    ----------
    forward, backward : how often all segments were carried through at once; 0 where the sweep
        went one layer after the other.
    gap : the largest |Δ| where two segments meet, relative to the larger end of its segment and
        over 2ε√length, what the roundings of a segment's layers may add up to.
    states, adjoints : bounds on max_k|Δh_k| and max_k|Δp_k|, relative to the largest, over samples.
    partials : a bound on the error of ∂ℛ in V, W and b in the norm of the slope, relative to it.
    """

    forward: int
    backward: int
    gap: float
    states: float
    adjoints: float
    partials: float


@dataclass(frozen=True)
class Sweep:
    """What a forward and a backward sweep leave.

    Attributes
    ----------
    error : F(x_i) − y_i.
    partials : factor · ∂ℛ for each of V, W, b that the factors name.
    squares : |factor · ∂ℛ|² for each of them, summed over layers.
    last_state, first_adjoint : h_L and p_0.
    states, adjoints : h_0..h_L and p_0..p_L; None under checkpointing.
    depth : for depth in parallel, how near that is to the sequential sweep.
    """

    error: Float[Tensor, "*runs n dy"]
    partials: dict[str, Tensor]
    squares: dict[str, Float[Tensor, "*runs"]]
    last_state: Float[Tensor, "*runs n q"]
    first_adjoint: Float[Tensor, "*runs n q"]
    states: Float[Tensor, "*runs layers n q"] | None
    adjoints: Float[Tensor, "*runs layers n q"] | None
    depth: Depth | None = None


def turn(
    net: ResidualNet, weights: Weights, last: Tensor, y: Tensor
) -> tuple[Float[Tensor, "*runs n dy"], Float[Tensor, "*runs n q"]]:
    """F(x_i) − y_i and p_L = 2 c_ℓ Bᵀ(F(x_i) − y_i)."""
    error = torch.matmul(last, weights.B.mT) - y
    return error, torch.matmul(error, weights.B).mul_(2.0 * net.loss_factor)
