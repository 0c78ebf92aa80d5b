"""What chooses the length of each step."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.flows.method import Method
from cotflow.flows.state import FlowState
from cotflow.flows.velocity import NotFiniteError, VelocityField

WAY_OUT = "a shorter horizon, or clip=frobenius_clip(radius)."


@runtime_checkable
class StepControl(Protocol):
    """Takes a run from state to state until it is done."""

    def done(self, state: FlowState) -> bool:
        """Whether the state is at the horizon."""

    def advance(
        self,
        field: VelocityField,
        method: Method,
        state: FlowState,
        velocity: dict[str, Tensor],
    ) -> tuple[FlowState, Gradient, dict[str, Tensor]]:
        """(state, gradient, velocity) after one more step; ``velocity`` is that at ``state``.

        Raises
        ------
        DivergenceError : there is no such step.
        """

    def sentence(self, state: FlowState, reason: NotFiniteError) -> str:
        """What to say when the flow diverges at ``state``: when, why, and a way out."""
