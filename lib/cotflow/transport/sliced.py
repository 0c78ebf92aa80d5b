"""Sliced transport, layer by layer: averages of one-dimensional distances over directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.transport.layers import require_layers
from cotflow.transport.step_functions import common_refinement


@dataclass(frozen=True)
class SlicedDistance:
    """(1/L) Σ_k SW₂²(μ(·|k), ν(·|k)) by Monte Carlo over directions.

    Attributes
    ----------
    by_direction : (1/L) Σ_k W₂² of the projections on each direction; independent values if the
        directions are, and their mean is the estimate.
    """

    by_direction: Float[Tensor, "*runs J"]

    @property
    def squared(self) -> Float[Tensor, "*runs"]:
        return self.by_direction.mean(-1)

    @property
    def standard_error(self) -> Float[Tensor, "*runs"]:
        """Of ``squared``, for independent directions; not a number for a single one."""
        return self.by_direction.std(-1) / math.sqrt(self.by_direction.shape[-1])


def directions(count: int, dimension: int, generator: torch.Generator) -> Float[Tensor, "J p"]:
    """θ_1, …, θ_J independent and uniform on the unit sphere of R^D."""
    normal = torch.randn(
        count, dimension, generator=generator, dtype=torch.float64, device=generator.device
    )
    lengths: Tensor = normal.norm(dim=-1, keepdim=True)
    return normal / lengths


def sliced_distance(
    mu: Float[Tensor, "*runs L m p"],
    nu: Float[Tensor, "*runs L m2 p"],
    theta: Float[Tensor, "J p"],
) -> SlicedDistance:
    """SW₂²(α, β) = E_θ W₂²(⟨θ,·⟩_#α, ⟨θ,·⟩_#β) ≤ W₂²(α, β)/p, θ uniform on the sphere.

    All layers and directions are sorted in one batch: O(L J m (p + log m)).

    Parameters
    ----------
    theta : unit vectors, e.g. from :func:`directions`; in the plane, equidistant angles are a
        quadrature that converges faster.

    Source: Bonneel, Rabin, Peyré, Pfister, J. Math. Imaging Vis. 51 (2015).
    """
    require_layers(mu, nu, what="sliced distance")
    _require_directions(theta, mu.shape[-1])
    # (*runs, J, L, m): the atoms of a layer, projected and in increasing order
    a, b = (
        torch.einsum("...lmp,jp->...jlm", family, theta.to(family)).sort(-1).values
        for family in (mu, nu)
    )
    # Quantile functions of uniform atoms are step functions of the mass.
    pieces = common_refinement(a.shape[-1], b.shape[-1])
    gaps = a[..., pieces.first.to(a.device)] - b[..., pieces.second.to(b.device)]
    found = (gaps.square() @ pieces.length.to(gaps)).mean(-1)
    if not bool(torch.isfinite(found).all()):
        raise ValueError(
            "sliced distance: expected squared distances within the range of "
            f"{str(found.dtype).removeprefix('torch.')}, received gaps up to "
            f"{float(gaps.abs().max()):.3g}"
        )
    return SlicedDistance(found)


def _require_directions(theta: Tensor, dimension: int) -> None:
    fits = theta.ndim == 2 and len(theta) and theta.shape[-1] == dimension
    if not fits or not theta.is_floating_point():
        raise ValueError(
            f"sliced distance: expected real directions of shape (J, {dimension}), J ≥ 1, received "
            f"{tuple(theta.shape)} of {str(theta.dtype).removeprefix('torch.')}"
        )
    lengths = theta.detach().to(torch.float64).norm(dim=-1)
    if not bool(((lengths - 1.0).abs() <= 0.01).all()):
        worst = float(lengths[(lengths - 1.0).abs().argmax()])
        raise ValueError(
            f"sliced distance: expected unit vectors, received one of length {worst:.3g}"
        )
