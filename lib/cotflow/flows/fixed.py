"""Steps of fixed length."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.flows.chebyshev import Chebyshev
from cotflow.flows.runge_kutta import RungeKutta
from cotflow.flows.state import FlowState
from cotflow.flows.velocity import DivergenceError, NotFiniteError, VelocityField

WAY_OUT = "a shorter horizon, or clip=frobenius_clip(radius)."


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
