"""Stabilised explicit flow: second-order Runge–Kutta–Chebyshev, with stages that follow ρ.

r evaluations reach steps of length β(r)/ρ with β(r) ≈ 0.65 r², ρ the largest curvature of the
risk in the flow's metric: about √(3n) of them do what n steps of descent do. The Jacobian of a
gradient flow is symmetric in that metric, so that all of its spectrum is real.

Sources: Verwer, Hundsdorfer & Sommeijer, Numer. Math. 57 (1990); Sommeijer, Shampine & Verwer,
"RKC: an explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88 (1998), [SSV].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.flows.method import Attempt, Spectrum
from cotflow.flows.velocity import NotFiniteError, VelocityField
from cotflow.network.numbers import whole
from cotflow.network.weights import Weights

# Stages of a step at most: beyond it Σ_j of their rounding and their time are out of all use.
MOST = 10_000


@cache
def coefficients(stages: int, damping: float) -> tuple[float, tuple[tuple[float, ...], ...]]:
    """(μ̃_1, ((μ_j, ν_j, μ̃_j, γ̃_j) for j = 2..r)), [SSV] (2.3)–(2.5) with r for their s.

    From T_r, T_r′, T_r″ at w0 = 1 + ε/r²; w1 = T_r′/T_r″, b_j = T_j″/(T_j′)², a_j = 1 − b_j T_j.
    """
    w0 = 1.0 + damping / stages**2
    t, d, dd = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for j in range(2, stages + 1):
        t.append(2.0 * w0 * t[j - 1] - t[j - 2])
        d.append(2.0 * t[j - 1] + 2.0 * w0 * d[j - 1] - d[j - 2])
        dd.append(4.0 * d[j - 1] + 2.0 * w0 * dd[j - 1] - dd[j - 2])
    w1 = d[stages] / dd[stages]
    b = [0.0, 1.0 / w0] + [dd[j] / d[j] ** 2 for j in range(2, stages + 1)]
    b[0] = b[2]
    rows = []
    for j in range(2, stages + 1):
        move = 2.0 * b[j] * w1 / b[j - 1]
        start = -(1.0 - b[j - 1] * t[j - 1]) * move
        rows.append((2.0 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], move, start))
    return b[1] * w1, tuple(rows)


def stability_limit(stages: int, damping: float = 2 / 13) -> float:
    """β(r) ≈ (2/3)(r² − 1)(1 − (2/15)ε): steps η with ηρ ≤ β(r) are stable ([SSV] (2.6))."""
    return 2.0 / 3.0 * (stages**2 - 1) * (1.0 - 2.0 / 15.0 * damping)


@dataclass(frozen=True)
class Chebyshev:
    """θ_j = (1 − μ_j − ν_j)θ_0 + μ_j θ_{j−1} + ν_j θ_{j−2} + η(μ̃_j v_{j−1} + γ̃_j v_0), j = 2..r.

    The local error is estimated as (1/15)(12(θ_0 − θ_r) + 6η(v_0 + v_r)), O(η³) ([SSV] (3.1)).

    Parameters
    ----------
    damping : ε; on the stability interval, away from 0, the stability polynomial is at most
        about 1 − ε/3 in absolute value.
    stages : r ≥ 2, or None to take r = 1 + ⌊√(1 + 1.54 ηρ)⌋ from the measured ρ.
    refresh : accepted steps between two estimates of ρ.

    >>> from dataclasses import replace
    >>> from cotflow import RKC2
    >>> RKC2.order, replace(RKC2, stages=5).stages
    (2, 5)
    """

    name: str
    damping: float = 2 / 13
    stages: int | None = None
    refresh: int = 25
    order: int = 2
    error_order: int = 2

    def __post_init__(self) -> None:
        if self.stages is not None:
            stages = whole(self.stages, f"{self.name}: expected stages ≥ 2", 2)
            whole(stages, f"{self.name}: expected at most {MOST} stages", 2, MOST)
            object.__setattr__(self, "stages", stages)

    def spectrum(
        self,
        field: VelocityField,
        weights: Weights,
        velocity: dict[str, Tensor],
        known: Spectrum | None,
        *,
        anew: bool = False,
    ) -> Spectrum | None:
        """The known ρ, or a new estimate that starts at its direction; None for fixed stages."""
        if self.stages is not None:
            return None
        if known is not None and known.age < self.refresh and not anew:
            return replace(known, age=known.age + 1)
        start = None if known is None else known.direction
        return spectral_radius(field, weights, velocity, start)

    def longest(self, spectrum: Spectrum | None, tolerance: float, dtype: torch.dtype) -> float:
        """β(r)/ρ for the most stages that rounding allows, r² ε_machine ≈ tolerance/10 ([SSV])."""
        if spectrum is None or spectrum.radius == 0.0:
            return math.inf
        stages = max(2, round(math.sqrt(tolerance / (10.0 * torch.finfo(dtype).eps))))
        stages = min(stages, MOST)
        return (stages**2 - 1) / (1.54 * spectrum.radius)

    def stages_for(self, step: float, spectrum: Spectrum | None) -> int:
        """r of a step of length η.

        Raises
        ------
        NotFiniteError : more than :data:`MOST`, none of which would ever end.
        """
        if self.stages is not None:
            return self.stages
        if spectrum is None:
            raise ValueError(f"{self.name}: expected a spectrum, or a number of stages")
        stiffness = step * spectrum.radius
        if not 1.54 * stiffness < (MOST - 1) ** 2 - 1:
            raise NotFiniteError(
                f"a step of {step:.3g} at a spectral radius of {spectrum.radius:.3g} asks for more "
                f"than {MOST} stages"
            )
        return 1 + int(math.sqrt(1.0 + 1.54 * stiffness))

    def attempt(
        self,
        field: VelocityField,
        weights: Weights,
        velocity: dict[str, Tensor],
        step: float,
        spectrum: Spectrum | None = None,
    ) -> Attempt:
        stages = self.stages_for(step, spectrum)
        first, rows = coefficients(stages, self.damping)
        # The moves θ_j − θ_0 rather than θ_j: no cancellation in the error estimate.
        before = {name: v.new_zeros(()) for name, v in velocity.items()}
        move = {name: (first * step) * v for name, v in velocity.items()}
        for mu, nu, gain, start in rows:
            _, slope = field(weights.plus(move, 1.0))
            after = {
                name: mu * move[name]
                + nu * before[name]
                + (gain * step) * slope[name]
                + (start * step) * velocity[name]
                for name in move
            }
            before, move = move, after
        weights = weights.plus(move, 1.0)
        gradient, last = field(weights)
        error = {
            name: (6.0 * step * (velocity[name] + last[name]) - 12.0 * move[name]) / 15.0
            for name in move
        }
        return Attempt(
            weights=weights, gradient=gradient, velocity=last, error=error, stages=stages
        )


RKC2 = Chebyshev("RKC2")


def spectral_radius(
    field: VelocityField,
    weights: Weights,
    velocity: dict[str, Tensor],
    start: dict[str, Tensor] | None = None,
    *,
    safety: float = 1.2,
    accuracy: float = 0.01,
    iterations: int = 50,
) -> Spectrum:
    """ρ = max |eigenvalue| of the flow's Jacobian, by u ← (v(θ + δu) − v(θ))/δ, |u| = 1.

    Every run has its own direction, and the largest ρ counts. Power iteration approaches from
    below: the result is multiplied by ``safety``. One evaluation an iteration; an estimate that
    starts at the last one's direction takes two or three.

    Parameters
    ----------
    velocity : v(θ), also the first direction where ``start`` gives none.
    accuracy : stops when two estimates agree to this part, or after ``iterations``.
    """
    if iterations < 1:
        raise ValueError(f"spectral radius: expected iterations ≥ 1, received {iterations}")
    tiny = torch.finfo(weights.V.dtype).tiny
    span = field.scale(weights) * math.sqrt(torch.finfo(weights.V.dtype).eps)
    direction = velocity if start is None else start
    size, radius = field.norm(weights, direction), 0.0
    for count in range(iterations):
        direction = _scaled(direction, 1.0 / size.clamp_min(tiny))
        _, moved = field(weights.plus(_scaled(direction, span.expand(size.shape)), 1.0))
        difference = {name: moved[name] - velocity[name] for name in moved}
        size = field.norm(weights, difference)
        radius, last = float((size / span).max()), radius
        direction = difference
        if count > 0 and abs(radius - last) <= accuracy * radius:
            break
    direction = _scaled(direction, 1.0 / size.clamp_min(tiny))
    return Spectrum(radius=safety * radius, direction=direction)


def _scaled(move: dict[str, Tensor], factor: Float[Tensor, "*runs"]) -> dict[str, Tensor]:
    """Each run's part of a move by its own factor."""
    shapes = {name: factor.shape + (1,) * (v.dim() - factor.dim()) for name, v in move.items()}
    return {name: v * factor.reshape(shapes[name]) for name, v in move.items()}
