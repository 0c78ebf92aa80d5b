"""What the energy estimate bounds along a flow before it is run: no blow-up, and how stable it is.

Norms |·| of matrices are Frobenius norms, ‖·‖ operator norms. Source: [C], proofs in the chapters
on existence without clipping (bounds) and on well-posedness (stability).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.measure.observables import largest_layer
from cotflow.network.numbers import real
from cotflow.network.residual import ResidualNet, mean_field_net
from cotflow.network.tensors import require_numbers
from cotflow.network.weights import Weights, require_finite


@dataclass(frozen=True)
class NoBlowUp:
    """Bounds on [0, t] that hold at every depth and in every layer, one number a run.

    Attributes
    ----------
    E : √(tℛ(0)), how far the weights can move in the layer metric.
    G : C_σ′ c_m c_q ‖V‖_{L²}‖W‖_{L²}, both norms at their largest; e^G bounds a sweep's growth.
    H : C_h ≥ |h_{k,i}|.
    P : C_p ≥ (1/N)Σ_i |p_{k,i}|.
    rate : C_σ′ c_m c_q C_h C_p, with (|V_k| + |W_k|)′ ≤ rate·(|V_k| + |W_k|).
    log_layer : natural logarithm of the bound on sup_k (|V_k| + |W_k|).
    """

    E: Float[Tensor, "*runs"]
    G: Float[Tensor, "*runs"]
    H: Float[Tensor, "*runs"]
    P: Float[Tensor, "*runs"]
    rate: Float[Tensor, "*runs"]
    log_layer: Float[Tensor, "*runs"]


def no_blow_up(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    loss: Float[Tensor, "*runs"],
    time: float,
) -> NoBlowUp:
    """sup_k (|V_k| + |W_k|)(t) ≤ sup_k (|V_k| + |W_k|)(0)·exp(C_σ′ c C_h C_p t), c = c_m c_q, with

    E = √(tℛ(0)),  G = C_σ′ c (‖V(0)‖_{L²} + E)(‖W(0)‖_{L²} + E),
    C_h = (‖A(0)‖ + E)C_X e^G,  C_p = 2(‖B(0)‖ + E)√(c_ℓ ℛ(0)) e^G,

    C_σ′ = sup|σ′|, C_X = max|x_i|, ‖V‖²_{L²} = (1/L)Σ_k |V_k|². E is left out where a parameter is
    not trained.

    Parameters
    ----------
    weights, loss : at time 0.

    Raises
    ------
    ValueError : the theorem says nothing about such a net, or numbers are not finite, or < 0.
    """
    _require_layer_flow(net, weights)
    require_finite("no blow-up", weights, x)
    require_numbers(loss, "no blow-up", "losses")
    time = real(time, "no blow-up: expected a finite time ≥ 0", lambda t: 0.0 <= t < math.inf)
    if bool((loss < 0).any()):
        raise ValueError(f"no blow-up: expected a loss ≥ 0, received {float(loss.min()):.3g}")
    E = (time * loss).sqrt()

    starts = {name: torch.linalg.matrix_norm(getattr(weights, name), ord=2) for name in ("A", "B")}
    for name, value in (("V", weights.V), ("W", weights.W)):
        starts[name] = value.square().sum((-2, -1)).mean(-1).sqrt()
    reach = {name: start + E if name in net.trained else start for name, start in starts.items()}
    c = _gain(net, weights)
    G = c * reach["V"] * reach["W"]
    H = reach["A"] * x.norm(dim=-1).amax(-1) * G.exp()
    P = 2.0 * reach["B"] * (net.loss_factor * loss).sqrt() * G.exp()
    rate = c * H * P
    log_layer = largest_layer(weights).log() + rate * time
    return NoBlowUp(E=E, G=G, H=H, P=P, rate=rate, log_layer=log_layer)


def layer_rate(net: ResidualNet, weights: Weights, at: Gradient) -> Float[Tensor, "*runs"]:
    """ρ = C_σ′ c_m c_q max_k (1/N)Σ_i |p_{k,i}||h_{k−1,i}|, measured on one state of a run.

    The flow obeys (|V_k| + |W_k|)′ ≤ ρ(|V_k| + |W_k|) there, and one explicit Euler step of size
    η multiplies |V_k| + |W_k| by 1 + ηρ at most.
    """
    _require_layer_flow(net, weights)
    before, after = at_layers(weights, at)
    products: Tensor = before.norm(dim=-1) * after.norm(dim=-1)
    return _gain(net, weights) * products.mean(-1).amax(-1)


def at_layers(
    weights: Weights, at: Gradient
) -> tuple[Float[Tensor, "*runs L n q"], Float[Tensor, "*runs L n q"]]:
    """(h_{k−1}, p_k) for k = 1..L: the state before each layer and the adjoint after it."""
    states, adjoints = _kept(weights, at)
    return states[..., :-1, :, :], adjoints[..., 1:, :, :]


def _kept(weights: Weights, at: Gradient) -> tuple[Tensor, Tensor]:
    """States and adjoints of a gradient at these weights, all finite numbers."""
    if at.states is None or at.adjoints is None:
        raise ValueError(
            "bounds: expected a gradient with its states and adjoints, received one made without "
            "them; ask for it without segment"
        )
    *runs, layers, _, state = at.states.shape
    fits = (layers, state) == (weights.depth + 1, weights.state)
    if not fits or tuple(runs) != (weights.runs or tuple(runs)):
        raise ValueError(
            f"bounds: expected a gradient at these weights, V of shape {tuple(weights.V.shape)}, "
            f"received one with states of shape {tuple(at.states.shape)}"
        )
    require_finite("bounds", weights)
    for name, value in (("states", at.states), ("adjoints", at.adjoints)):
        require_numbers(value, "bounds", name)
    return at.states, at.adjoints


def semiconvexity(
    net: ResidualNet, weights: Weights, at: Gradient, y: Float[Tensor, "*data n dy"]
) -> Float[Tensor, "*runs"]:
    """C with d²/dτ² ℛ(θ + τξ) ≥ −C|ξ|² at τ = 0, |ξ|² = (1/(LM))Σ_{k,j} |ξ_{k,j}|², where

    C = r D (C_σ″U(C_x + aρ₂)² + 2C_σ′(C_x + 2aρ₂)),  D = e^{C_σ′ρ₂²/2},  a = D(σ₀ + C_σ′C_xρ₂),

    U = max|u|, ρ₂² = (1/(LM))Σ|ω|², C_x = max √(1 + |x_{k,i}|²), r = (1/N)Σ|x_{L,i} − y_i|,
    C_σ′ = sup|σ′|, C_σ″ = sup|σ″|, σ₀ = |σ(0)|. For ``mean_field_net`` with A = B = I.
    """
    if net != mean_field_net(net.activation, trained=net.trained):
        raise ValueError(f"semi-convexity: expected a net made by mean_field_net, received {net}")
    eye = torch.eye(weights.state, dtype=weights.V.dtype, device=weights.V.device)
    for name, value in (("A", weights.A), ("B", weights.B)):
        if value.shape[-2:] != eye.shape or bool((value != eye).any()):
            raise ValueError(f"semi-convexity: expected {name} = I, received another {name}")
    K1, K2 = net.activation.lipschitz, net.activation.curvature
    sigma0 = net.activation(weights.V.new_zeros(())).abs()
    U: Tensor = weights.V.norm(dim=-2).amax((-2, -1))
    moment = weights.V.square().sum(-2) + weights.W.square().sum(-1)
    if weights.b is not None:
        moment = moment + weights.b.square()
    R = moment.mean((-2, -1)).sqrt()
    states, _ = _kept(weights, at)
    require_numbers(y, "semi-convexity", "entries of y")
    if y.shape[-2:] != (states.shape[-2], weights.B.shape[-2]):
        raise ValueError(
            f"semi-convexity: expected y of shape {(states.shape[-2], weights.B.shape[-2])}, "
            f"received {tuple(y.shape)}"
        )
    X = (1.0 + states.square().sum(-1)).sqrt().amax((-2, -1))
    r: Tensor = (states[..., -1, :, :] - y).norm(dim=-1).mean(-1)
    D = (0.5 * K1 * R.square()).exp()
    a = D * (sigma0 + K1 * X * R)
    return r * D * (K2 * U * (X + a * R).square() + 2.0 * K1 * (X + 2.0 * a * R))


def _gain(net: ResidualNet, weights: Weights) -> float:
    """C_σ′ c_m c_q."""
    scale = net.residual_scale(1, weights.width) * net.input_scale(weights.state)
    return net.activation.lipschitz * scale


def _require_layer_flow(net: ResidualNet, weights: Weights) -> None:
    plain = net.metric == "layer" and not net.speed and net.depth_exponent == 1.0
    origin = float(net.activation(weights.V.new_zeros(()))) == 0.0
    if not plain or not origin or weights.b is not None:
        raise ValueError(
            "no blow-up: expected a net without bias, with σ(0) = 0, depth exponent 1 and the "
            f"layer metric without extra speeds, received {net}"
        )
