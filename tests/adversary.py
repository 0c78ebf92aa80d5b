"""A search for measures near a given one at which a slope bound fails, by other means than the
library's: the tangent kernel of (V) alone, minimized over every target y, by projected descent."""

from __future__ import annotations

import math

import torch


def least_ratio(sigma, derivative, x, B, V, W, b):
    """min over y of (V-part of |∂L|²)/L, as a differentiable function of batched particles.

    With residuals r: L = |r|²/(2N) and |∂_V L|² = (1/S)Σ_k (1/N²) Σ_ij K_k,ij p_i·p_j, which is
    a quadratic form in r.

    Shapes: x (n, q), B (dy, q), V (*, S, q, m), W (*, S, m, q), b (*, S, m).
    """
    n, q = x.shape
    S, m = V.shape[-3], V.shape[-1]
    h, kernels, jacobians = x.expand(*V.shape[:-3], n, q), [], []
    for k in range(S):
        z = h @ W[..., k, :, :].mT + b[..., k, None, :]
        phi = sigma(z)
        kernels.append(phi @ phi.mT / m)
        # ∂h_{k+1,i}/∂h_{k,i}, one matrix a point.
        inner = torch.einsum(
            "...am,...nm,...mc->...nac", V[..., k, :, :], derivative(z), W[..., k, :, :]
        )
        jacobians.append(torch.eye(q, dtype=x.dtype) + inner / (m * S))
        h = h + phi @ V[..., k, :, :].mT / (m * S)
    after = B.expand(*V.shape[:-3], n, *B.shape)
    total = 0.0
    for kernel, jacobian in zip(reversed(kernels), reversed(jacobians), strict=True):
        pairs = torch.einsum("...iac,...jdc->...iajd", after, after)
        total = total + kernel[..., :, None, :, None] * pairs
        after = after @ jacobian
    size = n * B.shape[0]
    form = total.reshape(*V.shape[:-3], size, size) / S
    return 2.0 / n * torch.linalg.eigvalsh(form)[..., 0]


def starts(shape, radius, generator, count=24):
    """Displacements (count, S, m, 2q+1) of length R: spread and concentrated in one layer, one
    particle, one coordinate, the outer or the inner weights."""
    S, m, p = shape
    q = (p - 1) // 2
    moves = torch.randn(count, S, m, p, generator=generator, dtype=torch.float64)
    for i in range(count):
        if i % 2:
            moves[i, torch.arange(S) != i // 2 % S] = 0.0
        if i % 3 == 1:
            moves[i, :, torch.arange(m) != i // 3 % m] = 0.0
        if i % 4 == 1:
            moves[i, ..., q:] = 0.0
        if i % 4 == 2:
            moves[i, ..., :q] = 0.0
        if i % 5 == 1:
            moves[i, ..., torch.arange(p) != i // 5 % p] = 0.0
        if not moves[i].any():
            moves[i, 0, 0, 0] = 1.0
    return project(moves, radius, exactly=True)


def project(moves, radius, *, exactly=False):
    """Into the ball (1/(Sm))Σ|δω|² ≤ R²."""
    S, m = moves.shape[-3:-1]
    size = moves.square().sum((-3, -2, -1), keepdim=True).div(S * m).sqrt()
    factor = radius / size.clamp_min(1e-300)
    return moves * (factor if exactly else factor.clamp_max(1.0))


def worst_in_ball(
    sigma, derivative, x, B, weights, radius, *, copies=2, steps=60, seed=0, count=24
):
    """(least ratio found, displaced particles) over measures within the radius of the given one.

    Each atom is split into ``copies``, since a measure in the ball may split it.
    """
    q = x.shape[-1]
    base = torch.cat([weights.V.mT, weights.W, weights.b[..., None]], -1)
    base = base.repeat_interleave(copies, dim=-2)
    generator = torch.Generator().manual_seed(seed)
    moves = starts(base.shape, radius, generator, count)
    best, where = math.inf, None
    rate = 0.2 * moves.flatten(1).norm(dim=1)[:, None, None, None]
    for step in range(steps):
        moves = moves.detach().requires_grad_(True)
        omega = base + moves
        ratio = least_ratio(
            sigma, derivative, x, B, omega[..., :q].mT, omega[..., q : 2 * q], omega[..., -1]
        )
        found = ratio.detach()
        low = int(found.argmin())
        if float(found[low]) < best:
            best, where = float(found[low]), omega[low].detach()
        (slope,) = torch.autograd.grad(ratio.sum(), moves)
        slope = torch.nan_to_num(slope)
        length = slope.flatten(1).norm(dim=1).clamp_min(1e-300)[:, None, None, None]
        moves = project(moves - rate * 0.95**step * slope / length, radius)
    return best, where
