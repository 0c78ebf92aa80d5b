"""A certificate: what the start alone proves about the whole gradient flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.features import Forward, forward
from cotflow.certificates.hypotheses import coincident, require_ball, require_data
from cotflow.certificates.independent import IndependentBall, independent_ball
from cotflow.certificates.initial import InitialBall, initial_ball
from cotflow.certificates.norms import risk_bound
from cotflow.certificates.rounding import LEAST, Reals, down, up
from cotflow.certificates.running import RunningBall, running_ball
from cotflow.network.numbers import real, shown
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights

# Right-endpoint sums of a nonincreasing function on so many intervals: low by about 1/1000.
INTERVALS = 4096
# Finer towards 0, since a ball may be a small part of the largest one.
GRID = (np.arange(INTERVALS + 1) / INTERVALS) ** 2
Ball = InitialBall | IndependentBall | RunningBall
Theorem = Literal["sharp", "explicit", "independent", "running", "blocks"]


@dataclass(frozen=True)
class Certificate:
    """If it holds: the flow stays within ``radius`` of its start in the labelled distance (and so
    in d), ℛ(μ_t) ≤ e^{−rate·t} ℛ(μ_0), and μ_t converges to a global minimizer, with
    d(μ_t, μ_∞) ≤ (2/√rate) √ℛ(μ_0) e^{−rate·t/2}.

    Attributes
    ----------
    holds : whether the hypotheses are met, all roundings taken against it.
    radius : R, that of the ball; where nothing holds, that of the last ball tried.
    rate : c_PL(R) with |∂ℛ|² ≥ c_PL(R)ℛ on the ball; 0 where nothing holds.
    risk : ℛ(μ_0), rounded up.
    largest_risk : the certificate holds for every risk up to this, features and x unchanged.
    feature_eigenvalue : λ₀ (initial), λ_min(K̄) (independent) or λ̄ (running), rounded down.
    theorem : "sharp", "explicit" (both at the initial law), "independent", "running", or "blocks"
        for :func:`cotflow.certificates.block_certificate`, whose ball and rate are [M]'s.
    reason : a sentence where it does not hold, else empty.
    """

    holds: bool
    radius: float
    rate: float
    risk: float
    largest_risk: float
    feature_eigenvalue: float
    theorem: Theorem
    reason: str

    def __str__(self) -> str:
        if not self.holds:
            return f"no certificate: {self.reason}"
        return (
            f"certified: the flow converges, ℛ(t) ≤ exp(−{self.rate:.3g} t) ℛ(0), "
            f"and stays within {self.radius:.2g} of its start"
        )


def last_positive(function: Callable[[Reals], Reals]) -> float:
    """The end of {R : f(R) > 0} for f nonincreasing, from inside; 0 if f(0) ≤ 0."""
    if not function(0.0) > 0.0:
        return 0.0
    low, high = 0.0, 1.0
    while function(high) > 0.0:
        high *= 2.0
    for _ in range(1100):
        middle = high / 2.0 if low == 0.0 else (low + high) / 2.0
        if middle in (low, high) or high - low < 1e-12 * high:
            break
        low, high = (middle, high) if function(middle) > 0.0 else (low, middle)
    return low


def descent_budget(root: Callable[[Reals], Reals], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """(R, ½∫₀^R √c_PL dr from below) on a grid of [0, reach], √c_PL nonincreasing.

    √ℛ falls by at least ½√c_PL(r) for every unit of length, so a flow with √ℛ(μ_0) ≤ ½∫₀^R √c_PL
    never becomes longer than R.
    """
    radii = reach * GRID
    steps = root(radii[1:]) * np.diff(radii)
    return radii, down(np.concatenate([[0.0], np.cumsum(steps)]) / 2.0, INTERVALS)


def _by_budget(ball: Ball, risk: float, radius: float | None) -> tuple[float, float, float, str]:
    """(radius, rate, largest risk, obstacle) by √ℛ(μ_0) ≤ ½∫₀^R √c_PL; no rate where it fails."""
    reach = last_positive(ball.root) if radius is None else radius
    radii, budget = descent_budget(ball.root, reach)
    obstacle = ball.obstacle(reach) if radius is not None else ""
    largest = 0.0 if obstacle else float(down(budget[-1] ** 2))
    if obstacle or not risk <= largest:
        return reach, 0.0, largest, obstacle
    if radius is None:
        first = int(np.searchsorted(budget, up(math.sqrt(risk))))
        reach = float(radii[min(first, INTERVALS)])
    return reach, float(down(ball.root(reach) ** 2)), largest, obstacle


def _by_one_radius(
    ball: InitialBall, risk: float, radius: float | None
) -> tuple[float, float, float, str]:
    """The same by ℛ(μ_0) ≤ c_PL(R)R²/4."""
    reach = last_positive(ball.explicit) if radius is None else radius
    radii = np.array([reach])
    if radius is None:
        radii = reach * GRID
    thresholds = down(ball.explicit(radii) * radii**2 / 4.0)
    best = int(thresholds.argmax())
    enough = np.flatnonzero(risk <= thresholds)
    if not enough.size:
        obstacle = ball.explicit_obstacle(reach) if radius is not None else ""
        return float(radii[best]), 0.0, float(thresholds[best]), obstacle
    reach = float(radii[enough[0]])
    return reach, float(ball.explicit(reach)), float(thresholds[best]), ""


def _unfit(ball: Ball, passed: Forward) -> str:
    """Why no radius at all can do, or nothing."""
    twins = coincident(passed.states[0])
    if twins:
        return (
            f"two data points coincide (rows {twins[0]} and {twins[1]}), so the kernel is singular "
            "and no certificate exists"
        )
    if ball.output == 0.0:
        return "the output map B is not onto, so no certificate exists"
    if ball.feature_eigenvalue == 0.0:
        depth, width = passed.features.shape[-3], passed.features.shape[-1]
        few = f"a layer's {width} features are fewer than the {ball.points} data points"
        if isinstance(ball, IndependentBall):
            width *= depth
            few = f"all layers' {width} features are fewer than the {ball.points} data points"
        none = "the least eigenvalue of the features' kernel is 0 to rounding"
        return f"{few if width < ball.points else none}, so no certificate exists"
    if isinstance(ball, RunningBall) and ball.steepest(0.0) >= 1.0:
        return (
            "a layer may be too steep to keep its points apart: its Lipschitz bound over the depth "
            f"is {float(ball.steepest(0.0)):.4g} ≥ 1, so no certificate exists"
        )
    return ""


def _certificate(
    ball: Ball,
    passed: Forward,
    risk: float,
    radius: float | None,
    theorem: Theorem,
) -> Certificate:
    unfit = _unfit(ball, passed)
    if not unfit and 0.0 < risk <= LEAST:
        unfit = f"the risk at the start is not 0, but below {LEAST:.0e}, where squares underflow"
    if unfit:
        found = radius or 0.0, 0.0, 0.0, unfit
    elif theorem == "explicit" and isinstance(ball, InitialBall):
        found = _by_one_radius(ball, risk, radius)
    else:
        found = _by_budget(ball, risk, radius)
    reach, rate, largest, reason = found
    if 0.0 < rate <= LEAST:
        rate, reason = 0.0, f"the rate is below {LEAST:.0e}, where squares underflow"
    if rate == 0.0 and not reason:
        where = "" if radius is None else f" of the ball of radius R = {radius:.4g}"
        reason = f"the risk {risk:.4g} at the start is above the threshold {largest:.4g}{where}"
    return Certificate(
        holds=rate > 0.0,
        radius=reach,
        rate=rate,
        risk=risk,
        largest_risk=largest,
        feature_eigenvalue=ball.feature_eigenvalue,
        theorem=theorem,
        reason=reason,
    )


def _radius(radius: float | None) -> float | None:
    expected = "certificate: expected a radius > 0 or none"
    return None if radius is None else real(radius, expected, lambda r: 0.0 < r < 1e60)


def initial_certificate(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n dy"],
    radius: float | None = None,
    *,
    constants: Literal["sharp", "explicit"] = "sharp",
) -> Certificate:
    """Convergence from V = 0 and tied features, proven before the first step, at every depth.

    "sharp": √ℛ(μ_0) ≤ ½∫₀^R √c_PL with √c_PL of :meth:`InitialBall.root`.
    "explicit": ℛ(μ_0) ≤ c_PL(R)R²/4 with c_PL of :meth:`InitialBall.explicit`; never better than
    "sharp".

    Parameters
    ----------
    radius : the ball to look at; None takes the smallest that does, which has the best rate.

    Raises
    ------
    ValueError : the network, its scaling, the activation or a shape is not the theorem's. Data or
        features that admit no certificate are no error: ``holds`` is False and ``reason`` tells.

    Source: [C], proofs in the chapter on local PL.

    >>> import torch
    >>> from cotflow import COS, Sizes, mean_field_net, tied
    >>> from cotflow.certificates import gaussian_cos, initial_certificate
    >>> net, g = mean_field_net(COS), torch.Generator().manual_seed(0)
    >>> start = gaussian_cos(tied(Sizes(4, 128, 3, 2, 1), g), g)  # L, M, q, d, d′
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> y = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
    >>> [initial_certificate(net, start, x, size * y).holds for size in (0.01, 1.0)]
    [True, False]
    """
    require_ball(net, weights)
    require_data(weights, x, y, runs=False)
    radius = _radius(radius)
    if not isinstance(constants, str) or constants not in ("sharp", "explicit"):
        raise ValueError(f"constants: expected sharp or explicit, received {shown(constants)}")
    layered = [weights.W] if weights.b is None else [weights.W, weights.b]
    if bool(weights.V.any()) or any(not bool((v == v[:1]).all()) for v in layered):
        raise ValueError(
            "initial certificate: expected V = 0 and the same W and b in every layer, received "
            "others; independent_certificate takes layers that differ, running_certificate takes "
            "any weights"
        )
    passed = forward(net, weights, x)
    ball, risk = initial_ball(net, weights, x, passed), risk_bound(weights, passed, y)
    return _certificate(ball, passed, risk, radius, constants)


def independent_certificate(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n dy"],
    radius: float | None = None,
) -> Certificate:
    """Convergence from V = 0 and features that differ from layer to layer, down to one a layer.

    √ℛ(μ_0) ≤ ½∫₀^R √c_PL with √c_PL of :meth:`IndependentBall.root`: only all layers together
    need as many features as there are points. For tied features :func:`initial_certificate`
    usually admits more, but less at depth 1.

    Source: [C], proof in the chapter on local PL. Parameters and errors as in
    :func:`initial_certificate`.

    >>> import torch
    >>> from cotflow import COS, Sizes, mean_field_net, tied
    >>> from cotflow.certificates import gaussian_cos, independent_certificate
    >>> net, g = mean_field_net(COS), torch.Generator().manual_seed(0)
    >>> start = gaussian_cos(tied(Sizes(256, 1, 3, 2, 1), g), g, layers="independent")
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> y = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
    >>> [independent_certificate(net, start, x, size * y).holds for size in (0.01, 1.0)]
    [True, False]
    """
    require_ball(net, weights)
    require_data(weights, x, y, runs=False)
    radius = _radius(radius)
    if bool(weights.V.any()):
        raise ValueError(
            "independent certificate: expected V = 0, received others; running_certificate takes "
            "any weights"
        )
    passed = forward(net, weights, x)
    ball, risk = independent_ball(net, weights, x, passed), risk_bound(weights, passed, y)
    return _certificate(ball, passed, risk, radius, "independent")


def running_certificate(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n dy"],
    radius: float | None = None,
) -> Certificate:
    """Convergence of the flow from the weights at hand, at any state of a run.

    √ℛ ≤ ½∫₀^R √c_PL with √c_PL of :meth:`RunningBall.root`, the ball around the present weights and
    μ_0 of :class:`Certificate` the present measure.

    Source: [C], proof in the chapter on local PL. Parameters and errors as in
    :func:`initial_certificate`.
    """
    require_ball(net, weights)
    require_data(weights, x, y, runs=False)
    radius = _radius(radius)
    passed = forward(net, weights, x)
    ball, risk = running_ball(net, weights, x, passed), risk_bound(weights, passed, y)
    return _certificate(ball, passed, risk, radius, "running")
