"""Weights as functions of the depth variable s ∈ [0, 1]: interpolation and comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.numbers import whole
from cotflow.network.tensors import require_numbers
from cotflow.transport.step_functions import Pieces, common_refinement

Nodes = Literal["ends", "midpoints", "starts"]


def require_depth_variable(s: float) -> None:
    """Refuse what is no place in a net."""
    if not 0.0 <= s <= 1.0:
        raise ValueError(f"depth variable: expected 0 ≤ s ≤ 1, received {s}")


def require_layers(values: Tensor, dim: int) -> int:
    """How many layers there are on the depth axis; real floating-point ones, at least one."""
    if not values.is_floating_point() or not -values.ndim <= dim < values.ndim:
        raise ValueError(
            f"depth: expected real floating-point layers on axis {dim}, received "
            f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"
        )
    return whole(values.shape[dim], "depth: expected at least 1 layer", 1)


def linear_weights(depth: int, s: float, nodes: Nodes = "ends") -> tuple[int, int, float]:
    """(k, l, θ) with Z(s) = (1−θ) Z_k + θ Z_l, 0 ≤ θ ≤ 1: never an extrapolation.

    "ends" puts layer index k at s = k/(L−1), as [M] (8) does; "midpoints" puts it at (k+½)/L and
    holds the first and last values constant beyond their midpoints; "starts" puts it at k/L, where
    the step of the layer starts, and holds the last value constant.
    """
    depth = whole(depth, "depth: expected at least 1 layer", 1)
    require_depth_variable(s)
    if nodes == "ends":
        position = s * (depth - 1)
    elif nodes == "midpoints":
        position = min(max(s * depth - 0.5, 0.0), depth - 1.0)
    elif nodes == "starts":
        position = min(s * depth, depth - 1.0)
    else:
        raise ValueError(f"nodes: expected 'ends', 'midpoints' or 'starts', received {nodes!r}")
    left = min(int(position), max(depth - 2, 0))
    right = min(left + 1, depth - 1)
    return left, right, position - left


def interpolate(
    values: Float[Tensor, "*before L *after"], s: float, nodes: Nodes = "ends", *, dim: int = -3
) -> Float[Tensor, "*before *after"]:
    """Z(s), piecewise linear in s between layers; see :func:`linear_weights`.

    Parameters
    ----------
    dim : the depth axis.
    """
    left, right, theta = linear_weights(require_layers(values, dim), s, nodes)
    return torch.lerp(values.select(dim, left), values.select(dim, right), theta)


def overlap(depth: int, reference_depth: int) -> Pieces:
    """Which layer of a net faces which layer of the reference, and for how long in s.

    Both nets are the step functions Z^L(s) = Z^L_{⌊(L−1)s⌋+1} of [M] (8), constant in s between
    breakpoints k/(L−1); the last piece is the point s = 1, of length 0.
    """
    depth = whole(depth, "depth: expected at least 1 layer", 1)
    reference_depth = whole(reference_depth, "depth: expected at least 1 layer", 1)
    pieces = common_refinement(max(depth - 1, 1), max(reference_depth - 1, 1))
    end = torch.tensor([1], device="cpu")
    return Pieces(
        first=torch.cat([pieces.first, (depth - 1) * end]),
        second=torch.cat([pieces.second, (reference_depth - 1) * end]),
        length=torch.cat([pieces.length, 0.0 * end]),
    )


@dataclass(frozen=True)
class DepthDistance:
    """∥Z^L − Z∥ over the depth variable: L² in s and supremum over s, Frobenius in the entries."""

    l2: Float[Tensor, "*runs"]
    sup: Float[Tensor, "*runs"]


def distance_to_reference(
    values: Float[Tensor, "*runs L a c"], reference: Float[Tensor, "*runs Lr a c"]
) -> DepthDistance:
    """(∫₀¹‖Z^L(s) − Z(s)‖_F² ds)^{1/2} and sup_s‖Z^L(s) − Z(s)‖_F, exact for step functions.

    Raises
    ------
    ValueError : shapes, dtypes or devices differ, or the distance is beyond the range of numbers.

    Source: the norms of [M] Thm 4 (ii) and of its Fig. 1 (right).
    """
    shapes = [(*v.shape[:-3], *v.shape[-2:], v.dtype, v.device) for v in (values, reference)]
    if min(values.ndim, reference.ndim) < 3 or shapes[0] != shapes[1]:
        raise ValueError(
            "depth: expected layers (*runs, L, a, c) of one shape, dtype and device but for L, "
            f"received {tuple(values.shape)} and {tuple(reference.shape)} in {values.dtype} and "
            f"{reference.dtype} on {values.device} and {reference.device}"
        )
    for layers in (values, reference):
        require_numbers(layers, "depth", "layers")
    pieces = overlap(values.shape[-3], reference.shape[-3])
    where = values.device
    squared = (
        (
            values.index_select(-3, pieces.first.to(where))
            - reference.index_select(-3, pieces.second.to(where))
        )
        .square()
        .sum((-2, -1))
    )
    l2 = (squared * pieces.length.to(where, squared.dtype)).sum(-1).sqrt()
    if not bool(torch.isfinite(squared).all()):
        raise ValueError(
            "depth: expected squared distances within the range of "
            f"{str(values.dtype).removeprefix('torch.')}, received larger ones"
        )
    return DepthDistance(l2, squared.amax(-1).sqrt())
