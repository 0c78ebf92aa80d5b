"""|∂ℛ|² ≥ c_PL ℛ near V = 0: constants of [M] Prop. 5, Prop. 8, Thm 6, and sharper ones.

The ball of radius R around (Ā, Z̄, B̄), [M] Definition 1: ‖A − Ā‖_F ≤ R, ‖B − B̄‖_F ≤ R and
‖V_k − V̄_k‖_F + ‖W_k − W̄_k‖_F ≤ R for every layer. Matrices Σ_k = [σ(c_q W_k h_{k−1,i})]_i are m×N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.network.activations import Activation
from cotflow.network.numbers import positive, real, whole
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights, require_finite


def pl_constant(at: Gradient) -> Float[Tensor, "*runs"]:
    """(‖∂_Aℛ‖² + LΣ_k‖∂_{Z_k}ℛ‖² + ‖∂_Bℛ‖²)/ℛ over the trained parts, [M] Definition 1; not a
    number where ℛ = 0."""
    return at.slope_squared / at.loss


@dataclass(frozen=True)
class Proposition5:
    """[M] Prop. 5 for ‖x_i‖ = √q, q ≥ d + d′: if m ≥ c₁N and L ≥ c₂√(Nq), then with probability
    1 − δ the (R, c_PL)-local PL condition holds at the start, R = c₃/√(Nq), c_PL = c₄/(N√(Nq)).

    Attributes
    ----------
    order, coefficient : r ≥ 2 and |η_r(σ)|.
    width, depth : c₁N and c₂√(Nq).
    radius : R.
    constant : c_PL as the proof gives it; :attr:`stated` is the smaller c₄/(N√N·q) as stated.
    """

    order: int
    coefficient: float
    bound: float
    samples: int
    state: int
    c1: float
    c2: float
    c3: float
    c4: float

    @property
    def width(self) -> float:
        return self.c1 * self.samples

    @property
    def depth(self) -> float:
        return self.c2 * math.sqrt(self.samples * self.state)

    @property
    def radius(self) -> float:
        return self.c3 / math.sqrt(self.samples * self.state)

    @property
    def constant(self) -> float:
        return self.c4 / (self.samples * math.sqrt(self.samples * self.state))

    @property
    def stated(self) -> float:
        return self.c4 / (math.pow(self.samples, 1.5) * self.state)

    def failure(self, width: int, inputs: int, proxy: float = 1.0) -> dict[str, float]:
        """The three parts of δ at width m and input dimension d; ``proxy`` is v_x², the
        sub-Gaussian proxy of √(d/q)·x. A part above 1 says nothing."""
        n = self.samples
        inputs = whole(inputs, "[M] Prop. 5: expected an input dimension ≥ 1", 1)
        proxy = real(proxy, "[M] Prop. 5: expected a finite proxy > 0", positive)
        coherence = (3.0 / (4.0 * n)) ** (2.0 / self.order) * inputs / (2.0 * proxy)
        return {
            "norm of W": math.exp(-self.state * width / 16.0),
            "features": feature_failure(n, width, self.coefficient, self.bound),
            "coherence of the data": 2.0 * n**2 * math.exp(-coherence),
        }


def proposition_5(
    activation: Activation, order: int, coefficient: float, samples: int, state: int
) -> Proposition5:
    """c₁ = max(2¹⁰C²e^{4√2C}/η², 1), c₂ = 128C²e^{2√2C}/η, c₃ = min(η/(32√2C), ½),
    c₄ = η³/(2¹⁴C²e^{6√2C}), with C = C_σ′ = sup|σ′| and η = |η_r|."""
    samples = whole(samples, "[M] Prop. 5: expected samples ≥ 1", 1)
    state = whole(state, "[M] Prop. 5: expected a state ≥ 1", 1)
    eta, K, root = abs(coefficient), activation.lipschitz, math.sqrt(2.0)
    if not 0.0 < eta < math.inf or order < 2:
        raise ValueError(
            f"[M] Prop. 5: expected an order ≥ 2 with a coefficient ≠ 0, received {order}, {eta}"
        )
    return Proposition5(
        order=order,
        coefficient=eta,
        bound=activation.bound,
        samples=samples,
        state=state,
        c1=max(2.0**10 * K**2 * math.exp(4 * root * K) / eta**2, 1.0),
        c2=128.0 * K**2 * math.exp(2 * root * K) / eta,
        c3=min(eta / (32.0 * root * K), 0.5),
        c4=eta**3 / (2.0**14 * K**2 * math.exp(6 * root * K)),
    )


# −log of e^{−ζ}/(1 − ζ)^{1−ζ} at ζ = ¾, over 4: what the Chernoff bound gives at a quarter.
FEATURE_EXPONENT = (0.75 + 0.25 * math.log(0.25)) / 4.0
PRINTED_EXPONENT = 3.0 / 64.0


def feature_failure(
    samples: int,
    width: int | float,
    coefficient: float,
    bound: float,
    exponent: float = PRINTED_EXPONENT,
) -> float:
    """N exp(−a·m η²/(C_σ² N)) ≥ P(σ_min(σ(WX)) < ¼√m|η|), given |⟨x_i, x_j⟩|^r ≤ 3/(4N), unit x.

    a = 3/64 as printed in [M] (Lemma 21); the matrix Chernoff bound gives a = 0.1008
    (:data:`FEATURE_EXPONENT`), and 9/128 in its simplest form. Void (N) for unbounded σ.
    """
    samples = whole(samples, "[M] Lemma 21: expected samples ≥ 1", 1)
    real(width, "[M] Lemma 21: expected a width ≥ 1", lambda m: 1.0 <= m < math.inf)
    real(bound, "[M] Lemma 21: expected a bound of σ > 0", lambda v: v > 0.0)
    real(coefficient, "[M] Lemma 21: expected a finite coefficient")
    return samples * math.exp(-exponent * width * coefficient**2 / (bound**2 * samples))


@dataclass(frozen=True)
class Theorem6:
    """[M] Thm 6 where Prop. 5 holds: (1/N)Σ|y_i|² ≤ C gives ℛ(t) ≤ exp(−c₄t/(N√N·q)) ℛ(0).

    Attributes
    ----------
    log10_K : log₁₀ of C_f = max(sup‖∂₁f‖, sup‖∂₂f‖), both over ‖V‖_F + ‖W‖_F ≤ C_Z and the
        second over ‖h‖ ≤ e^{sup‖∂₁f‖}C_AC_X.
    log10_log10_C : log₁₀(−log₁₀ C) with that C_f.
    kind_K, kind_log10_C : C_f and log₁₀ C when the suprema are taken over the ball alone, ‖V‖ ≤ R
        and ‖W‖ ≤ √(2qm) + R.
    """

    log10_K: float
    log10_log10_C: float
    kind_K: float
    kind_log10_C: float


def theorem_6(five: Proposition5, lipschitz: float, width: float) -> Theorem6:
    """C = c₃²c₄²/(64N⁴q³ max(C_BC_f, C_BC_X, C_AC_X)² e^{2C_f}), C_A = C_B = 1 + R, C_X = √q and
    C_Z = √(2qm) + R, for two-layer residuals of width m."""
    lipschitz = real(lipschitz, "[M] Thm 6: expected a finite sup|σ′| > 0", positive)
    width = real(width, "[M] Thm 6: expected a width ≥ 1", lambda m: 1.0 <= m < math.inf)
    n, q, M, ln10 = five.samples, five.state, five.radius, math.log(10.0)
    c = lipschitz / math.sqrt(width * q)
    M_A, M_X, M_W = 1.0 + M, math.sqrt(q), math.sqrt(2.0 * q * width) + M
    log_prefactor = 2.0 * math.log(five.c3 * five.c4) - math.log(64.0 * n**4 * q**3)

    def log10_C(K: float) -> float:
        largest = M_A * max(K, M_X)
        return (log_prefactor - 2.0 * math.log(largest) - 2.0 * K) / ln10

    kind_K1 = c * M * M_W
    kind_K = max(kind_K1, c * M_W * math.exp(kind_K1) * M_A * M_X)
    K1 = c * M_W**2 / 4.0
    log10_K = max(math.log10(K1), math.log10(c * M_W * M_A * M_X) + K1 / ln10)
    # The tower e^{2C_f} outweighs every other factor once C_f is large.
    tower = log10_K + math.log10(2.0 / ln10)
    exact = math.log10(-log10_C(10.0**log10_K)) if log10_K < 100 else tower
    return Theorem6(
        log10_K=log10_K, log10_log10_C=exact, kind_K=kind_K, kind_log10_C=log10_C(kind_K)
    )


def proposition_8(
    constant: float, radius: float, K: float, A: float, B: float, x_bound: float
) -> float:
    """The largest ℛ(0) with c_PL ≥ max(C_BC_f, C_BC_X, C_AC_X)·8e^{C_f} √ℛ(0)/R, [M] Prop. 8.

    Parameters
    ----------
    constant, radius : c_PL and R of the local PL condition.
    K : C_f, a bound on ‖∂₁f‖ and ‖∂₂f‖ over the ball, e.g. :meth:`StartNorms.derivatives`.
    A, B : operator norms at the start; C_A = ‖A‖ + R, C_B = ‖B‖ + R.
    """
    radius = real(radius, "[M] Prop. 8: expected a finite radius > 0", positive)
    for value in (constant, K, A, B, x_bound):
        real(value, "[M] Prop. 8: expected finite numbers ≥ 0", lambda v: 0.0 <= v < math.inf)
    M_A, M_B = A + radius, B + radius
    largest = max(M_B * K, M_B * x_bound, M_A * x_bound)
    return (constant * radius / (8.0 * math.exp(K) * largest)) ** 2


@dataclass(frozen=True)
class StartBound:
    """What holds in the whole ball of radius R around a start with V = 0.

    Attributes
    ----------
    radius : R.
    constant : c with |∂ℛ|² ≥ cℛ in the ball, for all targets; 0 where the ball is too large.
    speed : S with max(‖Ȧ‖_F, max_k(‖V̇_k‖_F + ‖Ẇ_k‖_F), ‖Ḃ‖_F) ≤ S√ℛ in the ball.
    """

    radius: float
    constant: float
    speed: float

    @property
    def largest_loss(self) -> float:
        """ℛ(0) below (cR/2S)² never leaves the ball, and then ℛ(t) ≤ e^{−ct}ℛ(0)."""
        return (self.constant * self.radius / (2.0 * self.speed)) ** 2


@dataclass(frozen=True)
class StartNorms:
    """The numbers of a start with V = 0 from which its local PL constant follows.

    Attributes
    ----------
    depth, samples : L, N.
    scales : c_m, c_q of the network, e.g. 1/√m, 1/√q.
    lipschitz, loss_factor : C_σ′ = sup|σ′| and c_ℓ.
    A, B, least_B : ‖A‖, ‖B‖ and σ_min(Bᵀ), operator norms.
    x : C_X = max_i|x_i|.
    W : ‖W_k‖ for every layer.
    least : σ_min(Σ_k) for every layer.

    Source: [C], proof in the chapter on long training times.
    """

    depth: int
    samples: int
    scales: tuple[float, float]
    lipschitz: float
    loss_factor: float
    A: float
    B: float
    least_B: float
    x: float
    W: Float[Tensor, " L"]
    least: Float[Tensor, " L"]

    def _growth(self, radius: float) -> tuple[float, float]:
        """(g, e^g) with g = C_σ′ c_m c_q R(‖W‖ + R), ‖W‖ = max_k‖W_k‖."""
        M, (c_m, c_q) = radius, self.scales
        g = self.lipschitz * c_m * c_q * M * (float(self.W.max()) + M)
        return g, math.exp(min(g, 700.0))

    def bound(self, radius: float) -> StartBound:
        """c_Σ = (4c_ℓc_m²/N) mean_k(σ_min(Σ_k) − Δ_{Σ_k})₊² (σ_min(Bᵀ) − R)₊² (1 − g/L)₊^{2L}.

        With ‖W‖ = max_k‖W_k‖, g = C_σ′c_mc_qR(‖W‖ + R), H = (‖A‖ + R)C_Xe^g and
        Δ_h = RC_X + (e^g − 1)(‖A‖ + R)C_X:  Δ_{Σ_k} = √N·C_σ′c_q(RH + ‖W_k‖Δ_h), and
        S_Σ = 2√c_ℓ·max((‖B‖ + R)e^g·max(gH/R, C_X), H). For every L ≥ 1, every width, and every
        activation with σ(0) = 0 and C_σ′ < ∞.
        """
        M = real(radius, "local PL: expected a finite radius > 0", positive)
        (c_m, c_q), K = self.scales, self.lipschitz
        g, growth = self._growth(M)
        first = (self.A + M) * self.x
        H, D = growth * first, M * self.x + (growth - 1.0) * first
        kept = self.least - math.sqrt(self.samples) * K * c_q * (M * H + self.W * D)
        constant = float(kept.clamp_min(0.0).square().mean())
        constant *= 4.0 * self.loss_factor * c_m**2 / self.samples
        constant *= max(self.least_B - M, 0.0) ** 2
        constant *= max(1.0 - g / self.depth, 0.0) ** (2 * self.depth)
        adjoint = (self.B + M) * growth
        speed = max(adjoint * max(g * H / M, self.x), H)
        return StartBound(
            radius=M, constant=constant, speed=2.0 * math.sqrt(self.loss_factor) * speed
        )

    def derivatives(self, radius: float) -> float:
        """C_f: ‖∂₁f‖ ≤ g and ‖∂_Vf‖ + ‖∂_Wf‖ ≤ gH/R in the ball, the larger of the two."""
        radius = real(radius, "local PL: expected a finite radius > 0", positive)
        g, growth = self._growth(radius)
        return max(g, g * growth * (self.A + radius) * self.x / radius)

    def best(self, radii: int = 400) -> StartBound:
        """The radius, among ``radii`` geometrically spaced ones, that admits the largest risk."""
        radii = whole(radii, "local PL: expected radii ≥ 1", 1)
        candidates = (self.bound(float(M)) for M in np.geomspace(1e-8, 1.0, radii))
        return max(candidates, key=lambda bound: bound.largest_loss)


def start_norms(net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"]) -> StartNorms:
    """Measured on one start, in the precision of its weights.

    Raises
    ------
    ValueError : several runs, a net outside the theorem, or numbers that are not finite.
    """
    if weights.runs or x.ndim != 2:
        raise ValueError(
            f"local PL: expected one run, received V of shape {tuple(weights.V.shape)} and x of "
            f"shape {tuple(x.shape)}"
        )
    least = least_feature_singular_values(net, weights, x)
    B = torch.linalg.svdvals(weights.B)
    return StartNorms(
        depth=weights.depth,
        samples=x.shape[-2],
        scales=(net.residual_scale(1, weights.width), net.input_scale(weights.state)),
        lipschitz=net.activation.lipschitz,
        loss_factor=net.loss_factor,
        A=float(torch.linalg.matrix_norm(weights.A, ord=2)),
        B=float(B[0]),
        least_B=float(B[-1]) if weights.B.shape[-2] <= weights.state else 0.0,
        x=float(torch.linalg.vector_norm(x, dim=-1).max()),
        W=torch.linalg.matrix_norm(weights.W, ord=2),
        least=least,
    )


def least_feature_singular_values(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "*data n d"]
) -> Float[Tensor, "*runs L"]:
    """σ_min(Σ_k) of every layer at V = 0, where every state is Ax_i; 0 if m < N."""
    require_start(net, weights, x)
    features = _features(net, weights, x)
    if features.shape[-1] < features.shape[-2]:
        return features.new_zeros(features.shape[:-2])
    values: Tensor = torch.linalg.svdvals(features)
    return values[..., -1]


def start_constant(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "*data n d"]
) -> Float[Tensor, "*runs"]:
    """min over all targets of |∂ℛ|²/ℛ at a start with V = 0, A = (I; 0), B = (0, I), q ≥ d + d′:

    (4c_ℓ/N)·λ_min(c_m² mean_k Σ_kᵀΣ_k + (a + b)XᵀX), where a and b are 1 if A and B train, else 0.
    Exact.

    Source: [C], proof in the chapter on long training times.
    """
    require_start(net, weights, x)
    features = _features(net, weights, x)
    kernel = torch.matmul(features, features.mT).mean(-3)
    kernel = kernel * net.residual_scale(1, weights.width) ** 2
    kernel = kernel + ("A" in net.trained) * torch.matmul(x, x.mT)
    kernel = kernel + ("B" in net.trained) * torch.matmul(x, x.mT)
    least: Tensor = torch.linalg.eigvalsh(kernel)[..., 0].clamp_min(0.0)
    return 4.0 * net.loss_factor / x.shape[-2] * least


def _features(net: ResidualNet, weights: Weights, x: Tensor) -> Float[Tensor, "*runs L n m"]:
    h = torch.matmul(x, weights.A.mT).unsqueeze(-3)
    return net.activation(torch.matmul(h, weights.W.mT) * net.input_scale(weights.state))


def require_start(net: ResidualNet, weights: Weights, x: Tensor) -> None:
    """V = 0, no bias, σ(0) = 0, V trained, the layer metric at depth exponent 1."""
    require_finite("local PL", weights, x)
    zero = float(net.activation(torch.zeros((), dtype=weights.V.dtype, device="cpu")))
    if (
        weights.b is not None
        or bool(weights.V.any())
        or zero != 0.0
        or net.metric != "layer"
        or net.depth_exponent != 1.0
        or "V" not in net.trained
        or net.speed
    ):
        raise ValueError(
            "local PL: expected a start with V = 0 and no bias, σ(0) = 0, V trained, and the layer "
            f"metric with depth exponent 1 and no speeds; received σ = {net.activation.name}, "
            f"σ(0) = {zero:g}, largest |V| = {float(weights.V.abs().max()):.3g}, metric "
            f"{net.metric!r}, trained {net.trained}"
        )
