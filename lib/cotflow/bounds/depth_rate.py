"""The rate of the depth limit: a network of depth L is at most C_T/L away from its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.limits.collocation import LimitState
from cotflow.network.residual import ResidualNet
from cotflow.network.tensors import require_numbers
from cotflow.network.weights import LAYERED, Weights, require_finite, require_fit


@dataclass(frozen=True)
class DepthGrowth:
    """Δ_L′ ≤ ΛΔ_L + δ/L for Δ_L = max(|A^L − A|, max_k‖Z_k^L − Z(k/L)‖, |B^L − B|), and
    |h_{k,i} − H_i(k/L)| ≤ γΔ_L + δ_h/L for every sample.

    Attributes
    ----------
    growth, defect : Λ and δ.
    gain, sampling : γ and δ_h, the largest over the samples.
    """

    growth: Float[Tensor, "*runs"]
    defect: Float[Tensor, "*runs"]
    gain: Float[Tensor, "*runs"]
    sampling: Float[Tensor, "*runs"]


def depth_growth(
    net: ResidualNet,
    x: Float[Tensor, "*runs n d"],
    y: Float[Tensor, "*runs n dy"],
    weights: Weights,
    at: Gradient,
    limit: LimitState,
) -> DepthGrowth:
    """Λ and δ at one training time, from norms that the network and its limit have there.

    Over both (the limit at its points in s), C_V, C_W and C_B are the largest operator norms of V,
    W and B; h̄, p̄ and Q the largest |h|, |p| and |F(x) − y| of a sample; Lip_Z is
    ``limit.lipschitz()``. With c = c_m c_q, C_σ′ = sup|σ′|, C_σ″ = sup|σ″| and a = c_q C_σ″ h̄, for
    every sample

    κ₁ = cC_σ′C_VC_W,  κ₂ = cC_σ′h̄(C_W² + C_V²)^½,  κ₁₁ = cc_qC_σ″C_VC_W²,
    κ₁₂ = c(C_σ′²C_W² + C_V²(C_σ′ + aC_W)²)^½,  κ₂₂ = ½ch̄(aC_V + (a²C_V² + 4C_σ′²)^½),
    ϑ = e^{κ₁},  γ = ϑ(|x| + κ₂),  δ_h = ½ϑ(κ₁²h̄ + κ₂Lip_Z),
    ρ = ½p̄(κ₁² + κ₁κ₁₁h̄ + κ₁₂Lip_Z),
    Ψ = ϑ((2c_ℓC_B² + p̄κ₁₁)γ + 2c_ℓ(C_Bh̄ + Q)),  χ = ϑ((2c_ℓC_B² + p̄κ₁₁)δ_h + ρ),

    and with means ⟨·⟩ over the samples

    Λ = max(⟨κ₂Ψ + p̄(κ₁₂γ + κ₂₂)⟩, ⟨|x|(Ψ + ϑp̄κ₁₂)⟩, 2c_ℓ⟨(C_Bh̄ + Q)γ + h̄²⟩),
    δ = max(⟨κ₂χ + p̄κ₁₂(δ_h + κ₁h̄)⟩, ⟨|x|χ⟩, 2c_ℓ⟨(C_Bh̄ + Q)δ_h⟩).

    What is not trained does not enter: of κ₂, κ₁₂ and κ₂₂ the part of V or W, but in δ_h and ρ,
    since it may change with s; without A the |x| of γ and the second entries of Λ and δ; without B
    the 2c_ℓ(C_Bh̄ + Q) of Ψ and the third entries.

    One explicit Euler step of size η in time, of the network and of the limit, obeys
    Δ_L⁺ ≤ (1 + ηΛ)Δ_L + ηδ/L; a 1-Lipschitz clip changes nothing.

    Parameters
    ----------
    weights, at : the network and its gradient; ``limit`` at the same time.

    Raises
    ------
    ValueError : the theorem says nothing about such a net, or the tensors do not fit together.

    Source: [C], proof in the chapter on the depth limit.
    """
    _require_limit(net)
    if at.states is None or at.adjoints is None:
        raise ValueError(
            "depth rate: expected a gradient with its states and adjoints, received one made "
            "without them; ask for it without segment"
        )
    both = (weights, at.states, at.adjoints), (limit.weights, limit.states, limit.adjoints)
    for parts in both:
        _require_sweep(*parts, x, y)
    sigma, factor = net.activation, 2.0 * net.loss_factor
    c_q = net.input_scale(weights.state)
    c = net.residual_scale(1, weights.width) * c_q
    K, C = c * sigma.lipschitz, c * c_q * sigma.curvature
    in_A, in_V, in_W, in_B = (float(name in net.trained) for name in ("A", "V", "W", "B"))

    def largest(name: str) -> Tensor:
        """The operator norm, one number a run, ready to meet the samples."""
        norms = [torch.linalg.matrix_norm(getattr(w, name), ord=2) for w, _, _ in both]
        norms = [norm.amax(-1) if name in LAYERED else norm for norm in norms]
        return torch.maximum(*norms).unsqueeze(-1)

    v, w, M_B = largest("V"), largest("W"), largest("B")
    R = torch.maximum(*(h.norm(dim=-1).amax(-2) for _, h, _ in both))
    P = torch.maximum(*(p.norm(dim=-1).amax(-2) for _, _, p in both))
    errors = [torch.matmul(h[..., -1, :, :], z.B.mT) - y for z, h, _ in both]
    Q = torch.maximum(*(error.norm(dim=-1) for error in errors))
    X, K_Z = x.norm(dim=-1), limit.lipschitz().unsqueeze(-1)

    k1, k11 = K * v * w, C * v * w.square()
    in_h = v * (K + C * w * R)
    k2, k12 = K * R * torch.hypot(in_V * w, in_W * v), torch.hypot(in_V * K * w, in_W * in_h)
    along_2, along_12 = K * R * torch.hypot(w, v), torch.hypot(K * w, in_h)
    bend = in_W * C * v * R.square()
    k22 = 0.5 * (bend + torch.hypot(bend, 2.0 * in_V * in_W * K * R))

    theta, S = k1.exp(), M_B * R + Q
    D = theta * (in_A * X + k2)
    r = 0.5 * theta * (k1.square() * R + along_2 * K_Z)
    rho = 0.5 * P * (k1.square() + k1 * k11 * R + along_12 * K_Z)
    at_end = factor * M_B.square() + P * k11
    psi = theta * (at_end * D + in_B * factor * S)
    chi = theta * (at_end * r + rho)
    growth = [
        k2 * psi + P * (k12 * D + k22),
        in_A * X * (psi + theta * P * k12),
        in_B * factor * (S * D + R.square()),
    ]
    defect = [k2 * chi + P * k12 * (r + k1 * R), in_A * X * chi, in_B * factor * S * r]
    return DepthGrowth(
        growth=torch.stack([each.mean(-1) for each in growth]).amax(0),
        defect=torch.stack([each.mean(-1) for each in defect]).amax(0),
        gain=D.amax(-1),
        sampling=r.amax(-1),
    )


def _require_limit(net: ResidualNet) -> None:
    origin = float(net.activation(torch.zeros((), dtype=torch.float64, device="cpu")))
    plain = net.metric == "layer" and not net.speed and net.depth_exponent == 1.0
    if not plain or origin != 0.0 or math.isinf(net.activation.curvature):
        raise ValueError(
            "depth rate: expected a net with σ(0) = 0 and a bounded σ″, depth exponent 1 and the "
            f"layer metric without extra speeds, received {net}"
        )


def _require_sweep(
    weights: Weights, states: Tensor, adjoints: Tensor, x: Tensor, y: Tensor
) -> None:
    require_fit("depth rate", weights, x, y)
    require_finite("depth rate", weights, x)
    if weights.b is not None:
        raise ValueError("depth rate: expected weights without bias, received some with b")
    n, q = x.shape[-2], weights.state
    for name, value in (("states", states), ("adjoints", adjoints)):
        require_numbers(value, "depth rate", name)
        if value.ndim < 3 or tuple(value.shape[-2:]) != (n, q):
            raise ValueError(
                f"depth rate: expected {name} of shape (*runs, places, {n}, {q}), received "
                f"{tuple(value.shape)}"
            )
