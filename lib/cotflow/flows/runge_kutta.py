"""Explicit Runge–Kutta methods with an error estimate that costs no evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from cotflow.flows.method import Attempt, Spectrum
from cotflow.flows.velocity import VelocityField
from cotflow.network.memory import scaled
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class RungeKutta:
    """Stage j sits at θ + η Σ_i a[j][i] v_i, the step is θ + η Σ_i b[i] v_i.

    The local error is estimated as η Σ_i e[i] v_i, where one more stage, the velocity at the end
    of the step, joins the sum: the next step needs it anyway. The estimate is that of the solution
    of order ``error_order``, O(η^(error_order + 1)): of the step itself for Euler, Heun and
    Bogacki–Shampine up to a constant or an order, and a pessimist's for RK4.

    >>> from cotflow import EULER, HEUN, RK4
    >>> [(method.name, method.order, len(method.b)) for method in (EULER, HEUN, RK4)]
    [('Euler', 1, 1), ('Heun', 2, 2), ('RK4', 4, 4)]
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...]
    error_order: int

    def spectrum(
        self,
        field: VelocityField,
        weights: Weights,
        velocity: dict[str, Tensor],
        known: Spectrum | None,
        *,
        anew: bool = False,
    ) -> Spectrum | None:
        """None: these methods do not look at it."""
        return None

    def longest(self, spectrum: Spectrum | None, tolerance: float, dtype: torch.dtype) -> float:
        """No bound but accuracy's; the step control finds the stability limit by itself."""
        return math.inf

    def attempt(
        self,
        field: VelocityField,
        weights: Weights,
        velocity: dict[str, Tensor],
        step: float,
        spectrum: Spectrum | None = None,
    ) -> Attempt:
        stages = [velocity]
        for row in self.a[1:]:
            stages.append(field(weights.plus(combine(stages, row), step))[1])
        weights = weights.plus(combine(stages, self.b), step)
        gradient, velocity = field(weights)
        stages.append(velocity)
        return Attempt(
            weights=weights,
            gradient=gradient,
            velocity=velocity,
            error={n: scaled(v, step) for n, v in combine(stages, self.e).items()},
            stages=len(self.b),
        )


def combine(
    stages: list[dict[str, Tensor]], coefficients: tuple[float, ...]
) -> Mapping[str, Tensor]:
    """Σ_i c_i v_i over the stages whose coefficient is not zero."""
    if coefficients == (1.0,):
        return stages[0]
    kept = [(c, v) for c, v in zip(coefficients, stages, strict=True) if c]
    return {name: reduce(Tensor.add_, [scaled(v[name], c) for c, v in kept]) for name in stages[0]}


# On a gradient flow, explicit Euler of step η is gradient descent with rate η·L (or η·L·M).
EULER = RungeKutta(name="Euler", order=1, a=((),), b=(1.0,), e=(-0.5, 0.5), error_order=1)
HEUN = RungeKutta(
    name="Heun", order=2, a=((), (1.0,)), b=(0.5, 0.5), e=(0.0, -0.5, 0.5), error_order=2
)
# Bogacki & Shampine, "A 3(2) pair of Runge–Kutta formulas", Appl. Math. Lett. 2 (1989).
BOGACKI_SHAMPINE = RungeKutta(
    name="Bogacki–Shampine",
    order=3,
    a=((), (0.5,), (0.0, 0.75)),
    b=(2 / 9, 1 / 3, 4 / 9),
    e=(5 / 72, -1 / 12, -1 / 9, 1 / 8),
    error_order=2,
)
RK4 = RungeKutta(
    name="RK4",
    order=4,
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    e=(0.0, 0.0, 0.0, -1 / 6, 1 / 6),
    error_order=3,
)
METHODS = (EULER, HEUN, BOGACKI_SHAMPINE, RK4)
