"""What a step method is, and what one step of it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.flows.velocity import VelocityField
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class Attempt:
    """One step as a method leaves it, with the gradient and the velocity at its end.

    Attributes
    ----------
    error : estimated local error, a move of the weights with the names of ``velocity``.
    stages : how many right-hand sides the step took, that at its end not counted: the next step
        begins with it.
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


@runtime_checkable
class Method(Protocol):
    """θ(t) ↦ θ(t + η): whatever has these members can be given to a flow as its method.

    A frozen dataclass of numbers is best: a checkpoint recognises it in another process. A
    Runge–Kutta method needs no class: it is a :class:`cotflow.flows.runge_kutta.RungeKutta`.

    Attributes
    ----------
    name : how records and tables call it.
    order : global error O(η^order).
    error_order : the estimated local error is O(η^(error_order + 1)).
    """

    @property
    def name(self) -> str: ...

    @property
    def order(self) -> int: ...

    @property
    def error_order(self) -> int: ...

    def spectrum(
        self,
        field: VelocityField,
        weights: Weights,
        velocity: dict[str, Tensor],
        known: Spectrum | None,
        *,
        anew: bool = False,
    ) -> Spectrum | None:
        """ρ for the step from ``weights`` on; None for a method that does not look at it.

        Parameters
        ----------
        known : the last step's.
        anew : estimate it, even where the known one would do: a step was rejected.
        """

    def longest(self, spectrum: Spectrum | None, tolerance: float, dtype: torch.dtype) -> float:
        """The longest step that is stable, ∞ if accuracy alone shall decide; not asked where the
        steps are of one length."""

    def attempt(
        self,
        field: VelocityField,
        weights: Weights,
        velocity: dict[str, Tensor],
        step: float,
        spectrum: Spectrum | None = None,
    ) -> Attempt:
        """One step of length η = ``step`` from ``weights``, where the velocity is known.

        ``field(w)`` gives the gradient and the velocity at w, ``w.plus(move, η)`` is w + η·move;
        neither ``weights`` nor ``velocity`` may be changed in place.
        """
