"""Conditional optimal transport between layered measures, and the distances around it.

A net with L layers of M particles is the measure (1/(LM)) Σ_{k,j} δ_{ω_{k,j}} on layers × Ω.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import repeat

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cotflow.network.checks import require_tensor
from cotflow.network.weights import Weights
from cotflow.transport.layers import (
    Masses,
    require_atoms,
    require_layers,
    require_one_place,
    root_of_squares,
)
from cotflow.transport.simplex import optimal_plan


def particles(weights: Weights) -> Float[Tensor, "*runs L m p"]:
    """ω_j = (V_{·j}, W_{j·}, b_j) for every layer: the atoms of μ(·|s)."""
    parts = [weights.V.mT, weights.W]
    if weights.b is not None:
        parts.append(weights.b.unsqueeze(-1))
    return torch.cat(parts, dim=-1)


LayerMasses = tuple[np.ndarray, np.ndarray]

# Scales 2^k with |k| up to this one are left as they are.
ORDINARY = 8


def _scale(a: np.ndarray, b: np.ndarray) -> int:
    """k with all |a_i − b_j| of the size 2^k at most, 0 where that is ordinary."""
    both = np.concatenate([a, b])
    # Differences of the largest numbers overflow, halves of the smallest ones vanish.
    factor = 0.25 if np.abs(both).max() > 1e300 else 1.0
    spread = float((factor * both.max(0) - factor * both.min(0)).max()) / factor
    if math.isinf(spread):
        return 1024
    k = math.frexp(spread)[1]
    return k if abs(k) > ORDINARY else 0


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared: np.ndarray = np.square(a[:, None, :] - b[None, :, :]).sum(-1)
    return squared


def coupling(
    a: np.ndarray, b: np.ndarray, masses: LayerMasses | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms (i, j) that an optimal plan of cost |a_i − b_j|² joins, and the mass it sends.

    Uniform atoms in equal number are sorted in dimension 1 and assigned otherwise (scipy); any
    others go to POT's network simplex, whose plan joins at most len(a) + len(b) − 1 pairs.
    The plan does not depend on the scale: costs are those of atoms divided by a power of two.
    """
    if masses is None and len(a) == len(b):
        if a.shape[1] == 1:
            rows, columns = np.argsort(a[:, 0]), np.argsort(b[:, 0])
            columns = columns[np.argsort(rows)]
            rows = np.arange(len(a))
        else:
            rows, columns = linear_sum_assignment(_squared_distances(*_scaled(a, b)[:2]))
        return rows, columns, np.full(len(a), 1.0 / len(a))
    plan = optimal_plan(_squared_distances(*_scaled(a, b)[:2]), masses)
    rows, columns = np.nonzero(plan)
    return rows, columns, plan[rows, columns]


def _scaled(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(2^{−k}a, 2^{−k}b, k) for the k of :func:`_scale`, exact."""
    k = _scale(a, b)
    return np.ldexp(a, -k), np.ldexp(b, -k), k


def _wasserstein(a: np.ndarray, b: np.ndarray, masses: LayerMasses | None) -> tuple[float, int]:
    """(v, k) with W₂² = 4^k v."""
    rows, columns, mass = coupling(a, b, masses)
    a, b, k = _scaled(a, b)
    return float(mass @ np.square(a[rows] - b[columns]).sum(-1)), k


def flat(values: Tensor, axes: int) -> np.ndarray:
    """Layers of all runs in one row, in double precision on the CPU, where exact solvers live."""
    values = values.detach().to("cpu", torch.float64).resolve_neg()
    return values.reshape(-1, *values.shape[values.ndim - axes :]).numpy()


def layer_distances(
    mu: Float[Tensor, "*runs L m p"],
    nu: Float[Tensor, "*runs L m2 p"],
    masses: Masses | None = None,
) -> Float[Tensor, "*runs L"]:
    """W₂(μ(·|k), ν(·|k)) layer by layer, exact; the two families may differ in width.

    ``masses`` are those of the atoms, of sum 1 in every layer up to rounding; without them atoms
    are uniform. Numbers that are not finite, masses that are none, and a plan that its dual does
    not prove to be optimal are errors.
    """
    require_layers(mu, nu, masses)
    a, b = flat(mu, 2), flat(nu, 2)
    weighted: Iterable[LayerMasses | None] = repeat(None, len(a))
    if masses is not None:
        weighted = zip(flat(masses[0], 1), flat(masses[1], 1), strict=True)
    found = [_wasserstein(*layer) for layer in zip(a, b, weighted, strict=True)]
    squared, scales = zip(*found, strict=True)
    roots = torch.tensor(squared, dtype=torch.float64, device="cpu").sqrt().numpy()
    with np.errstate(over="ignore"):
        distances = torch.from_numpy(np.ldexp(roots, scales))
    if not bool(torch.isfinite(distances).all()):
        raise ValueError(
            "conditional distance: expected distances within the range of numbers, received atoms "
            f"up to {max(np.abs(a).max(), np.abs(b).max()):.3g}"
        )
    return distances.reshape(mu.shape[:-2])


def conditional_distance(
    mu: Float[Tensor, "*runs L m p"],
    nu: Float[Tensor, "*runs L m2 p"],
    masses: Masses | None = None,
) -> Float[Tensor, "*runs"]:
    """d(μ, ν) = ((1/L) Σ_k W₂²(μ(·|k), ν(·|k)))^{1/2}: mass never changes layer.

    Source: [B], as restated in OT4ML. Exact up to rounding; O(L M³) at worst.

    >>> import torch
    >>> from cotflow import conditional_distance
    >>> mu, nu = torch.zeros(3, 2, 4), torch.ones(3, 2, 4)  # L = 3 layers, M = 2 atoms in R⁴
    >>> conditional_distance(mu, nu)
    tensor(2., dtype=torch.float64)
    >>> conditional_distance(mu.expand(5, 3, 2, 4), nu.expand(5, 3, 2, 4)).shape  # 5 runs
    torch.Size([5])
    """
    layers = layer_distances(mu, nu, masses)
    return root_of_squares(layers, (-1,), layers.shape[-1])


def labelled_distance(
    mu: Float[Tensor, "*runs L m p"], nu: Float[Tensor, "*runs L m p"]
) -> Float[Tensor, "*runs"]:
    """((1/(LM)) Σ_{k,j} |ω_{k,j} − ω′_{k,j}|²)^{1/2} ≥ d: particle j goes to particle j.

    >>> import torch
    >>> from cotflow import conditional_distance, labelled_distance
    >>> mu = torch.tensor([[[0.0], [3.0]]])  # L = 1 layer, M = 2 particles on the line
    >>> labelled_distance(mu, mu.flip(-2)), conditional_distance(mu, mu.flip(-2))
    (tensor(3.), tensor(0., dtype=torch.float64))
    """
    require_layers(mu, nu, what="labelled distance")
    if mu.shape != nu.shape:
        raise ValueError(
            "labelled distance: expected two families of the same shape, received "
            f"{tuple(mu.shape)} and {tuple(nu.shape)}"
        )
    found = root_of_squares(mu - nu, (-3, -2, -1), math.prod(mu.shape[-3:-1]))
    if not bool(torch.isfinite(found).all()):
        raise ValueError(
            "labelled distance: expected a distance within the range of "
            f"{str(found.dtype).removeprefix('torch.')}, received atoms up to "
            f"{float(torch.maximum(mu.abs().max(), nu.abs().max())):.3g}"
        )
    return found


def on_product(family: Float[Tensor, "*runs L m p"]) -> Float[Tensor, "*runs 1 Lm p1"]:
    """All atoms as points (s, ω) of [0,1] × Ω, layer k at s = (k − ½)/L: a family of one layer."""
    *runs, layers, width, p = family.shape
    s = (torch.arange(layers, dtype=family.dtype, device=family.device) + 0.5) / layers
    joined = torch.cat([s[:, None, None].expand(*runs, layers, width, 1), family], dim=-1)
    return joined.reshape(*runs, 1, layers * width, p + 1)


def product_distance(mu: Float[Tensor, "L m p"], nu: Float[Tensor, "L2 m2 p"]) -> Float[Tensor, ""]:
    """W₂ on [0,1] × Ω with layer k at s = (k − ½)/L: mass may change layer, so W₂ ≤ d."""
    for family in (mu, nu):
        require_tensor(family, "product distance: expected two families of atoms as torch tensors")
    if mu.ndim != 3 or nu.ndim != 3 or mu.shape[-1] != nu.shape[-1]:
        raise ValueError(
            "product distance: expected two families (L, m, p) with the same particle dimension, "
            "received "
            f"shapes {tuple(mu.shape)} and {tuple(nu.shape)}"
        )
    require_one_place(mu, nu, "product distance")
    for family in (mu, nu):
        require_atoms(family, "product distance")
    first, second = (on_product(family.detach().to("cpu", torch.float64)) for family in (mu, nu))
    return layer_distances(first, second)[0]
