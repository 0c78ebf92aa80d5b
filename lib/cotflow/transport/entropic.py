"""Entropic transport, layer by layer in one batch: Sinkhorn iterations on logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.numbers import positive, real, whole
from cotflow.transport.layers import require_layers


@dataclass(frozen=True)
class EntropicDistance:
    """What the regularized problems OT_ε of every layer leave.

    Attributes
    ----------
    transport : ⟨C, γ_ε⟩, the cost of the optimal plan without its entropy; ≥ W₂².
    value : OT_ε = min_γ ⟨C, γ⟩ + ε KL(γ | α ⊗ β); W₂² ≤ OT_ε ≤ W₂² + ε log M for M atoms.
        As computed, neither this nor ``transport`` is below W₂² by more than tolerance·max C.
    divergence : S_ε = OT_ε(α, β) − ½ OT_ε(α, α) − ½ OT_ε(β, β): zero between equal measures.
    iterations : of the plan between the two families, until its slowest layer was done.
    """

    transport: Float[Tensor, "*runs L"]
    value: Float[Tensor, "*runs L"]
    divergence: Float[Tensor, "*runs L"]
    iterations: int


def entropic_distance(
    mu: Float[Tensor, "*runs L m p"],
    nu: Float[Tensor, "*runs L m2 p"],
    epsilon: float,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 100_000,
) -> EntropicDistance:
    """OT_ε(α, β) = min_γ ∫|ω−ω′|²dγ + ε KL(γ | α ⊗ β), for every layer of uniform atoms at once.

    O(L M² (D + iterations)); layers never wait for a loop, and nothing leaves the device.

    Parameters
    ----------
    epsilon : in the units of |ω − ω′|²; at least u·max C/(4·tolerance) for numbers of resolution
        u, below which a marginal cannot be told to be right.
    tolerance : largest total error of a marginal, Σ_i |(γ1)_i − 1/M|, in any layer. The values are
        dual and much more accurate than that; the plan's cost is of that accuracy.

    Raises
    ------
    ValueError : ε is below the resolution of the costs; atoms or costs are not finite.
    RuntimeError : the tolerance was not reached; a larger ε needs fewer iterations.

    Source: Feydy et al., AISTATS 2019.

    >>> import torch
    >>> from cotflow import entropic_distance
    >>> mu, nu = torch.zeros(2, 1, 4), torch.ones(2, 1, 4)  # L = 2 layers of one atom in R⁴
    >>> entropic_distance(mu, nu, epsilon=0.5).value
    tensor([4., 4.])
    """
    require_layers(mu, nu, what="entropic distance")
    epsilon = real(epsilon, "entropic distance: expected a finite epsilon > 0", positive)
    tolerance = real(
        tolerance, "entropic distance: expected 0 < tolerance < 1", lambda t: 0.0 < t < 1.0
    )
    max_iterations = whole(max_iterations, "entropic distance: expected max_iterations ≥ 1", 1)
    cost, *within = (_cost(a, b) for a, b in ((mu, nu), (mu, mu), (nu, nu)))
    _require_resolved((cost, *within), epsilon, tolerance)
    f, g, iterations = _potentials(cost, epsilon, tolerance, max_iterations)
    log_plan = (f[..., :, None] + g[..., None, :] - cost) / epsilon
    transport = (log_plan.exp() * cost).mean((-2, -1))
    value = f.mean(-1) + g.mean(-1)
    own = [
        2 * _symmetric_potential(each, epsilon, tolerance, max_iterations).mean(-1)
        for each in within
    ]
    return EntropicDistance(
        transport=transport,
        value=value,
        divergence=value - 0.5 * (own[0] + own[1]),
        iterations=iterations,
    )


def _cost(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


def _require_resolved(costs: Sequence[Tensor], epsilon: float, tolerance: float) -> None:
    """Refuse an ε at which the rounding of (f + g − C)/ε alone moves a marginal so far."""
    dtype = costs[0].dtype
    name, largest = (
        str(dtype).removeprefix("torch."),
        max(float(cost.detach().max()) for cost in costs),
    )
    if math.isinf(largest):
        raise ValueError(
            f"entropic distance: expected squared distances within the range of {name}, received "
            "larger ones"
        )
    least = torch.finfo(dtype).eps * largest / (4.0 * tolerance)
    if epsilon < least:
        raise ValueError(
            f"entropic distance: expected epsilon ≥ {least:.3g}, the resolution of costs up to "
            f"{largest:.3g} in {name} at a tolerance of {tolerance:g}, received {epsilon:g}"
        )


def _soft_minimum(cost: Tensor, potential: Tensor, epsilon: float) -> Tensor:
    """−ε log (1/M) Σ_j exp((g_j − C_ij)/ε), for every i."""
    scaled = (potential.unsqueeze(-2) - cost) / epsilon
    return -epsilon * (scaled.logsumexp(-1) - math.log(cost.shape[-1]))


def _marginal_error(f: Tensor, following: Tensor, epsilon: float) -> Tensor:
    """Largest Σ_i |(γ1)_i − 1/M|: the row sums of the plan, times M, are exp((f − following)/ε)."""
    return ((f - following) / epsilon).exp().sub(1).abs().mean(-1).amax()


def _potentials(
    cost: Tensor, epsilon: float, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, int]:
    """(f, g) whose plan exp((f + g − C)/ε) has both marginals uniform; its columns are exact."""
    g = torch.zeros_like(cost[..., 0, :])
    f = _soft_minimum(cost, g, epsilon)
    for iteration in range(1, max_iterations + 1):
        g = _soft_minimum(cost.mT, f, epsilon)
        following = _soft_minimum(cost, g, epsilon)
        off = _marginal_error(f, following, epsilon)
        if off <= tolerance:
            return f, g, iteration
        f = following
    raise _unfinished(off, epsilon, tolerance, max_iterations)


def _symmetric_potential(
    cost: Tensor, epsilon: float, tolerance: float, max_iterations: int
) -> Tensor:
    """f = g between a family and itself; averaging two iterates makes it a few dozen steps."""
    f = torch.zeros_like(cost[..., 0, :])
    for _ in range(max_iterations):
        following = _soft_minimum(cost, f, epsilon)
        off = _marginal_error(f, following, epsilon)
        if off <= tolerance:
            return f
        f = 0.5 * (f + following)
    raise _unfinished(off, epsilon, tolerance, max_iterations)


def _unfinished(off: Tensor, epsilon: float, tolerance: float, iterations: int) -> RuntimeError:
    return RuntimeError(
        f"entropic distance: a marginal is off by {float(off.detach()):.1e} after {iterations} "
        f"iterations, expected at most {tolerance:.1e}; epsilon = {epsilon:g} is too small for that"
    )
