"""c_PL(R) ≤ |∂ℛ|²/ℛ on [M]'s ball of radius R around V = 0, with what A and B add, every depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.bounds.local_pl import require_start
from cotflow.certificates.certificate import Certificate, descent_budget, last_positive
from cotflow.certificates.eigenvalues import least_singular_value, operator_norm
from cotflow.certificates.features import Forward, exact, length
from cotflow.certificates.hypotheses import coincident, require_data
from cotflow.certificates.norms import risk_bound
from cotflow.certificates.rounding import BEYOND, LEAST, UNIT, Reals, down, gamma, radii, up
from cotflow.certificates.slope import output_constant
from cotflow.network.checks import require_kind, require_values
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class BlockBall:
    """Balls ‖A − Ā‖_F ≤ R, ‖V_k‖_F + ‖W_k − W̄_k‖_F ≤ R, ‖B − B̄‖_F ≤ R around V = 0.

    H̄ = ĀX are the states, Σ̄_k = [σ(c_qW̄_kh̄_i)]_i the features; a and b are 1 where A and B train.

    Attributes
    ----------
    points, loss_factor, lipschitz, scales : N, c_ℓ, C_σ′ = sup|σ′|, (c_m, c_q).
    eigenvalue : λ = λ_min(σ_min(B̄)²(c_m² mean_k Σ̄_kᵀΣ̄_k + a XᵀX) + b H̄ᵀH̄), a lower bound.
    data, state, state_size : ‖X‖₂, ‖H̄‖₂, ‖H̄‖_F.
    output : ‖B̄‖₂.
    inner, features : ‖W̄_k‖₂ and ‖Σ̄_k‖₂, one a layer.
    moving : (a, b).
    """

    points: int
    loss_factor: float
    lipschitz: float
    scales: tuple[float, float]
    eigenvalue: float
    data: float
    state: float
    state_size: float
    output: float
    inner: np.ndarray
    features: np.ndarray
    moving: tuple[bool, bool]

    @BEYOND
    def growth(self, radius: Reals) -> Reals:
        """e^g, g = C_σ′ c_m c_q R(max_k ‖W̄_k‖ + R): how far L layers can stretch."""
        M, (c_m, c_q) = radii(radius), self.scales
        g = up(self.lipschitz * c_m * c_q * M * (self.inner.max() + M))
        growth: Reals = up(np.exp(g * (1.0 + 1e-12)) * (1.0 + 1e-12))
        return growth

    @BEYOND
    def drift(self, radius: Reals) -> Reals:
        """Δ_h = aR‖X‖ + (e^g − 1)(‖H̄‖_F + aR‖X‖) ≥ ‖H_k − H̄‖_F."""
        moved = radii(radius) * (self.data if self.moving[0] else 0.0)
        return up(moved + self._beyond_one(radius) * (self.state_size + moved))

    def _beyond_one(self, radius: Reals) -> Reals:
        """e^g − 1."""
        return up(np.maximum(self.growth(radius) - 1.0, 0.0) + 4.0 * UNIT)

    @BEYOND
    def adjoint_loss(self, radius: Reals) -> Reals:
        """γ = bRe^g + ‖B̄‖(e^g − 1) ≥ |½p_{k,i} − c_ℓB̄ᵀE_i|/(c_ℓ|E_i|), E_i = F(x_i) − y_i."""
        moved = radii(radius) * (1.0 if self.moving[1] else 0.0)
        return up(moved * self.growth(radius) + self.output * self._beyond_one(radius))

    @BEYOND
    def feature_loss(self, radius: Reals) -> np.ndarray:
        """Δ_{Σ_k} = C_σ′ c_q(R(‖H̄‖₂ + Δ_h) + ‖W̄_k‖Δ_h) ≥ ‖Σ_k − Σ̄_k‖_F, a last axis of layers."""
        M, D = radii(radius), self.drift(radius)
        first = np.asarray(M * (self.state + D))[..., None]
        lost = first + self.inner * np.asarray(D)[..., None]
        return up(self.lipschitz * self.scales[1] * lost)

    @BEYOND
    def loss(self, radius: Reals) -> Reals:
        """err = (c_m² mean_k(γ‖Σ̄_k‖ + (‖B̄‖ + γ)Δ_{Σ_k})² + a(γ‖X‖)² + bΔ_h²)^½."""
        e = self.adjoint_loss(radius)
        layers = np.asarray(e)[..., None] * self.features
        layers = layers + np.asarray(self.output + e)[..., None] * self.feature_loss(radius)
        total = self.scales[0] ** 2 * (layers**2).mean(-1)
        if self.moving[0]:
            total = total + (e * self.data) ** 2
        if self.moving[1]:
            total = total + self.drift(radius) ** 2
        loss = up(np.sqrt(total), len(self.features))
        return np.where(np.isnan(loss), np.inf, loss)

    @BEYOND
    def constant(self, radius: Reals) -> Reals:
        """c_PL(R) = (4c_ℓ/N)(√λ − err)₊², nonincreasing in R, for all targets and every depth."""
        kept = np.maximum(down(math.sqrt(self.eigenvalue)) - self.loss(radius), 0.0)
        return down(4.0 * self.loss_factor / self.points * down(kept) ** 2)

    @BEYOND
    def speed(self, radius: Reals) -> Reals:
        """S(R) = 2√(c_ℓ/N) max(a(‖B̄‖ + γ)‖X‖, b(‖H̄‖₂ + Δ_h), c_m(‖B̄‖ + γ)s_Σ) with
        s_Σ = max_k(‖Σ̄_k‖ + Δ_{Σ_k}): every block moves at most at S√ℛ."""
        adjoint = self.output + self.adjoint_loss(radius)
        layers = (self.features + self.feature_loss(radius)).max(-1)
        fastest = self.scales[0] * adjoint * layers
        if self.moving[0]:
            fastest = np.maximum(fastest, adjoint * self.data)
        if self.moving[1]:
            fastest = np.maximum(fastest, self.state + self.drift(radius))
        speed = up(2.0 * math.sqrt(self.loss_factor / self.points) * fastest)
        return np.where(np.isnan(speed), np.inf, speed)

    @BEYOND
    def root(self, radius: Reals) -> Reals:
        """c_PL/S: √ℛ falls by at least ½c_PL/S for every unit that the fastest block moves."""
        return down(self.constant(radius) / np.maximum(self.speed(radius), LEAST))


def block_ball(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"], passed: Forward | None = None
) -> BlockBall:
    """The constants of [M]'s balls around V = 0, computed from the weights at hand."""
    _require(net, weights, x)
    passed = passed or _start(net, weights, x)
    moving = "A" in net.trained, "B" in net.trained
    c_m, c_q = net.residual_scale(1, weights.width), net.input_scale(weights.state)
    weights, x = exact(weights), x.detach().to("cpu", torch.float64)
    states, state_error = passed.states[0], float(length(passed.state_error[0]))
    least_output = float(output_constant(weights))
    layers, errors = passed.features, passed.feature_error
    parts = [least_output * c_m / math.sqrt(len(layers)) * layer for layer in layers]
    wrong = least_output * c_m * float(up(errors.square().mean().sqrt(), len(errors)))
    parts += [least_output * x] if moving[0] else []
    parts += [states] if moving[1] else []
    stacked = torch.cat(parts, -1)
    # Each product by a scale that is itself rounded.
    wrong += state_error + 8.0 * UNIT * up(float(stacked.norm()), stacked.numel())
    return BlockBall(
        points=x.shape[-2],
        loss_factor=net.loss_factor,
        lipschitz=net.activation.lipschitz,
        scales=(c_m, c_q),
        eigenvalue=float(down(least_singular_value(stacked, up(wrong)).square())),
        data=float(operator_norm(x)),
        state=float(up(operator_norm(states) + state_error)),
        state_size=up(float(states.norm()), states.numel()) + state_error,
        output=float(operator_norm(weights.B)),
        inner=operator_norm(weights.W[: len(layers)]).numpy(),
        features=up(operator_norm(layers) + errors).numpy(),
        moving=moving,
    )


def _require(net: ResidualNet, weights: Weights, x: Tensor, y: Tensor | None = None) -> None:
    require_kind(net, ResidualNet, "certificate: expected a network such as marion_net(TANH)")
    require_data(weights, x, y, runs=False)
    require_start(net, weights, x)


def _start(net: ResidualNet, weights: Weights, x: Tensor) -> Forward:
    """States and features at V = 0 with bounds on their rounding; one layer stands for equal ones.

    σ is taken to be evaluated to within 8u·max(1, |σ|).
    """
    weights, x = exact(weights), x.detach().to("cpu", torch.float64)
    W = weights.W[:1] if bool((weights.W[:1] == weights.W).all()) else weights.W
    d, q, m = x.shape[-1], weights.state, weights.width
    h = x @ weights.A.mT
    error = up(gamma(d) * up(torch.linalg.matrix_norm(weights.A), d * q) * length(x))
    c_q = net.input_scale(q)
    phi = net.activation(c_q * (h @ W.mT))
    row = c_q * length(W)[..., None, :]
    moved = row * (gamma(q + 4) * length(h) + error)[..., None]
    wrong = 8.0 * UNIT * phi.abs().clamp_min(1.0) + net.activation.lipschitz * moved
    wrong_features = up(torch.linalg.matrix_norm(wrong), wrong.shape[-2] * m)
    return Forward(
        states=h.expand(2, *h.shape),
        state_error=error.expand(2, -1),
        features=phi,
        feature_error=wrong_features,
    )


def block_certificate(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"], y: Float[Tensor, "n dy"]
) -> Certificate:
    """Convergence of [M]'s flow from V = 0, proven before the first step, at every depth.

    √ℛ(0) ≤ ½∫₀^R c_PL/S with c_PL and S of :class:`BlockBall`. If it holds, no block moves
    further than ``radius`` (blocks are A, B and each layer, with ‖V_k‖_F + ‖W_k − W̄_k‖_F),
    ℛ(t) ≤ e^{−rate·t}ℛ(0), and every block θ converges, |θ_∞ − θ(t)| ≤ (2S/rate)√ℛ(t), to a
    network that fits.

    Raises
    ------
    ValueError : the start or the network is not the theorem's (V = 0, no bias, σ(0) = 0, V trained,
        layer metric with depth exponent 1).

    Source: [C], proof in the chapter on long training times.

    >>> import torch
    >>> from cotflow import TANH, Sizes, marion_net, tied
    >>> from cotflow.certificates import block_certificate
    >>> start = tied(Sizes(8, 64, 4, 3, 1), torch.Generator().manual_seed(0))  # L, m, q, d, d′
    >>> x = 2.0 * torch.eye(3, dtype=torch.float64)
    >>> y = torch.ones(3, 1, dtype=torch.float64)
    >>> [block_certificate(marion_net(TANH), start, x, size * y).holds for size in (1e-3, 1.0)]
    [True, False]
    """
    require_values(y, "certificate: expected a torch tensor for y")
    _require(net, weights, x, y)
    passed = _start(net, weights, x)
    ball = block_ball(net, weights, x, passed)
    risk = up(2.0 * net.loss_factor * risk_bound(weights, passed, y))
    reach = last_positive(ball.root)
    path, budget = descent_budget(ball.root, reach)
    largest = float(down(budget[-1] ** 2))
    radius = float(path[min(int(np.searchsorted(budget, up(math.sqrt(risk)))), len(path) - 1)])
    rate, reason = float(ball.constant(radius)), ""
    twins = coincident(passed.states[0])
    if twins:
        reason = f"two data points coincide (rows {twins[0]} and {twins[1]})"
    elif ball.eigenvalue == 0.0:
        reason = "the least eigenvalue of the tangent kernel at the start is 0 to rounding"
    elif 0.0 < risk <= 4.0 * net.loss_factor * LEAST:
        reason = f"the risk at the start is not 0, but below {LEAST:.0e}, where squares underflow"
    elif not risk <= largest:
        reason = f"the risk {risk:.4g} at the start is above the threshold {largest:.4g}"
    elif rate <= LEAST:
        reason = f"the rate is below {LEAST:.0e}, where squares underflow"
    return Certificate(
        holds=not reason,
        radius=radius,
        rate=0.0 if reason else rate,
        risk=risk,
        largest_risk=largest,
        feature_eigenvalue=ball.eigenvalue,
        theorem="blocks",
        reason=reason,
    )
