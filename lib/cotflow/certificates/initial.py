"""√c_PL(R) ≤ |∂ℛ|/√ℛ on the ball of radius R around u = 0 with one law of features, every depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.features import Forward, exact, forward, length
from cotflow.certificates.hypotheses import require_data
from cotflow.certificates.norms import data_norm, feature_norms
from cotflow.certificates.rounding import BEYOND, Reals, down, one_radius, radii, up
from cotflow.certificates.slope import output_constant
from cotflow.network.checks import require_kind
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class InitialBall:
    """Balls around u = 0 with the same law Q of (w, b) in all layers.

    Attributes
    ----------
    points : N.
    feature_eigenvalue : λ₀ = λ_min(K[Q]), a lower bound.
    data_norm : κ = ‖[x_i, 1]_i‖₂.
    feature_norm : β₀ = ‖E_Q wwᵀ‖₂^{1/2}.
    feature_moment : b₀ = (E_Q|w|²)^{1/2}.
    data_radius : C_X = max|x_i|, after the embedding A.
    output : σ_min(B), a lower bound.
    """

    points: int
    feature_eigenvalue: float
    data_norm: float
    feature_norm: float
    feature_moment: float
    data_radius: float
    output: float

    @property
    def _slope(self) -> float:
        """√(κ² + (4/9)Nβ₀²)."""
        return math.sqrt(self.data_norm**2 + 4.0 * self.points * self.feature_norm**2 / 9.0)

    @BEYOND
    def kernel_loss(self, radius: Reals) -> Reals:
        """G(R) = R√(κ² + (4/9)Nβ₀²) + √N R²/(2√2): √λ_min(K_k) is lost by at most so much, in
        the mean over the layers."""
        R, N = radii(radius), self.points
        return up(R * self._slope + math.sqrt(N) * R**2 / (2.0 * math.sqrt(2.0)))

    @BEYOND
    def stretch(self, radius: Reals) -> Reals:
        """Λ(R) = β₀R + R²/2 ≥ (1/L)Σ Lip F_k."""
        R = radii(radius)
        return up(self.feature_norm * R + R**2 / 2.0)

    @BEYOND
    def root(self, radius: Reals) -> Reals:
        """√c_PL(R) = σ_min(B) √(2/N) (√λ₀ − G(R))₊ (1 − Λ(R))₊, nonincreasing in R, every depth."""
        root = down(math.sqrt(self.feature_eigenvalue))
        kernel: Reals = np.maximum(root - self.kernel_loss(radius), 0.0)
        kept = np.maximum(1.0 - self.stretch(radius), 0.0)
        return down(self.output * math.sqrt(2.0 / self.points) * kernel * kept)

    @BEYOND
    def explicit_eigenvalue(self, radius: Reals) -> Reals:
        """λ_R = λ₀ − 2N(√(1 + (C_X + R)²) + b₀)R."""
        R = radii(radius)
        lost: Reals = (
            2.0 * self.points * (np.hypot(1.0, self.data_radius + R) + self.feature_moment) * R
        )
        return self.feature_eigenvalue - up(lost)

    @BEYOND
    def explicit(self, radius: Reals) -> Reals:
        """c_PL(R) = σ_min(B)² (2/N) λ_R e^{−2R(b₀ + R)} where λ_R > 0, or 0; never above root²."""
        R = radii(radius)
        positive = np.maximum(self.explicit_eigenvalue(R), 0.0)
        exponent = up(2.0 * R * (self.feature_moment + R))
        decay = np.exp(-exponent * (1.0 + 1e-12)) * (1.0 - 1e-12)
        return down(self.output**2 * (2.0 / self.points) * positive * decay)

    def obstacle(self, radius: float) -> str:
        """Why √c_PL(R) = 0, or nothing."""
        radius = one_radius(radius)
        kernel = math.sqrt(self.feature_eigenvalue) - float(self.kernel_loss(radius))
        if kernel <= 0.0:
            return f"at radius R = {radius:.4g} the bound √λ_R = {kernel:.4g} is ≤ 0"
        if self.stretch(radius) >= 1.0:
            return (
                f"at radius R = {radius:.4g} the layers' Lipschitz constants may add up to "
                f"{float(self.stretch(radius)):.4g} ≥ 1"
            )
        return ""

    def explicit_obstacle(self, radius: float) -> str:
        """Why c_PL(R) = 0, or nothing."""
        radius = one_radius(radius)
        kernel = float(self.explicit_eigenvalue(radius))
        return (
            f"at radius R = {radius:.4g} the bound λ_R = {kernel:.4g} is ≤ 0" if kernel <= 0 else ""
        )

    def closed_form(self) -> float:
        """(σ_min(B)²λ₀²/(8NC²)) (1 − (β₀ + ½)√λ₀/(3C))², C = √(κ² + 4Nβ₀²/9) + 1/(2√2): the
        certificate holds for every risk below. Proved for a trained bias, else 0."""
        N, root = self.points, math.sqrt(self.feature_eigenvalue)
        if self.data_norm < math.sqrt(N):
            return 0.0
        C = self._slope + 1.0 / (2.0 * math.sqrt(2.0))
        bracket = 1.0 - up((self.feature_norm + 0.5) * root / (3.0 * C))
        return down((self.output * root**2 * bracket / C) ** 2 / (8.0 * N))


def initial_ball(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"], passed: Forward | None = None
) -> InitialBall:
    """The constants of the balls around V = 0, computed from the drawn features."""
    require_kind(net, ResidualNet, "certificate: expected a network such as mean_field_net(COS)")
    require_data(weights, x, runs=False)
    passed = passed or forward(net, weights, x)
    weights = exact(weights)
    states, error = passed.states[0], float(length(passed.state_error[0]))
    moment = float(torch.linalg.vector_norm(weights.W[0])) / math.sqrt(weights.width)
    return InitialBall(
        points=x.shape[-2],
        feature_eigenvalue=float(passed.least_eigenvalues()[0]),
        data_norm=float(data_norm(net, weights, states, passed.state_error[0])),
        feature_norm=float(feature_norms(weights)[0]),
        feature_moment=up(moment, weights.W[0].numel()),
        data_radius=up(float(length(states).max()) + error),
        output=float(output_constant(weights)),
    )
