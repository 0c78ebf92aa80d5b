"""The constants of [M] Props 3 and 7, and the a-posteriori bound on gaps that a run can check."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.bounds.energy import at_layers
from cotflow.network.numbers import real
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class WorstCase:
    """[M] Prop. 7 for two-layer residuals: gaps ≤ (D_0 + βT/L)e^{αT} on ‖Z‖ ≤ C_θ, D_0 at first.

    The constants are towers of exponentials, so what is kept are logarithms in base 10.

    Attributes
    ----------
    K1 : κ₁ = sup‖∂₁f‖.
    log10_kappa : log₁₀ max(κ₁, κ₂).
    log10_alpha, log10_beta : log₁₀ of α and β; ``inf`` where even this number overflows.
    """

    K1: float
    log10_kappa: float
    log10_alpha: float
    log10_beta: float


def _usual(norm: float) -> bool:
    return 1e-100 <= norm <= 1e100


def worst_case(
    net: ResidualNet, weights: Weights, bound: float, x_bound: float, y_bound: float
) -> WorstCase:
    """κ₁, κ, α and β of [M] Prop. 7 with f(h, z) = c_m V σ(c_q W h), for layer norms
    ‖V‖_F + ‖W‖_F ≤ C_θ, |x| ≤ C_X, |y| ≤ C_Y and h̄ = e^{κ₁} C_θ C_X. Derivatives are bounded,
    and gaps measured, in the Euclidean norm (‖V‖_F² + ‖W‖_F²)^½.

    With c = c_m c_q, C_σ′ = sup|σ′|, C_σ″ = sup|σ″|, a = c C_σ′ h̄ and b = c c_q C_σ″ C_θ h̄²:
    κ₁ = c C_σ′ C_θ²/4,  κ₂ = c C_σ′ C_θ h̄,
    κ′ = max((b + (b² + 4a²)^½)/2, c C_σ′ C_θ + c c_q C_σ″ C_θ² h̄/4), where the first is the
    norm of the quadratic form 2a|δV||δW| + b|δW|²,
    α = 2 c_ℓ e^κ κ′ C_θ (e^κ C_θ² C_X + C_Y),  β = (α/κ′) κ (κ + e^κ κ′ C_θ C_X).

    Raises
    ------
    ValueError : C_θ or C_X is not between 1e-100 and 1e100, or C_Y is not between 0 and 1e100.
    """
    bound = real(bound, "worst case: expected 1e-100 ≤ C_θ ≤ 1e100", _usual)
    x_bound = real(x_bound, "worst case: expected 1e-100 ≤ C_X ≤ 1e100", _usual)
    y_bound = real(y_bound, "worst case: expected 0 ≤ C_Y ≤ 1e100", lambda v: v == 0.0 or _usual(v))
    sigma, ln10 = net.activation, math.log(10.0)
    c_q = net.input_scale(weights.state)
    c = net.residual_scale(1, weights.width) * c_q
    K1 = c * sigma.lipschitz * bound**2 / 4
    log_H = K1 + math.log(bound * x_bound)
    log_K2 = math.log(c * sigma.lipschitz * bound) + log_H
    log_kappa = max(math.log(K1), log_K2)
    log_M, first = math.log(bound), math.log(c * sigma.lipschitz)
    second = math.log(max(c * c_q * sigma.curvature, 1e-300))
    log_a, log_b = first + log_H, second + log_M + 2 * log_H
    log_root = float(np.logaddexp(2 * log_b, math.log(4.0) + 2 * log_a)) / 2
    log_K_prime = max(
        float(np.logaddexp(log_b, log_root)) - math.log(2.0),
        float(np.logaddexp(first + log_M, second + 2 * log_M + log_H - math.log(4.0))),
    )
    kappa = math.exp(log_kappa) if log_kappa < 700 else math.inf
    last = kappa + 2 * log_M + math.log(x_bound)
    if kappa < math.inf:
        last = float(np.logaddexp(last, math.log(y_bound) if y_bound else -math.inf))
    log_p = math.log(2.0 * net.loss_factor) + log_M + kappa + last
    log_alpha, log_beta = log_p + log_K_prime, log_p + log_kappa
    if kappa < math.inf:
        log_x = kappa + log_K_prime + log_M + math.log(x_bound)
        log_beta += float(np.logaddexp(log_kappa, log_x))
    return WorstCase(
        K1=K1,
        log10_kappa=log_kappa / ln10,
        log10_alpha=log_alpha / ln10,
        log10_beta=log_beta / ln10,
    )


def gap_growth(
    net: ResidualNet, weights: Weights, at: Gradient
) -> tuple[Float[Tensor, "*runs"], Float[Tensor, "*runs"]]:
    """(α, β) with d⁺D/dt ≤ αD + β/L for D = max_k(‖V_{k+1} − V_k‖_F + ‖W_{k+1} − W_k‖_F).

    Every norm in α and β is measured on the state at hand; only triangle inequalities and the
    Lipschitz constants of σ and σ′ are used. One explicit Euler step of size η obeys the same
    bound exactly: D⁺ ≤ (1 + ηα)D + ηβ/L.

    Source: [C], proof in the chapter on the depth limit. Needs σ″ bounded, no bias, L ≥ 2.
    """
    sigma, depth = net.activation, weights.depth
    if weights.b is not None or math.isinf(sigma.curvature) or depth < 2:
        raise ValueError(
            "gap growth: expected a net without bias, of depth ≥ 2, whose activation has a bounded "
            f"second derivative; received depth {depth}, activation {sigma.name!r}"
        )
    c_q = net.input_scale(weights.state)
    c_m = net.residual_scale(depth, weights.width)
    rates = net.rates(weights)
    r_V, r_W = rates.get("V", 0.0) * c_m, rates.get("W", 0.0) * c_m * c_q
    K, C = sigma.lipschitz, sigma.curvature

    def pair(values: Tensor) -> tuple[Tensor, Tensor]:
        """The same quantity at layers k and k+1."""
        return values[..., :-1, :, :], values[..., 1:, :, :]

    def length(values: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(values, dim=-1)
        return norms

    def operator_norm(values: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.matrix_norm(values, ord=2)
        return norms

    V, W = weights.V, weights.W
    before, after = at_layers(weights, at)
    h, h1 = pair(before)
    p, p1 = pair(after)
    z, z1 = pair(torch.matmul(before, W.mT) * c_q)
    back, back1 = pair(torch.matmul(after, V))
    dh, dp = length(h1 - h), length(p1 - p)
    W_norm, V_norm = operator_norm(W)[..., :-1], operator_norm(V)[..., :-1]
    feature1 = length(sigma(z1))
    inner = length(sigma.derivative(z) * back)
    peak1 = back1.abs().amax(-1)
    h1, p, p1 = length(h1), length(p), length(p1)

    from_W = r_V * K * c_q * (p * h1).mean(-1) + r_W * C * c_q * (h1.square() * peak1).mean(-1)
    from_V = r_W * K * (p1 * h1).mean(-1)
    drift = r_V * ((dp * feature1).mean(-1) + K * c_q * W_norm * (p * dh).mean(-1)) + r_W * (
        C * c_q * W_norm * (dh * peak1 * h1).mean(-1)
        + K * V_norm * (dp * h1).mean(-1)
        + (inner * dh).mean(-1)
    )
    return torch.maximum(from_W, from_V).amax(-1), depth * drift.amax(-1)
