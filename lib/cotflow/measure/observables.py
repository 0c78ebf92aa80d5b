"""Numbers read off a network's weights: gaps between successive layers and norms."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.checks import require_kind
from cotflow.network.weights import Weights


def gaps(values: Float[Tensor, "*runs L a c"]) -> Float[Tensor, "*runs gaps"]:
    """‖Z_{k+1} − Z_k‖_F for k = 1..L−1."""
    norms: Tensor = torch.linalg.vector_norm(values.diff(dim=-3), dim=(-2, -1))
    return norms


def largest_gap(weights: Weights) -> Float[Tensor, "*runs"]:
    """max_k (‖V_{k+1} − V_k‖_F + ‖W_{k+1} − W_k‖_F), [M]'s convention for ‖Z‖; 0 at depth 1.

    >>> import torch
    >>> from cotflow import Weights, largest_gap
    >>> layers = torch.tensor([1.0, 1.0, 4.0]).reshape(3, 1, 1)  # L = 3, q = m = 1
    >>> largest_gap(Weights(A=torch.ones(1, 1), V=layers, W=-layers, B=torch.ones(1, 1)))
    tensor(6.)
    """
    require_kind(weights, Weights, "largest gap: expected cotflow.Weights")
    if weights.depth == 1:
        return weights.V.new_zeros(weights.runs)
    found = (gaps(weights.V) + gaps(weights.W)).amax(-1)
    if not (found.is_meta or bool(torch.isfinite(found).all())):
        raise ValueError(
            "largest gap: expected finite weights whose squares are within the range of "
            f"{str(found.dtype).removeprefix('torch.')}, received gaps up to "
            f"{float(found.detach().max()):.3g}"
        )
    return found


def squared_gaps(values: Float[Tensor, "*runs L a c"]) -> Float[Tensor, "*runs"]:
    """Σ_k ‖Z_{k+1} − Z_k‖_F²."""
    return values.diff(dim=-3).square().sum((-3, -2, -1))


def largest_layer(weights: Weights) -> Float[Tensor, "*runs"]:
    """sup_k (‖V_k‖_F + ‖W_k‖_F)."""
    V, W = (torch.linalg.vector_norm(z, dim=(-2, -1)) for z in (weights.V, weights.W))
    largest: Tensor = (V + W).amax(-1)
    return largest


def largest_norm(weights: Weights) -> Float[Tensor, "*runs"]:
    """max(‖A‖_F, sup_k(‖V_k‖_F + ‖W_k‖_F), ‖B‖_F): the C_θ that bounds ask for."""
    A, B = (torch.linalg.vector_norm(z, dim=(-2, -1)) for z in (weights.A, weights.B))
    return torch.maximum(largest_layer(weights), torch.maximum(A, B))


def step_ratio(values: Float[Tensor, "*runs L a c"]) -> Float[Tensor, "*runs"]:
    """ρ = (Σ_k |Z_{k+1} − Z_k|² / Σ_k |Z_k − mean|²)^{1/2}, which is blind to shifts and scale.

    Between 2 sin(π/2L) and 2 cos(π/2L); at most C/L for weights that are smooth in depth; √2 for
    independent layers, and ρ² is 2 on average over all orders of any given layers. Not a number
    where all layers are equal.
    """
    spread = values - values.mean(-3, keepdim=True)
    return (squared_gaps(values) / spread.square().sum((-3, -2, -1))).sqrt()
