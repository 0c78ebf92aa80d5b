"""The state of a run between two steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from cotflow.flows.method import Attempt, Spectrum
from cotflow.flows.velocity import VelocityField
from cotflow.network.weights import Weights


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
