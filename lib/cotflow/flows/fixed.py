"""Steps of fixed length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.flows.control import WAY_OUT
from cotflow.flows.method import Method
from cotflow.flows.state import FlowState
from cotflow.flows.velocity import DivergenceError, NotFiniteError, VelocityField


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
        method: Method,
        state: FlowState,
        velocity: dict[str, Tensor],
    ) -> tuple[FlowState, Gradient, dict[str, Tensor]]:
        before = field.evaluations
        try:
            spectrum = method.spectrum(field, state.weights, velocity, state.spectrum)
            attempt = method.attempt(field, state.weights, velocity, self.step, spectrum)
        except NotFiniteError as reason:
            raise DivergenceError(self.sentence(state, reason)) from None
        error = field.norm(attempt.weights, attempt.error)
        if not bool(torch.isfinite(error).all()):
            lost = NotFiniteError(f"the estimated error of the step is {error.max():.3g}")
            raise DivergenceError(self.sentence(state, lost))
        state = state.after(
            attempt,
            time=(state.step + 1) * self.step,
            error=error,
            evaluations=field.evaluations - before,
            spectrum=spectrum,
        )
        return state, attempt.gradient, attempt.velocity

    def sentence(self, state: FlowState, reason: NotFiniteError) -> str:
        return (
            f"the flow diverged near time {state.time:.4g} (step {state.step} of {self.count}): "
            f"{reason}. Use a step below {self.step:.3g}, {WAY_OUT}"
        )
