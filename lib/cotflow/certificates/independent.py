"""√c_PL(R) ≤ |∂ℛ|/√ℛ on the ball of radius R around u = 0, each layer with its own features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.features import Forward, forward
from cotflow.certificates.hypotheses import require_data
from cotflow.certificates.norms import data_norm, feature_norms
from cotflow.certificates.rounding import BEYOND, Reals, down, one_radius, radii, up
from cotflow.certificates.slope import output_constant
from cotflow.network.checks import require_kind
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class IndependentBall:
    """Balls around u = 0 whose layers have laws Q_k of (w, b), of one feature each or of more.

    Attributes
    ----------
    points : N.
    feature_eigenvalue : λ_min(K̄), K̄ = (1/L)Σ_k K[Q_k], a lower bound.
    data_norm : κ = ‖[x_i, 1]_i‖₂.
    feature_norm : β̄ = ((1/L)Σ_k β_k²)^{1/2} with β_k = ‖E_{Q_k} wwᵀ‖₂^{1/2}.
    late_norm : β̃ = ((1/L)Σ_k ((k−1)/L) β_k²)^{1/2}.
    output : σ_min(B), a lower bound.
    """

    points: int
    feature_eigenvalue: float
    data_norm: float
    feature_norm: float
    late_norm: float
    output: float

    @BEYOND
    def stretch(self, radius: Reals) -> Reals:
        """Λ(R) = β̄R + R²/2 ≥ (1/L)Σ Lip F_k."""
        R = radii(radius)
        return up(self.feature_norm * R + R**2 / 2.0)

    @BEYOND
    def growth(self, radius: Reals) -> Reals:
        """φ(R) = (e^Λ − 1)/Λ: an adjoint changes by at most φ times the sum of Lip F_j/L behind."""
        stretch = self.stretch(radius)
        safe = np.maximum(stretch, 1e-8)
        growth = np.where(stretch < 1e-8, 1.0 + 0.51 * stretch, np.expm1(safe) / safe)
        return growth * (1.0 + 1e-12)

    @BEYOND
    def kernel_loss(self, radius: Reals) -> Reals:
        """R√(κ² + (1 + φ)²Nβ̃²) + (1 + φ)√N R²/2: what features and adjoints take together."""
        R, N, both = radii(radius), self.points, 1.0 + self.growth(radius)
        slope = np.sqrt(self.data_norm**2 + N * (both * self.late_norm) ** 2)
        loss = up(R * slope + both * math.sqrt(N) * R**2 / 2.0)
        return np.where(np.isnan(loss), np.inf, loss)

    @BEYOND
    def root(self, radius: Reals) -> Reals:
        """√c_PL(R) = σ_min(B) √(2/N) (√λ_min(K̄) − kernel loss)₊, nonincreasing in R, any depth."""
        root = down(math.sqrt(self.feature_eigenvalue))
        kernel: Reals = np.maximum(root - self.kernel_loss(radius), 0.0)
        return down(self.output * math.sqrt(2.0 / self.points) * kernel)

    def obstacle(self, radius: float) -> str:
        """Why √c_PL(R) = 0, or nothing."""
        radius = one_radius(radius)
        kernel = math.sqrt(self.feature_eigenvalue) - float(self.kernel_loss(radius))
        return (
            f"at radius R = {radius:.4g} the bound √λ_R = {kernel:.4g} is ≤ 0"
            if kernel <= 0
            else ""
        )


def independent_ball(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"], passed: Forward | None = None
) -> IndependentBall:
    """The constants of the balls around V = 0, computed from the drawn features of all layers."""
    require_kind(net, ResidualNet, "certificate: expected a network such as mean_field_net(COS)")
    require_data(weights, x, runs=False)
    passed = passed or forward(net, weights, x)
    squares = feature_norms(weights).numpy() ** 2
    before = np.arange(weights.depth) / weights.depth
    return IndependentBall(
        points=x.shape[-2],
        feature_eigenvalue=float(passed.average_eigenvalue()),
        data_norm=float(data_norm(net, weights, passed.states[0], passed.state_error[0])),
        feature_norm=math.sqrt(up(float(squares.mean()), weights.depth)),
        late_norm=math.sqrt(up(float((before * squares).mean()), weights.depth)),
        output=float(output_constant(weights)),
    )
