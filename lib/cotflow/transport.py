"""Conditional optimal transport between layered measures, and the distances around it.

A net with L layers of m particles is the measure (1/(Lm)) Σ_{k,j} δ_{ω_{k,j}} on layers × Ω.
"""

from __future__ import annotations

import math

import numpy as np
import ot
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cotflow.network import Weights


def particles(weights: Weights) -> Float[Tensor, "*runs L m p"]:
    """ω_j = (V_{·j}, W_{j·}, b_j) for every layer: the atoms of μ(·|s)."""
    parts = [weights.V.mT, weights.W]
    if weights.b is not None:
        parts.append(weights.b.unsqueeze(-1))
    return torch.cat(parts, dim=-1)


def _require_layers(mu: Tensor, nu: Tensor) -> None:
    if mu.shape[:-2] != nu.shape[:-2] or mu.shape[-1] != nu.shape[-1]:
        raise ValueError(
            "conditional distance: expected two families with the same runs, layers and particle "
            f"dimension, received shapes {tuple(mu.shape)} and {tuple(nu.shape)}"
        )


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.square(a[:, None, :] - b[None, :, :]).sum(-1)


def _squared_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """W₂² between uniform atoms: sorted in dimension 1, assigned for equal counts, else by POT."""
    if len(a) == len(b):
        if a.shape[1] == 1:
            return float(np.square(np.sort(a[:, 0]) - np.sort(b[:, 0])).mean())
        cost = _squared_distances(a, b)
        return float(cost[linear_sum_assignment(cost)].mean())
    uniform = [np.full(len(points), 1.0 / len(points)) for points in (a, b)]
    return float(ot.emd2(*uniform, _squared_distances(a, b)))


def layer_distances(
    mu: Float[Tensor, "*runs L m p"], nu: Float[Tensor, "*runs L m2 p"]
) -> Float[Tensor, "*runs L"]:
    """W₂(μ(·|k), ν(·|k)) layer by layer, exact; the two families may differ in width."""
    _require_layers(mu, nu)
    a = mu.detach().to("cpu", torch.float64).reshape(-1, *mu.shape[-2:]).numpy()
    b = nu.detach().to("cpu", torch.float64).reshape(-1, *nu.shape[-2:]).numpy()
    squared = [_squared_wasserstein(first, second) for first, second in zip(a, b, strict=True)]
    return torch.tensor(squared, dtype=torch.float64).sqrt().reshape(mu.shape[:-2])


def conditional_distance(
    mu: Float[Tensor, "*runs L m p"], nu: Float[Tensor, "*runs L m2 p"]
) -> Float[Tensor, "*runs"]:
    """d(μ, ν) = ((1/L) Σ_k W₂²(μ(·|k), ν(·|k)))^{1/2}: mass never changes layer.

    Source: [B], as restated in OT4ML. Exact up to rounding; O(L m³) at worst.
    """
    return layer_distances(mu, nu).square().mean(-1).sqrt()


def labelled_distance(
    mu: Float[Tensor, "*runs L m p"], nu: Float[Tensor, "*runs L m p"]
) -> Float[Tensor, "*runs"]:
    """((1/(Lm)) Σ_{k,j} |ω_{k,j} − ω′_{k,j}|²)^{1/2} ≥ d: particle j goes to particle j."""
    _require_layers(mu, nu)
    return ((mu - nu).square().sum((-3, -2, -1)) / math.prod(mu.shape[-3:-1])).sqrt()


def product_distance(mu: Float[Tensor, "L m p"], nu: Float[Tensor, "L2 m2 p"]) -> Float[Tensor, ""]:
    """W₂ on [0,1] × Ω with layer k at s = (k − ½)/L: mass may change layer, so W₂ ≤ d."""

    def points(family: Tensor) -> np.ndarray:
        layers, width, _ = family.shape
        s = (torch.arange(layers, dtype=torch.float64) + 0.5) / layers
        s = s[:, None, None].expand(layers, width, 1)
        joined = torch.cat([s, family.detach().to("cpu", torch.float64)], dim=-1)
        return joined.reshape(layers * width, -1).numpy()

    squared = _squared_wasserstein(points(mu), points(nu))
    return torch.tensor(squared, dtype=torch.float64).sqrt()
