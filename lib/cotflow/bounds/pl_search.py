"""How small |∂ℛ|²/ℛ gets in a ball around given weights: a search, so an upper bound of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import evaluated
from cotflow.network.numbers import positive, real, whole
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class SmallestFound:
    """An upper bound on inf |∂ℛ|²/ℛ over the ball; the infimum itself may be smaller.

    Attributes
    ----------
    ratio : the smallest value met, at ``weights``.
    centre, drawn : the value at the centre, and the smallest of the random points alone.
    """

    ratio: float
    weights: Weights
    centre: float
    drawn: float


def into_ball(weights: Weights, centre: Weights, radius: float, *, onto: bool = False) -> Weights:
    """Each block moved towards the centre until it lies in [M]'s ball: ‖A − Ā‖_F ≤ R,
    ‖V_k − V̄_k‖_F + ‖W_k − W̄_k‖_F ≤ R for each k, ‖B − B̄‖_F ≤ R; ``onto`` its border."""
    moves = {name: v - getattr(centre, name) for name, v in weights.tensors().items()}
    sizes = {name: torch.linalg.vector_norm(v, dim=(-2, -1)) for name, v in moves.items()}
    layers = sizes["V"] + sizes["W"]
    sizes |= {"V": layers, "W": layers}

    def factor(size: Tensor) -> Tensor:
        full = radius / size.clamp_min(1e-300)
        return torch.where(size > 0, full, torch.ones_like(full)) if onto else full.clamp_max(1.0)

    return Weights(
        **{
            name: getattr(centre, name) + factor(sizes[name])[..., None, None] * move
            for name, move in moves.items()
        }
    )


@torch.inference_mode(False)
def smallest_pl(
    net: ResidualNet,
    weights: Weights,
    x: Tensor,
    y: Tensor | None,
    radius: float,
    generator: torch.Generator,
    *,
    draws: int = 64,
    rounds: int = 40,
) -> SmallestFound:
    """The smallest |∂ℛ|²/ℛ met in the ball of [M] Definition 1, at fixed targets or, without any,
    at the worst ones of every network (:func:`worst_targets`).

    ``draws`` random points on the border of the ball, then ``rounds`` projected steps down the
    logarithm of the ratio (by automatic differentiation) from the smallest, each as long as a
    falling part of the radius. Trained parameters move; the others stay.

    Raises
    ------
    ValueError : several runs, a radius or counts that are none, or a risk that is 0 or no number.
    """
    radius = real(radius, "search: expected a finite radius > 0", positive)
    draws = whole(draws, "search: expected draws ≥ 0", 0)
    rounds = whole(rounds, "search: expected rounds ≥ 0", 0)

    def targets(point: Weights) -> Tensor:
        return worst_targets(net, point, x) if y is None else y

    at = evaluated(net, weights, x, targets(weights))
    if at.loss.ndim or not 0.0 < float(at.loss) < math.inf:
        raise ValueError(f"search: expected one run of finite loss > 0, received {at.loss}")
    centre = float(at.slope_squared / at.loss)
    best, ratio = weights, centre
    for _ in range(draws):
        noise = {name: _noise(getattr(weights, name), generator) for name in net.trained}
        point = into_ball(weights.plus(noise, 1.0), weights, radius, onto=True)
        at = evaluated(net, point, x, targets(point))
        if float(at.slope_squared / at.loss) < ratio:
            best, ratio = point, float(at.slope_squared / at.loss)
    drawn, point = ratio, best
    for k in range(rounds):
        value, slope = _log_ratio(net, point, x, targets(point))
        if value < math.log(ratio):
            best, ratio = point, math.exp(value)
        length = radius * 0.3 * 0.02 ** (k / max(rounds - 1, 1))
        step = {
            name: v / torch.linalg.vector_norm(v, dim=(-2, -1), keepdim=True).clamp_min(1e-300)
            for name, v in slope.items()
        }
        point = into_ball(point.plus(step, -length), weights, radius)
    value, _ = _log_ratio(net, point, x, targets(point))
    if value < math.log(ratio):
        best, ratio = point, math.exp(value)
    return SmallestFound(ratio=ratio, weights=best, centre=centre, drawn=drawn)


def worst_targets(net: ResidualNet, weights: Weights, x: Float[Tensor, "n d"]) -> Tensor:
    """The y with F(x) − y of length 1 and the least |∂ℛ|²/ℛ of all: with e_a the unit residuals,
    G_ac = Σ_θ r⟨∂_θℛ(e_a), ∂_θℛ(e_c)⟩, and y from the lowest eigenvector of G."""
    outputs = net(weights, x)
    count, shape = outputs.numel(), outputs.shape
    units = torch.eye(count, dtype=outputs.dtype, device=outputs.device).reshape(count, *shape)
    many = weights.map(lambda v: v.expand(count, *v.shape).contiguous())
    at = evaluated(net, many, x.expand(count, *x.shape).contiguous(), outputs - units)
    rates = net.rates(weights)
    rows = [at.velocity[name].flatten(1) / math.sqrt(rate) for name, rate in rates.items()]
    slopes = torch.cat(rows, -1)
    lowest = torch.linalg.eigh(slopes @ slopes.mT).eigenvectors[:, 0]
    worst: Tensor = outputs - lowest.reshape(shape)
    return worst


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _log_ratio(
    net: ResidualNet, weights: Weights, x: Tensor, y: Tensor
) -> tuple[float, dict[str, Tensor]]:
    """log(Σ_θ r|∂_θℛ|²/ℛ) and its gradient."""
    with torch.enable_grad():
        leaves = {name: getattr(weights, name).clone().requires_grad_() for name in net.trained}
        loss = net.loss(replace(weights, **leaves), x, y)
        partials = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        rates = net.rates(weights)
        squares = (rates[name] * g.square().sum() for name, g in zip(leaves, partials, strict=True))
        slope = sum(squares, loss.new_zeros(()))
        value = slope.log() - loss.log()
        found = torch.autograd.grad(value, list(leaves.values()))
    return float(value.detach()), dict(zip(leaves, found, strict=True))
