"""Φ_k,ia = σ(w_a·h_{k,i} + b_a): the features of each layer on the data, and K_k = Φ_kΦ_kᵀ/M."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.eigenvalues import least_feature_eigenvalue
from cotflow.certificates.hypotheses import require_data, require_weights
from cotflow.certificates.rounding import UNIT, gamma, up
from cotflow.network.checks import require_kind, require_values
from cotflow.network.numbers import real, shown
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


def exact(weights: Weights) -> Weights:
    """The same numbers in double precision on the processor: bounds speak of these numbers."""
    return weights.map(Tensor.detach).to(device="cpu", dtype=torch.float64)


def length(vectors: Float[Tensor, "*shape q"]) -> Float[Tensor, "*shape"]:
    """|v|, rounded up."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return up(norms, vectors.shape[-1])


def layer_stretch(weights: Weights) -> Float[Tensor, "*runs L"]:
    """(1/M) Σ_j |u_j||w_j| ≥ Lip F_k, layer by layer, for |σ′| ≤ 1; rounded up."""
    require_weights(weights)
    weights = exact(weights)
    return up((length(weights.V.mT) * length(weights.W)).mean(-1), weights.width)


@dataclass(frozen=True)
class Forward:
    """A forward pass with proven bounds on its rounding.

    Attributes
    ----------
    states : h_0..h_L.
    state_error : bounds on |computed h_{k,i} − exact h_{k,i}|.
    features : Φ_k = σ(W_k h + b_k) at the state before layer k.
    feature_error : bounds on ‖computed Φ_k − exact Φ_k‖_F.
    """

    states: Float[Tensor, "*runs layers n q"]
    state_error: Float[Tensor, "*runs layers n"]
    features: Float[Tensor, "*runs L n m"]
    feature_error: Float[Tensor, "*runs L"]

    def least_eigenvalues(self) -> Float[Tensor, "*runs L"]:
        """Lower bounds on λ_min(K_k)."""
        return least_feature_eigenvalue(self.features, self.feature_error)

    def average_eigenvalue(self) -> Float[Tensor, "*runs"]:
        """A lower bound on λ_min(K̄), K̄ = (1/L)Σ_k K_k, from the features of all layers."""
        joined = self.features.movedim(-3, -2).flatten(-2)
        depth = self.features.shape[-3]
        error = up(torch.linalg.vector_norm(self.feature_error, dim=-1), depth)
        return least_feature_eigenvalue(joined, error)


def forward(net: ResidualNet, weights: Weights, x: Float[Tensor, "*data n d"]) -> Forward:
    """h_{k+1} = h_k + (1/L)(1/M) Σ_j u_j σ(w_j·h_k + b_j) in double precision.

    σ is taken to be evaluated to within 8u·max(1, |σ|), and to be 1-Lipschitz.
    """
    weights, x = exact(weights), x.detach().to("cpu", torch.float64)
    depth, m, q, d = weights.depth, weights.width, weights.state, weights.A.shape[-1]
    stretch = layer_stretch(weights)
    h = x @ weights.A.mT
    size = up(torch.linalg.matrix_norm(weights.A), d * q)[..., None]
    error = gamma(d) * size * length(x)
    h, error = torch.broadcast_tensors(h, error[..., None])
    error = error[..., 0]
    states, errors, features, feature_errors = [h], [error], [], []
    for k in range(depth):
        V, W = weights.V[..., k, :, :], weights.W[..., k, :, :]
        b = torch.zeros_like(W[..., 0]) if weights.b is None else weights.b[..., k, :]
        b = b[..., None, :]
        phi = net.activation(h @ W.mT + b)
        reach = length(h)[..., None] * length(W)[..., None, :] + b.abs()
        wrong = 8.0 * UNIT * phi.abs().clamp_min(1.0) + gamma(q + 2) * up(reach)
        moved = wrong + length(W)[..., None, :] * error[..., None]
        wrong_features = up(torch.linalg.matrix_norm(moved), moved.shape[-2] * m)
        features.append(phi)
        feature_errors.append(torch.where(wrong_features.isnan(), math.inf, wrong_features))
        size = length(V.mT)[..., None, :] / m
        local = (size * (wrong + gamma(m + 4) * phi.abs())).sum(-1) / depth
        h = h + phi @ V.mT / (m * depth)
        error = error * (1.0 + stretch[..., k, None] / depth) + up(local, m)
        error = up(error + 2.0 * UNIT * length(h))
        error = torch.where(error.isnan(), math.inf, error)
        states.append(h)
        errors.append(error)
    if not bool(torch.isfinite(torch.stack(states)).all()):
        raise ValueError("certificate: the network's hidden states are beyond the range of numbers")
    return Forward(
        states=torch.stack(states, -3),
        state_error=torch.stack(errors, -2),
        features=torch.stack(features, -3),
        feature_error=torch.stack(feature_errors, -1),
    )


def layer_kernels(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "*data n d"]
) -> Float[Tensor, "*runs L n n"]:
    """K_k = Φ_kΦ_kᵀ/M at the state before layer k: the Gram matrices of the layers' features.

    Plain numbers, not bounds: λ_min from the product is no better than about N·u. Bounds take
    the factor, ``forward(net, weights, x).least_eigenvalues()``.
    """
    require_kind(net, ResidualNet, "certificate: expected a network such as mean_field_net(COS)")
    require_data(weights, x)
    features = forward(net, weights, x).features
    gram = features @ features.mT / features.shape[-1]
    return (gram + gram.mT) / 2


def _tau(tau: object) -> float:
    return real(tau, "features: expected 0 ≤ tau ≤ 1e150", lambda t: 0.0 <= t <= 1e150)


def kernel_gaussian_cos(x: Float[Tensor, "n d"], tau: float) -> Float[Tensor, "n n"]:
    """½ exp(−τ²|x_i − x_j|²/2), the limit M → ∞ of K for σ = cos, w ~ N(0, τ²I), b ~ U[0, 2π]."""
    require_values(x, "kernel: expected a torch tensor for x")
    if x.ndim != 2 or not x.is_floating_point() or not bool(torch.isfinite(x).all()):
        raise ValueError(
            "kernel: expected x of shape (N, q), of finite real numbers, received "
            f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
        )
    tau = _tau(tau)
    return 0.5 * torch.exp(-0.5 * tau**2 * torch.cdist(x, x).square())


def ideal_kernel(x: Float[Tensor, "n d"], tau: float) -> tuple[Float[Tensor, "n n"], float]:
    """The same in double precision from differences, and a bound on ‖computed − exact‖_F."""
    kernel_gaussian_cos(x, tau)
    x = x.detach().to("cpu", torch.float64)
    squares = (x[:, None] - x[None]).square().sum(-1)
    kernel = 0.5 * torch.exp(-0.5 * float(tau) ** 2 * squares)
    # A vectorized exp need not give equal numbers for equal ones.
    kernel = (kernel + kernel.mT) / 2
    # e^{−t} t ≤ 1/e, so that a relative error of t is no larger in the entry.
    return kernel, up(len(x) * gamma(x.shape[-1] + 12))


def gaussian_cos(
    weights: Weights,
    generator: torch.Generator,
    *,
    tau: float = 1.0,
    output_gain: float = 1.0,
    layers: str = "tied",
) -> Weights:
    """V = 0, w ~ N(0, τ²I) and b ~ U[0, 2π], one draw for all layers or one a layer.

    A stays, B becomes output_gain·B. ``layers`` is "tied" or "independent".
    """
    require_kind(weights, Weights, "features: expected cotflow.Weights")
    require_kind(generator, torch.Generator, "features: expected a torch.Generator")
    tau, output_gain = _tau(tau), real(output_gain, "features: expected a finite output_gain")
    *runs, depth, m, q = weights.W.shape
    if not isinstance(layers, str) or layers not in ("tied", "independent"):
        raise ValueError(f"layers: expected tied or independent, received {shown(layers)}")
    drawn = 1 if layers == "tied" else depth
    dtype, device = weights.W.dtype, generator.device
    W = torch.randn(*runs, drawn, m, q, generator=generator, dtype=dtype, device=device) * tau
    b = torch.rand(*runs, drawn, m, generator=generator, dtype=dtype, device=device)
    b = b * (2.0 * math.pi)
    return Weights(
        A=weights.A,
        V=torch.zeros_like(weights.V),
        W=W.expand(*runs, depth, m, q).contiguous(),
        B=weights.B * output_gain,
        b=b.expand(*runs, depth, m).contiguous(),
    )
