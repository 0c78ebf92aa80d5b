"""The state of a run between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cotflow.flows.method import Attempt, Spectrum
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class FlowState:
    """All that the rest of a run depends on: numbers and tensors, nothing else.

    Attributes
    ----------
    error : Σ_n |e_n| over the steps, e_n the estimated local error, one number a run.
    step, rejected : steps taken and steps tried in vain.
    evaluations : gradients so far, those of rejected steps and of ρ included.
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

    def after(
        self,
        attempt: Attempt,
        *,
        time: float,
        error: Float[Tensor, "*runs"],
        evaluations: int,
        rejected: int = 0,
        proposal: float | None = None,
        previous: tuple[float, float] | None = None,
        spectrum: Spectrum | None = None,
    ) -> FlowState:
        """The state at ``time``, after a step of local error |e| = ``error``.

        Parameters
        ----------
        evaluations, rejected : what this step took, rejected attempts included.
        """
        return FlowState(
            weights=attempt.weights,
            error=self.error + error,
            time=time,
            step=self.step + 1,
            rejected=self.rejected + rejected,
            evaluations=self.evaluations + evaluations,
            stages=max(self.stages, attempt.stages),
            proposal=proposal,
            previous=previous,
            spectrum=spectrum,
        )

    def content(self) -> dict[str, Any]:
        """The same as nested dictionaries, for a file."""
        spectrum = None if self.spectrum is None else dict(vars(self.spectrum))
        return vars(self) | {"weights": self.weights.tensors(), "spectrum": spectrum}

    @staticmethod
    def restored(content: Mapping[str, Any]) -> FlowState:
        """The state of that :meth:`content`."""
        spectrum = content["spectrum"] and Spectrum(**content["spectrum"])
        weights = Weights(**content["weights"])
        return FlowState(**{**content, "weights": weights, "spectrum": spectrum})
