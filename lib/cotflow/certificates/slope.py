"""|∂ℛ|² ≥ c·ℛ at one network: bounds from the kernels of its layers (Polyak–Łojasiewicz)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.eigenvalues import least_singular_value
from cotflow.certificates.features import exact, forward, layer_stretch
from cotflow.certificates.hypotheses import require_data, require_network
from cotflow.certificates.rounding import LEAST, down, gamma, up
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


def output_constant(weights: Weights) -> Float[Tensor, "*runs"]:
    """A lower bound on σ_min(Bᵀ) = min|Bᵀr|/|r|; 0 unless B is onto."""
    return least_singular_value(exact(weights).B)


def pl_bound(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "*data n d"]
) -> Float[Tensor, "*runs"]:
    """c = (2/N) σ_min(B)² (1/L) Σ_k λ_min(K_k) Π_{j>k} (1 − Lip_j/L)₊², with |∂ℛ|² ≥ c·ℛ.

    Holds for every depth L, for the squared slope ``slope_squared`` of :func:`cotflow.gradient`.
    Only |σ′| ≤ 1 is used; ``x`` alone enters, so c serves every y. All roundings go outward.

    Source: [C], proof in the chapter on local PL.
    """
    require_network(net)
    require_data(weights, x)
    eigenvalues = forward(net, weights, x).least_eigenvalues()
    depth = weights.depth
    kept = (1.0 - up(layer_stretch(weights) / depth)).clamp_min(0.0)
    # Layers after k: the product runs from the output backwards and leaves out k itself.
    after = torch.cat([torch.ones_like(kept[..., :1]), kept.flip(-1)[..., :-1]], -1)
    after = after.cumprod(-1).flip(-1).square()
    mean = (eigenvalues * after).mean(-1)
    return _resolved(down(2.0 / x.shape[-2] * output_constant(weights).square() * mean, 4 * depth))


def pl_bound_independent(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "*data n d"]
) -> Float[Tensor, "*runs"]:
    """c = (2/N) σ_min(B)² (√λ_min(K̄) − ((1/L)Σ_k tr K_k (Π_{j>k}(1 + Lip_j/L) − 1)²)^{1/2})₊².

    K̄ = (1/L)Σ_k K_k is the kernel of all L·M features together, so that layers with fewer
    features than points count: |∂ℛ|² ≥ c·ℛ near V = 0. Since tr K_k ≤ N for |σ| ≤ 1, it is at
    least (2/N) σ_min(B)² (√λ_min(K̄) − √N(e^Λ − 1))₊² with Λ = (1/L)Σ Lip_k.

    Source: [C], proof in the chapter on local PL.
    """
    require_network(net)
    require_data(weights, x)
    passed, depth, n = forward(net, weights, x), weights.depth, x.shape[-2]
    eigenvalue = passed.average_eigenvalue()
    features = up(passed.features.square().sum((-2, -1)).sqrt(), n * weights.width)
    kernel = up((features + passed.feature_error).square() / weights.width)
    growth = up(1.0 + layer_stretch(weights) / depth)
    after = torch.cat([torch.ones_like(growth[..., :1]), growth.flip(-1)[..., :-1]], -1)
    after = up(after.cumprod(-1).flip(-1), 2 * depth) - 1.0 + 2.0 * gamma(1)
    lost = up((kernel * after.square()).mean(-1).sqrt(), depth)
    root = (down(eigenvalue.sqrt()) - lost).clamp_min(0.0)
    return _resolved(down(2.0 / n * output_constant(weights).square() * root.square()))


def _resolved(bound: Tensor) -> Tensor:
    """The bound, 0 where it is so small that underflow had a part in it."""
    return torch.where(bound > LEAST, bound, torch.zeros_like(bound))
