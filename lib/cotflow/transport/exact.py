"""Conditional optimal transport between layered measures, and the distances around it.

A net with L layers of m particles is the measure (1/(Lm)) Σ_{k,j} δ_{ω_{k,j}} on layers × Ω.
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

from cotflow.network.weights import Weights


def particles(weights: Weights) -> Float[Tensor, "*runs L m p"]:
    """ω_j = (V_{·j}, W_{j·}, b_j) for every layer: the atoms of μ(·|s)."""
    parts = [weights.V.mT, weights.W]
    if weights.b is not None:
        parts.append(weights.b.unsqueeze(-1))
    return torch.cat(parts, dim=-1)


def require_layers(mu: Tensor, nu: Tensor) -> None:
    """Refuse two families that do not have the same runs, layers and Ω, with both shapes."""
    if mu.shape[:-2] != nu.shape[:-2] or mu.shape[-1] != nu.shape[-1]:
        raise ValueError(
            "conditional distance: expected two families with the same runs, layers and particle "
            f"dimension, received shapes {tuple(mu.shape)} and {tuple(nu.shape)}"
        )


Masses = tuple[np.ndarray, np.ndarray]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared: np.ndarray = np.square(a[:, None, :] - b[None, :, :]).sum(-1)
    return squared


def coupling(
    a: np.ndarray, b: np.ndarray, masses: Masses | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms (i, j) that an optimal plan of cost |a_i − b_j|² joins, and the mass it sends.

    Uniform atoms in equal number are sorted in dimension 1 and assigned otherwise (scipy); any
    others go to POT's network simplex, whose plan joins at most len(a) + len(b) − 1 pairs.
    """
    if masses is None and len(a) == len(b):
        if a.shape[1] == 1:
            rows, columns = np.argsort(a[:, 0]), np.argsort(b[:, 0])
            columns = columns[np.argsort(rows)]
            rows = np.arange(len(a))
        else:
            rows, columns = linear_sum_assignment(_squared_distances(a, b))
        return rows, columns, np.full(len(a), 1.0 / len(a))
    from ot import emd

    mass_a, mass_b = masses or (np.full(len(a), 1.0 / len(a)), np.full(len(b), 1.0 / len(b)))
    plan: np.ndarray = emd(mass_a, mass_b, _squared_distances(a, b), numItermax=10_000_000)
    rows, columns = np.nonzero(plan)
    return rows, columns, plan[rows, columns]


def _squared_wasserstein(a: np.ndarray, b: np.ndarray, masses: Masses | None) -> float:
    rows, columns, mass = coupling(a, b, masses)
    return float(mass @ np.square(a[rows] - b[columns]).sum(-1))


def flat(values: Tensor, axes: int) -> np.ndarray:
    """Layers of all runs in one row, in double precision on the CPU, where exact solvers live."""
    values = values.detach().to("cpu", torch.float64)
    return values.reshape(-1, *values.shape[values.ndim - axes :]).numpy()


def layer_distances(
    mu: Float[Tensor, "*runs L m p"],
    nu: Float[Tensor, "*runs L m2 p"],
    masses: tuple[Float[Tensor, "*runs L m"], Float[Tensor, "*runs L m2"]] | None = None,
) -> Float[Tensor, "*runs L"]:
    """W₂(μ(·|k), ν(·|k)) layer by layer, exact; the two families may differ in width.

    ``masses`` are those of the atoms, of sum 1 in every layer; without them atoms are uniform.
    """
    require_layers(mu, nu)
    a, b = flat(mu, 2), flat(nu, 2)
    weighted: Iterable[Masses | None] = repeat(None, len(a))
    if masses is not None:
        weighted = zip(flat(masses[0], 1), flat(masses[1], 1), strict=True)
    squared = [_squared_wasserstein(*layer) for layer in zip(a, b, weighted, strict=True)]
    return torch.tensor(squared, dtype=torch.float64, device="cpu").sqrt().reshape(mu.shape[:-2])


def conditional_distance(
    mu: Float[Tensor, "*runs L m p"],
    nu: Float[Tensor, "*runs L m2 p"],
    masses: tuple[Float[Tensor, "*runs L m"], Float[Tensor, "*runs L m2"]] | None = None,
) -> Float[Tensor, "*runs"]:
    """d(μ, ν) = ((1/L) Σ_k W₂²(μ(·|k), ν(·|k)))^{1/2}: mass never changes layer.

    Source: [B], as restated in OT4ML. Exact up to rounding; O(L m³) at worst.

    >>> import torch
    >>> from cotflow import conditional_distance
    >>> mu, nu = torch.zeros(3, 2, 4), torch.ones(3, 2, 4)  # L = 3 layers, m = 2 atoms in R⁴
    >>> conditional_distance(mu, nu)
    tensor(2., dtype=torch.float64)
    >>> conditional_distance(mu.expand(5, 3, 2, 4), nu.expand(5, 3, 2, 4)).shape  # 5 runs
    torch.Size([5])
    """
    return layer_distances(mu, nu, masses).square().mean(-1).sqrt()


def labelled_distance(
    mu: Float[Tensor, "*runs L m p"], nu: Float[Tensor, "*runs L m p"]
) -> Float[Tensor, "*runs"]:
    """((1/(Lm)) Σ_{k,j} |ω_{k,j} − ω′_{k,j}|²)^{1/2} ≥ d: particle j goes to particle j.

    >>> import torch
    >>> from cotflow import conditional_distance, labelled_distance
    >>> mu = torch.tensor([[[0.0], [3.0]]])  # L = 1 layer, m = 2 particles on the line
    >>> labelled_distance(mu, mu.flip(-2)), conditional_distance(mu, mu.flip(-2))
    (tensor(3.), tensor(0., dtype=torch.float64))
    """
    require_layers(mu, nu)
    return ((mu - nu).square().sum((-3, -2, -1)) / math.prod(mu.shape[-3:-1])).sqrt()


def on_product(family: Float[Tensor, "*runs L m p"]) -> Float[Tensor, "*runs 1 Lm p1"]:
    """All atoms as points (s, ω) of [0,1] × Ω, layer k at s = (k − ½)/L: a family of one layer."""
    *runs, layers, width, p = family.shape
    s = (torch.arange(layers, dtype=family.dtype, device=family.device) + 0.5) / layers
    joined = torch.cat([s[:, None, None].expand(*runs, layers, width, 1), family], dim=-1)
    return joined.reshape(*runs, 1, layers * width, p + 1)


def product_distance(mu: Float[Tensor, "L m p"], nu: Float[Tensor, "L2 m2 p"]) -> Float[Tensor, ""]:
    """W₂ on [0,1] × Ω with layer k at s = (k − ½)/L: mass may change layer, so W₂ ≤ d."""
    if mu.shape[-1] != nu.shape[-1]:
        raise ValueError(
            "product distance: expected two families with the same particle dimension, received "
            f"shapes {tuple(mu.shape)} and {tuple(nu.shape)}"
        )
    first, second = (on_product(family.detach().to("cpu", torch.float64)) for family in (mu, nu))
    return layer_distances(first, second)[0]
