"""Norms of data and layers that the balls are made of, and the risk; all rounded up."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.eigenvalues import operator_norm
from cotflow.certificates.features import Forward, exact, length
from cotflow.certificates.rounding import LEAST, UNIT, gamma, up
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


def data_norm(
    net: ResidualNet,
    weights: Weights,
    states: Float[Tensor, "*shape n q"],
    error: Float[Tensor, "*shape n"],
) -> Float[Tensor, "*shape"]:
    """κ = ‖[h_i, 1]_i‖₂, without the columns of coordinates that do not move: h if w is frozen,
    1 if b is frozen or absent."""
    columns = [states] if "W" in net.trained else []
    if "b" in net.trained and weights.b is not None:
        columns.append(torch.ones_like(states[..., :1]))
    if not columns:
        return states.new_zeros(states.shape[:-2])
    return up(operator_norm(torch.cat(columns, -1)) + length(error))


def feature_norms(weights: Weights) -> Float[Tensor, " L"]:
    """β_k = ‖(1/M) Σ_j w_j w_jᵀ‖₂^{1/2}."""
    return up(operator_norm(weights.W) / math.sqrt(weights.width))


def risk_bound(weights: Weights, passed: Forward, y: Float[Tensor, "n dy"]) -> float:
    """An upper bound on ℛ = (1/2N) Σ_i |Bh_{L,i} − y_i|² in exact arithmetic; 0 only if it is 0."""
    B, y = exact(weights).B, y.detach().to("cpu", torch.float64)
    h, error = passed.states[-1], passed.state_error[-1]
    size = up(torch.linalg.vector_norm(B), B.numel())
    residual = length(h @ B.mT - y)
    wrong = size * up(error + gamma(B.shape[-1]) * length(h)) + 2.0 * UNIT * residual
    risk = float(up((residual + wrong).square().mean() / 2.0, len(y)))
    if bool(y.any()) or bool(h.any()) or bool(error.any()):
        risk = max(risk, LEAST)
    return math.inf if math.isnan(risk) else risk
