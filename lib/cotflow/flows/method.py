"""What a step method is, and what one step of it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class Attempt:
    """One step as a method leaves it, with the gradient and the velocity at its end.

    Attributes
    ----------
    error : estimated local error, a move of the weights.
    stages : how many right-hand sides the step took.
    """

    weights: Weights
    gradient: Gradient
    velocity: dict[str, Tensor]
    error: Mapping[str, Tensor]
    stages: int


@dataclass(frozen=True)
class Spectrum:
    """Spectral radius ρ of the flow's Jacobian, safety included, and what the next estimate needs.

    Attributes
    ----------
    direction : unit vector of the power iteration, one a run.
    age : steps since it was found.
    """

    radius: float
    direction: dict[str, Tensor]
    age: int = 0
