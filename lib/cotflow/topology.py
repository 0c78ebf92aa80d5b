"""How far a layer is from the identity, and what the whole network does to volumes."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network import ResidualNet, Weights


def layer_lipschitz(net: ResidualNet, weights: Weights) -> Float[Tensor, "*runs L"]:
    """a_k = L^{−β} c_m c_q K_σ ‖V_k‖ ‖W_k‖ ≥ Lip of h ↦ L^{−β} c_m V_k σ(c_q W_k h + b_k).

    Operator norms. Where a_k < 1 the layer h ↦ h + (its residual) is a homeomorphism of R^q, and
    a_k is exact for the identity activation with W_k orthogonal.
    """
    scale = net.residual_scale(weights.depth, weights.width) * net.input_scale(weights.state)
    norms = torch.linalg.matrix_norm(weights.V, 2) * torch.linalg.matrix_norm(weights.W, 2)
    return scale * net.activation.lipschitz * norms


def jacobians(
    net: ResidualNet, weights: Weights, h: Float[Tensor, "n q"]
) -> Float[Tensor, "*runs n q q"]:
    """D h_L / D h_0 at the states h_0 = h, row by row by automatic differentiation.

    The embeddings A and B play no part: B·J·A is the derivative of the network's output.
    """
    runs, q = weights.V.shape[:-3], weights.state
    identity = torch.eye(q, dtype=h.dtype, device=h.device).expand(*runs, q, q)
    start = h.detach().expand(*runs, *h.shape).requires_grad_()
    with torch.enable_grad():
        end = net(replace(weights, A=identity, B=identity), start)
        rows = [
            torch.autograd.grad(end[..., i].sum(), start, retain_graph=i + 1 < q)[0]
            for i in range(q)
        ]
    return torch.stack(rows, dim=-2)
