"""The maps h ↦ h + f(h, θ_k) of the layers: Lipschitz constants of f, Jacobians of all together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from cotflow.network.numbers import whole
from cotflow.network.residual import ResidualNet
from cotflow.network.tensors import require_numbers
from cotflow.network.weights import Weights, require_finite


def sample_norms(values: Float[Tensor, "*batch ..."], batch: int = 1) -> Float[Tensor, "*batch"]:
    """Euclidean norm of each sample: over all axes but the first ``batch``."""
    norms: Tensor = values.flatten(batch).norm(dim=-1)
    return norms


@torch.no_grad()
def jacobian_norms(
    f: Callable[[int, Tensor], Tensor],
    states: Float[Tensor, "layers *batch ..."],
    iterations: int,
    generator: torch.Generator,
    *,
    batch: int = 1,
) -> Float[Tensor, "L *batch"]:
    """‖D_hf(k, h_{k,i})‖₂ for every layer k and sample i, from below.

    Power iteration on DᵀD, each product one forward and one backward derivative. Its value never
    exceeds the norm and grows with the iterations: an estimate of a Lipschitz constant, never a
    bound. Samples, the first ``batch`` axes of a state, must not see each other in f.

    Raises
    ------
    ValueError : fewer than two states or one iteration, or states that are not finite.
    """
    iterations = whole(iterations, "norms of Jacobians: expected iterations ≥ 1", 1)
    _require_states("norms of Jacobians", states, 2, batch)
    norms, least = [], torch.finfo(states.dtype).tiny
    for k, h in enumerate(states[:-1]):
        v = torch.randn(h.shape, generator=generator, dtype=h.dtype, device=h.device)
        with torch.enable_grad():
            start = h.detach().requires_grad_()
            end = f(k, start)
        for _ in range(iterations):
            lengths = sample_norms(v, batch).clamp_min(least)
            v = v / lengths.reshape(*v.shape[:batch], *[1] * (v.ndim - batch))
            pushed = jvp(lambda x, k=k: f(k, x), (h,), (v,))[1]
            v = torch.autograd.grad(end, start, pushed, retain_graph=True)[0]
        norms.append(sample_norms(pushed, batch))
    return torch.stack(norms)


@torch.no_grad()
def secants(
    f: Callable[[int, Tensor], Tensor],
    first: Float[Tensor, "L *batch ..."],
    second: Float[Tensor, "L *batch ..."],
    *,
    batch: int = 1,
) -> Float[Tensor, "L *batch"]:
    """|f(k, h′_k) − f(k, h_k)| / |h′_k − h_k|, h ``first`` and h′ ``second``, for every layer k and
    sample; nan where h_k = h′_k.

    The only Lipschitz quotients that a comparison of two trajectories asks for.

    Raises
    ------
    ValueError : no states, states of different shapes, or such that are not finite.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"secants: expected two states a layer, received shapes {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    for states in (first, second):
        _require_states("secants", states, 1, batch)
    return torch.stack(
        [
            sample_norms(f(k, y) - f(k, x), batch) / sample_norms(y - x, batch)
            for k, (x, y) in enumerate(zip(first, second, strict=True))
        ]
    )


def _require_states(what: str, states: Tensor, least: int, batch: int) -> None:
    require_numbers(states, what, "states")
    if len(states) < least or not 1 <= batch < states.ndim - 1:
        raise ValueError(
            f"{what}: expected at least {least} states, of more axes than the {batch} of the "
            f"samples, received shape {tuple(states.shape)}"
        )


def layer_lipschitz(net: ResidualNet, weights: Weights) -> Float[Tensor, "*runs L"]:
    """a_k = L^{−β} c_m c_q C_σ′ ‖V_k‖ ‖W_k‖ ≥ Lip of h ↦ L^{−β} c_m V_k σ(c_q W_k h + b_k).

    C_σ′ = sup|σ′|, operator norms. Where a_k < 1 the layer h ↦ h + (its residual) is a
    homeomorphism of R^q, and a_k is exact for the identity activation with W_k orthogonal.
    """
    require_finite("Lipschitz bound", weights)
    scale = net.residual_scale(weights.depth, weights.width) * net.input_scale(weights.state)
    norms: Tensor = torch.linalg.matrix_norm(weights.V, 2) * torch.linalg.matrix_norm(weights.W, 2)
    return scale * net.activation.lipschitz * norms


@torch.inference_mode(False)
def jacobians(
    net: ResidualNet, weights: Weights, h: Float[Tensor, "n q"]
) -> Float[Tensor, "*runs n q q"]:
    """D h_L / D h_0 at the states h_0 = h, row by row by automatic differentiation.

    The embeddings A and B play no part: B·J·A is the derivative of the network's output.
    """
    runs, q = weights.runs, weights.state
    require_finite("Jacobians", weights)
    require_numbers(h, "Jacobians", "states")
    if h.ndim != 2 or h.shape[-1] != q or h.dtype != weights.V.dtype:
        raise ValueError(
            f"Jacobians: expected states of shape (n, {q}) in {weights.V.dtype}, received "
            f"{tuple(h.shape)} in {h.dtype}"
        )
    identity = torch.eye(q, dtype=h.dtype, device=h.device).expand(*runs, q, q)
    start = h.detach().expand(*runs, *h.shape).requires_grad_()
    with torch.enable_grad():
        end = net(replace(weights, A=identity, B=identity), start)
        rows = [
            torch.autograd.grad(end[..., i].sum(), start, retain_graph=i + 1 < q)[0]
            for i in range(q)
        ]
    return torch.stack(rows, dim=-2)
