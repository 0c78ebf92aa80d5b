"""The tangent kernel of a network on its data: how outputs move when weights follow a gradient."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.checks import require_kind
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights, require_fit


def tangent_kernel(
    net: ResidualNet, weights: Weights, x: Float[Tensor, "*data n d"]
) -> Float[Tensor, "*runs p p"]:
    """Θ_{(i,a),(j,c)} = Σ_θ r ⟨∂_θF_a(x_i), ∂_θF_c(x_j)⟩ over the trained θ, with the rates r of
    :meth:`cotflow.ResidualNet.rates`; row (i, a) is i·d′ + a, and p = n·d′.

    Along the flow Ḟ = −(2c_ℓ/N)Θ(F − y), and |∂ℛ|² = (2c_ℓ/N)²⟨F − y, Θ(F − y)⟩: over all targets
    |∂ℛ|²/ℛ is at least (4c_ℓ/N)λ_min(Θ), and no more for some.

    Source: the neural tangent kernel of Jacot, Gabriel, Hongler (2018), in the flow's metric.

    >>> import torch
    >>> from cotflow import TANH, Sizes, marion_net, tied
    >>> from cotflow.measure.tangent import tangent_kernel
    >>> start = tied(Sizes(6, 8, 5, 3, 2), torch.Generator().manual_seed(0))  # L, m, q, d, d′
    >>> x = torch.eye(3, dtype=torch.float64)
    >>> tangent_kernel(marion_net(TANH), start, x).shape
    torch.Size([6, 6])
    """
    require_kind(net, ResidualNet, "tangent kernel: expected a network such as marion_net()")
    require_fit("tangent kernel", weights, x)
    rates = net.rates(weights)
    states = net.hidden_states(weights, x)
    *runs, layers, n, _ = states.shape
    depth, dy = layers - 1, weights.B.shape[-2]
    scale = net.residual_scale(depth, weights.width)
    inner = net.input_scale(weights.state)
    size = n * dy

    def gram(rows: Tensor) -> Tensor:
        """⟨row, row′⟩ of (*runs, n, d′, r) as (*runs, p, p)."""
        flat = rows.reshape(*runs, size, rows.shape[-1])
        return torch.matmul(flat, flat.mT)

    def spread(values: Tensor) -> Tensor:
        """(*runs, n, n) repeated for every pair of outputs."""
        return values.repeat_interleave(dy, dim=-2).repeat_interleave(dy, dim=-1)

    last = states[..., -1, :, :]
    kernel = last.new_zeros(*runs, size, size)
    if "B" in rates:
        same = torch.eye(dy, dtype=x.dtype, device=x.device).repeat(n, n)
        kernel = kernel + rates["B"] * spread(torch.matmul(last, last.mT)) * same
    # J = ∂F(x_i)/∂h_k, one d′ × q matrix a point, from the last layer back.
    J = weights.B.unsqueeze(-3).expand(*runs, n, dy, weights.state)
    for k in reversed(range(depth)):
        h, W, V = states[..., k, :, :], weights.W[..., k, :, :], weights.V[..., k, :, :]
        z = torch.matmul(h, W.mT) * inner
        if weights.b is not None:
            z = z + weights.b[..., k, None, :]
        phi, slope = net.activation(z), net.activation.derivative(z)
        # ∂F_a(x_i)/∂z_j.
        through = scale * torch.matmul(J, V.unsqueeze(-3)) * slope.unsqueeze(-2)
        if "V" in rates:
            features = scale**2 * torch.matmul(phi, phi.mT)
            kernel = kernel + rates["V"] * gram(J) * spread(features)
        if "W" in rates or "b" in rates:
            before = gram(through)
            if "W" in rates:
                kernel = kernel + rates["W"] * inner**2 * before * spread(torch.matmul(h, h.mT))
            if "b" in rates:
                kernel = kernel + rates["b"] * before
        J = J + inner * torch.matmul(through, W.unsqueeze(-3))
    if "A" in rates:
        kernel = kernel + rates["A"] * gram(J) * spread(torch.matmul(x, x.mT))
    return kernel
