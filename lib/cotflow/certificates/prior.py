"""Convergence before the features are drawn: how many, how small a risk, with which probability."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.chernoff import features_needed
from cotflow.certificates.eigenvalues import eigenvalue_bounds, operator_norm
from cotflow.certificates.features import ideal_kernel
from cotflow.certificates.hypotheses import LARGEST, coincident, require_numbers
from cotflow.certificates.rounding import down, up
from cotflow.network.numbers import real, whole


@dataclass(frozen=True)
class PriorCertificate:
    """With probability 1 − δ over the draw of M or more features, shared by all layers, every flow
    of risk ℛ(μ_0) ≤ ``largest_risk`` converges to risk 0, at every depth: it stays within
    ``radius``, and ℛ(μ_t) ≤ e^{−rate·t} ℛ(μ_0).

    Attributes
    ----------
    points, failure : N, δ.
    eigenvalue : λ = λ_min(K) of the ideal kernel, a lower bound; 0 if nothing is promised.
    features : the least M, 6.52 (N/λ) log(2N/δ).
    feature_norm : β, with β² = τ²(q + 2√(qt/M) + 2t/M) and t = log(2/δ).
    speed : C = √(κ² + (4/9)Nβ²) + 1/(2√2), κ = ‖[x_i, 1]_i‖₂.
    output : σ_min(B).
    reason : a sentence where nothing is promised, else empty.
    """

    points: int
    failure: float
    eigenvalue: float
    features: int
    feature_norm: float
    speed: float
    output: float
    reason: str = ""

    @property
    def radius(self) -> float:
        """R = √(λ/8)/C."""
        return up(math.sqrt(self.eigenvalue / 8.0) / self.speed)

    @property
    def _kept(self) -> float:
        """θ = 1 − (β + ½)R: what the layers keep of the adjoint."""
        return 1.0 - up((self.feature_norm + 0.5) * self.radius)

    @property
    def rate(self) -> float:
        """c_PL = σ_min(B)² λθ²/(4N)."""
        return down((self.output * self._kept) ** 2 * self.eigenvalue / (4.0 * self.points))

    @property
    def largest_risk(self) -> float:
        """9σ_min(B)² λ²θ²/(512NC²)."""
        root = 3.0 * self.output * self.eigenvalue * self._kept / self.speed
        return down(root**2 / (512.0 * self.points))

    def gain(self, risk: float) -> float:
        """The factor on B with which a risk that does not change with B is admitted."""
        risk = real(risk, "prior certificate: expected a finite risk ≥ 0", lambda r: r >= 0.0)
        return up(math.sqrt(risk / self.largest_risk)) if self.largest_risk > 0.0 else math.inf


def prior_certificate(
    x: Float[Tensor, "n d"],
    *,
    tau: float = 1.0,
    failure: float = 0.05,
    state: int | None = None,
    output: float = 1.0,
) -> PriorCertificate:
    """For σ = cos, w ~ N(0, τ²I), b ~ U[0, 2π] and V = 0; the least eigenvalue decides.

    Parameters
    ----------
    x : the states before the first layer, or inputs that (I; 0) embeds.
    failure : δ.
    state : q, the dimension of the state; None is that of x.
    output : σ_min(B).

    Source: [C], proof in the chapter on local PL.

    >>> import torch
    >>> from cotflow.certificates import prior_certificate
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> found = prior_certificate(x, tau=1.0, failure=0.01)
    >>> found.features, round(found.eigenvalue, 3)
    (306, 0.409)
    """
    kernel, wrong = ideal_kernel(x, tau)
    require_numbers("x", x)
    tau, points, d = float(tau), x.shape[-2], x.shape[-1]
    wanted = "prior certificate: expected"
    failure = real(failure, f"{wanted} 0 < failure < 1", lambda value: 0.0 < value < 1.0)
    q = d if state is None else whole(state, f"{wanted} a state of at least {d}, that of x", d)
    output = real(output, f"{wanted} 0 < output ≤ {LARGEST:.0e}", lambda c: 0.0 < c <= LARGEST)
    found = max(float(eigenvalue_bounds(kernel)[0]) - wrong, 0.0)
    reason = ""
    twins = coincident(x)
    if twins or found == 0.0:
        found = 0.0
        reason = "the least eigenvalue of the ideal kernel is 0 to rounding"
        if twins:
            reason = f"two data points coincide (rows {twins[0]} and {twins[1]})"
    x = x.detach().to("cpu", torch.float64)
    columns = torch.cat([x, torch.ones(points, 1, dtype=torch.float64, device="cpu")], -1)
    needed, t = features_needed(found, points, failure / 2.0) if found else 0, math.log(2 / failure)
    share = t / max(needed, 1)
    beta = up(tau * math.sqrt(q + 2.0 * math.sqrt(q * share) + 2.0 * share))
    kappa = float(operator_norm(columns))
    return PriorCertificate(
        points=points,
        failure=failure,
        eigenvalue=found,
        features=needed,
        feature_norm=beta,
        speed=up(math.sqrt(kappa**2 + 4.0 * points * beta**2 / 9.0) + 0.125**0.5),
        output=output,
        reason=reason,
    )
