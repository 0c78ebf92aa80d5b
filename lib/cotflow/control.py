"""The state of a run between two steps, and steps of fixed length."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint import Gradient
from cotflow.network import Weights
from cotflow.runge_kutta import Attempt, RungeKutta, Spectrum
from cotflow.stabilised import Chebyshev
from cotflow.velocity import DivergenceError, NotFiniteError, VelocityField

WAY_OUT = "a shorter horizon, or clip=frobenius_clip(radius)."


@dataclass(frozen=True)
class FlowState:
    """All that the rest of a run depends on: numbers and tensors, nothing else.

    Attributes
    ----------
    step, rejected : steps taken and steps tried in vain.
    error : Σ_n |e_n| over the steps, e_n the estimated local error, one number a run.
    stages : the most right-hand sides that one step took.
    proposal : length of the next step, where it is controlled.
    previous : (η, weighted error) of the last accepted step.
    """

    weights: Weights
    error: Float[Tensor, "*runs"]
    time: float = 0.0
    step: int = 0
    rejected: int = 0
    evaluations: int = 0
    stages: int = 0
    proposal: float | None = None
    previous: tuple[float, float] | None = None
    spectrum: Spectrum | None = None

    def after(self, field: VelocityField, attempt: Attempt, **changes) -> FlowState:
        return replace(
            self,
            weights=attempt.weights,
            error=self.error + field.norm(attempt.weights, attempt.error),
            step=self.step + 1,
            evaluations=field.evaluations,
            stages=max(self.stages, attempt.stages),
            **changes,
        )


@dataclass(frozen=True)
class FixedStep:
    """Times 0, η, 2η, … up to count·η."""

    step: float
    count: int

    def done(self, state: FlowState) -> bool:
        return state.step >= self.count

    def advance(
        self,
        field: VelocityField,
        method: RungeKutta | Chebyshev,
        state: FlowState,
        velocity: dict[str, Tensor],
    ) -> tuple[FlowState, Gradient, dict[str, Tensor]]:
        try:
            spectrum = method.spectrum(field, state.weights, velocity, state.spectrum)
            attempt = method.attempt(field, state.weights, velocity, self.step, spectrum)
        except NotFiniteError as reason:
            raise DivergenceError(self.sentence(state, reason)) from None
        time = (state.step + 1) * self.step
        state = state.after(field, attempt, time=time, spectrum=spectrum)
        return state, attempt.gradient, attempt.velocity

    def sentence(self, state: FlowState, reason: NotFiniteError) -> str:
        return (
            f"the flow diverged near time {state.time:.4g} (step {state.step} of {self.count}): "
            f"{reason}. Use a step below {self.step:.3g}, {WAY_OUT}"
        )
