"""√c_PL(R) ≤ |∂ℛ|/√ℛ on the ball of radius R around any net, from the norms of its layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.features import Forward, exact, forward
from cotflow.certificates.hypotheses import require_data
from cotflow.certificates.norms import data_norm, feature_norms
from cotflow.certificates.rounding import BEYOND, Reals, down, one_radius, radii, up
from cotflow.certificates.slope import output_constant
from cotflow.network.checks import require_kind
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class RunningBall:
    """Balls around any net of depth L: norms of its layers, at the states of its forward pass.

    Attributes
    ----------
    points : N.
    feature_eigenvalue : λ̄ = (1/L)Σ_k λ_min(K_k), a lower bound.
    data_norm : κ_k = ‖[x_{k,i}, 1]_i‖₂, one a layer.
    outer, inner : U_k = ((1/M)Σ|u_j|²)^{1/2} and β_k = ‖(1/M)Σ w_jw_jᵀ‖₂^{1/2}.
    output : σ_min(B), a lower bound.
    """

    points: int
    feature_eigenvalue: float
    data_norm: np.ndarray
    outer: np.ndarray
    inner: np.ndarray
    output: float

    @property
    def depth(self) -> int:
        return len(self.outer)

    def _mean(self, values: np.ndarray) -> float:
        return float(up(values.mean(), self.depth))

    def drift(self, radius: Reals) -> Reals:
        """δ(R) = R√(N + mean U²κ²) exp(mean Uβ + √(mean U²) R) ≥ (Σ_i|x_{k,i} − x⁰_{k,i}|²)^½."""
        R, U, mean = radii(radius), self.outer, self._mean
        exponent = up(mean(U * self.inner) + math.sqrt(mean(U**2)) * R)
        with np.errstate(over="ignore", invalid="ignore"):
            growth = np.exp(exponent * (1.0 + 1e-12)) * (1.0 + 1e-12)
            drift = up(R * math.sqrt(self.points + mean((U * self.data_norm) ** 2)) * growth)
        return np.where(np.isnan(drift), np.inf, drift)

    def kernel_loss(self, radius: Reals) -> Reals:
        """(max κ + δ)R + √(mean β²) δ."""
        R, drift = radii(radius), self.drift(radius)
        with np.errstate(over="ignore", invalid="ignore"):
            inner = math.sqrt(self._mean(self.inner**2)) * drift
            loss = up((self.data_norm.max() + drift) * R + inner)
        return np.where(np.isnan(loss), np.inf, loss)

    @BEYOND
    def stretch(self, radius: Reals) -> Reals:
        """Λ(R) = mean Uβ + R√(mean(U² + β²)) + R²/2 ≥ (1/L)Σ Lip F_k."""
        R, U, beta, mean = radii(radius), self.outer, self.inner, self._mean
        return up(mean(U * beta) + R * math.sqrt(mean(U**2 + beta**2)) + R**2 / 2.0)

    @BEYOND
    def steepest(self, radius: Reals) -> Reals:
        """â(R) = min(max_k (U_k + √L R)(β_k + √L R)/L, Λ(R)) ≥ max_k Lip F_k/L."""
        reach = math.sqrt(self.depth) * radii(radius)[..., None]
        layers = (self.outer + reach) * (self.inner + reach) / self.depth
        steepest: Reals = np.minimum(up(layers.max(-1)), self.stretch(radius))
        return steepest

    @BEYOND
    def root(self, radius: Reals) -> Reals:
        """√c_PL(R) = σ_min(B) √(2/N) (1 − â)^{Λ/â} (√λ̄ − (max κ + δ)R − √(mean β²) δ)₊, and 0
        where â ≥ 1; nonincreasing in R."""
        root = down(math.sqrt(self.feature_eigenvalue))
        kernel: Reals = np.maximum(root - self.kernel_loss(radius), 0.0)
        a, stretch = self.steepest(radius), self.stretch(radius)
        inside = a < 1.0
        safe = np.where(inside, np.maximum(a, 1e-300), 0.5)
        rate = np.where(a > 1e-300, -np.log1p(-safe) / safe, 1.0)
        kept = np.exp(-stretch * rate * (1.0 + 1e-12)) * (1.0 - 1e-12)
        kept = np.where(inside, kept, 0.0)
        return down(self.output * math.sqrt(2.0 / self.points) * kernel * kept)

    def obstacle(self, radius: float) -> str:
        """Why √c_PL(R) = 0, or nothing."""
        radius = one_radius(radius)
        kernel = math.sqrt(self.feature_eigenvalue) - float(self.kernel_loss(radius))
        if self.steepest(radius) >= 1.0:
            return (
                f"at radius R = {radius:.4g} a layer's Lipschitz bound over the depth may be "
                f"{float(self.steepest(radius)):.4g} ≥ 1"
            )
        if kernel <= 0.0:
            return f"at radius R = {radius:.4g} the bound √λ_R = {kernel:.4g} is ≤ 0"
        return ""


def running_ball(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"], passed: Forward | None = None
) -> RunningBall:
    """The constants of the balls around a net as it is."""
    require_kind(net, ResidualNet, "certificate: expected a network such as mean_field_net(COS)")
    require_data(weights, x, runs=False)
    passed = passed or forward(net, weights, x)
    weights = exact(weights)
    before = passed.states[:-1], passed.state_error[:-1]
    eigenvalues = passed.least_eigenvalues()
    size = weights.V.square().sum((-2, -1)) / weights.width
    return RunningBall(
        points=x.shape[-2],
        feature_eigenvalue=down(float(eigenvalues.mean()), weights.depth),
        data_norm=data_norm(net, weights, *before).numpy(),
        outer=up(size.sqrt(), weights.V[0].numel()).numpy(),
        inner=feature_norms(weights).numpy(),
        output=float(output_constant(weights)),
    )
