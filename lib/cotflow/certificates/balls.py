"""√m(R) ≤ |∂L|/√L on the whole ball of radius R: around the initial law, and around any net."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from cotflow.certificates.kernels import Forward, exact, forward, length
from cotflow.certificates.rounding import UNIT, down, gamma, up
from cotflow.certificates.slope import output_constant
from cotflow.certificates.spectrum import operator_norm
from cotflow.network import ResidualNet, Weights


def _inputs(net: ResidualNet, states: Float[Tensor, "*shape n q"]) -> Tensor:
    """The rows (h_i, 1), less what belongs to frozen coordinates of the particles."""
    columns = [states] if "W" in net.trained else []
    if "b" in net.trained:
        columns.append(torch.ones_like(states[..., :1]))
    return torch.cat(columns, -1) if columns else torch.zeros_like(states[..., :1])


def _moment(weights: Weights) -> Float[Tensor, " L"]:
    """β_k = ‖(1/m) Σ_j w_j w_jᵀ‖₂^{1/2}."""
    return up(operator_norm(weights.W) / math.sqrt(weights.width))


@dataclass(frozen=True)
class InitialBall:
    """Balls around u = 0 with the same law ν of (w, b) in all layers.

    Attributes
    ----------
    points : N.
    feature_eigenvalue : λ₀ = λ_min(K[ν]), a lower bound.
    data_norm : κ = ‖[x_i, 1]_i‖₂.
    feature_norm : β₀ = ‖E_ν wwᵀ‖₂^{1/2}.
    feature_moment : b₀ = (E_ν|w|²)^{1/2}.
    data_radius : X₀ = max|x_i|, after the embedding A.
    output : σ_min(B), a lower bound.
    """

    points: int
    feature_eigenvalue: float
    data_norm: float
    feature_norm: float
    feature_moment: float
    data_radius: float
    output: float

    def kernel_loss(self, radius: ArrayLike) -> np.ndarray:
        """G(R) = R√(κ² + (4/9)Nβ₀²) + √N R²/(2√2): √λ_min(K_k) is lost by at most so much, in
        the mean over the layers."""
        R, N = np.asarray(radius, dtype=float), self.points
        slope = math.sqrt(self.data_norm**2 + 4.0 * N * self.feature_norm**2 / 9.0)
        return up(R * slope + math.sqrt(N) * R**2 / (2.0 * math.sqrt(2.0)))

    def stretch(self, radius: ArrayLike) -> np.ndarray:
        """Λ(R) = β₀R + R²/2 ≥ (1/L)Σ Lip F_k."""
        R = np.asarray(radius, dtype=float)
        return up(self.feature_norm * R + R**2 / 2.0)

    def root(self, radius: ArrayLike) -> np.ndarray:
        """√m(R) = σ_min(B) √(2/N) (√λ₀ − G(R))₊ (1 − Λ(R))₊, nonincreasing in R, every depth."""
        kernel = np.maximum(
            down(math.sqrt(self.feature_eigenvalue)) - self.kernel_loss(radius), 0.0
        )
        kept = np.maximum(1.0 - self.stretch(radius), 0.0)
        return down(self.output * math.sqrt(2.0 / self.points) * kernel * kept)

    def explicit_eigenvalue(self, radius: ArrayLike) -> np.ndarray:
        """λ_R = λ₀ − 2N(√(1 + (X₀ + R)²) + b₀)R."""
        R = np.asarray(radius, dtype=float)
        lost = 2.0 * self.points * (np.hypot(1.0, self.data_radius + R) + self.feature_moment) * R
        return self.feature_eigenvalue - up(lost)

    def explicit(self, radius: ArrayLike) -> np.ndarray:
        """m(R) = σ_min(B)² (2/N) λ_R e^{−2R(b₀ + R)} where λ_R > 0, else 0; never above root²."""
        R = np.asarray(radius, dtype=float)
        positive = np.maximum(self.explicit_eigenvalue(R), 0.0)
        exponent = np.minimum(up(2.0 * R * (self.feature_moment + R)), 700.0)
        decay = np.where(positive > 0.0, np.exp(-exponent) * (1.0 - 1e-12), 0.0)
        return down(self.output**2 * (2.0 / self.points) * positive * decay)


def initial_ball(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"], passed: Forward | None = None
) -> InitialBall:
    """The constants of the balls around V = 0, computed from the drawn features."""
    passed = passed or forward(net, weights, x)
    weights = exact(weights)
    states, error = passed.states[0], float(length(passed.state_error[0]))
    moment = float(torch.linalg.vector_norm(weights.W[0])) / math.sqrt(weights.width)
    return InitialBall(
        points=x.shape[-2],
        feature_eigenvalue=float(passed.least_eigenvalues()[0]),
        data_norm=up(float(operator_norm(_inputs(net, states))) + error),
        feature_norm=float(_moment(weights)[0]),
        feature_moment=up(moment, weights.W[0].numel()),
        data_radius=up(float(length(states).max()) + error),
        output=float(output_constant(weights)),
    )


@dataclass(frozen=True)
class RunningBall:
    """Balls around any net of depth L: norms of its layers, at the states of its forward pass.

    Attributes
    ----------
    points : N.
    eigenvalue : λ̄ = (1/L)Σ_k λ_min(K_k), a lower bound.
    data_norm : κ_k = ‖[x_{k,i}, 1]_i‖₂, one a layer.
    outer, inner : U_k = ((1/m)Σ|u_j|²)^{1/2} and β_k = ‖(1/m)Σ w_jw_jᵀ‖₂^{1/2}.
    output : σ_min(B), a lower bound.
    """

    points: int
    eigenvalue: float
    data_norm: np.ndarray
    outer: np.ndarray
    inner: np.ndarray
    output: float

    @property
    def depth(self) -> int:
        return len(self.outer)

    def _mean(self, values: np.ndarray) -> float:
        return float(up(values.mean(), self.depth))

    def drift(self, radius: ArrayLike) -> np.ndarray:
        """δ(R) = R√(N + mean U²κ²) exp(mean Uβ + √(mean U²) R) ≥ (Σ_i|x_{k,i} − x⁰_{k,i}|²)^½."""
        R, U, mean = np.asarray(radius, dtype=float), self.outer, self._mean
        exponent = up(mean(U * self.inner) + math.sqrt(mean(U**2)) * R)
        growth = np.exp(np.minimum(exponent, 300.0)) * (1.0 + 1e-12)
        return up(R * math.sqrt(self.points + mean((U * self.data_norm) ** 2)) * growth)

    def kernel_loss(self, radius: ArrayLike) -> np.ndarray:
        """(max κ + δ)R + √(mean β²) δ."""
        R, drift = np.asarray(radius, dtype=float), self.drift(radius)
        return up((self.data_norm.max() + drift) * R + math.sqrt(self._mean(self.inner**2)) * drift)

    def stretch(self, radius: ArrayLike) -> np.ndarray:
        """Λ(R) = mean Uβ + R√(mean(U² + β²)) + R²/2 ≥ (1/L)Σ Lip F_k."""
        R, U, beta, mean = np.asarray(radius, dtype=float), self.outer, self.inner, self._mean
        return up(mean(U * beta) + R * math.sqrt(mean(U**2 + beta**2)) + R**2 / 2.0)

    def steepest(self, radius: ArrayLike) -> np.ndarray:
        """â(R) = min(max_k (U_k + √L R)(β_k + √L R)/L, Λ(R)) ≥ max_k Lip F_k/L."""
        reach = math.sqrt(self.depth) * np.asarray(radius, dtype=float)[..., None]
        layers = (self.outer + reach) * (self.inner + reach) / self.depth
        return np.minimum(up(layers.max(-1)), self.stretch(radius))

    def root(self, radius: ArrayLike) -> np.ndarray:
        """√m(R) = σ_min(B) √(2/N) (1 − â)^{Λ/â} (√λ̄ − (max κ + δ)R − √(mean β²) δ)₊, and 0
        where â ≥ 1; nonincreasing in R."""
        kernel = np.maximum(down(math.sqrt(self.eigenvalue)) - self.kernel_loss(radius), 0.0)
        a, stretch = self.steepest(radius), self.stretch(radius)
        inside = a < 1.0
        safe = np.where(inside, np.maximum(a, 1e-300), 0.5)
        rate = np.where(a > 1e-300, -np.log1p(-safe) / safe, 1.0)
        exponent = np.minimum(stretch * rate * (1.0 + 1e-12), 700.0)
        kept = np.where(inside, np.exp(-exponent) * (1.0 - 1e-12), 0.0)
        return down(self.output * math.sqrt(2.0 / self.points) * kernel * kept)


def running_ball(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"], passed: Forward | None = None
) -> RunningBall:
    """The constants of the balls around a net as it is."""
    passed = passed or forward(net, weights, x)
    weights = exact(weights)
    states, error = passed.states[:-1], length(passed.state_error[:-1])
    eigenvalues = passed.least_eigenvalues()
    size = weights.V.square().sum((-2, -1)) / weights.width
    return RunningBall(
        points=x.shape[-2],
        eigenvalue=down(float(eigenvalues.mean()), weights.depth),
        data_norm=up(operator_norm(_inputs(net, states)) + error).numpy(),
        outer=up(size.sqrt(), weights.V[0].numel()).numpy(),
        inner=_moment(weights).numpy(),
        output=float(output_constant(weights)),
    )


def risk_bound(weights: Weights, passed: Forward, y: Float[Tensor, "n dy"]) -> float:
    """An upper bound on L = (1/2N) Σ_i |Bh_{L,i} − y_i|² in exact arithmetic."""
    B, y = exact(weights).B, y.detach().to("cpu", torch.float64)
    h, error = passed.states[-1], passed.state_error[-1]
    size = up(torch.linalg.vector_norm(B), B.numel())
    residual = length(h @ B.mT - y)
    wrong = size * up(error + gamma(B.shape[-1]) * length(h)) + 2.0 * UNIT * residual
    return float(up((residual + wrong).square().mean() / 2.0, len(y)))
