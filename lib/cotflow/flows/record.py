"""What a flow shows on its way, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.flows.method import Method
from cotflow.flows.state import FlowState
from cotflow.network.numbers import Number, shown
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class Snapshot:
    """The flow at one time, with the gradient there."""

    state: FlowState
    gradient: Gradient

    @property
    def time(self) -> float:
        return self.state.time

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def weights(self) -> Weights:
        return self.state.weights

    @property
    def loss(self) -> Tensor:
        return self.gradient.loss


@dataclass(frozen=True)
class FlowRecord:
    """What a flow left: observables at the recorded times, the weights at the end, the cost.

    Attributes
    ----------
    observed : by name; the run axes come first, the axis of times last; on the weights' device.
    step, tolerance : the one that was given, the other is None.
    accepted, rejected : steps taken, and steps tried and taken back.
    gradient_evaluations : all of them, those of rejected steps and of ρ included.
    largest_stages : the most right-hand sides in one step.
    error_estimate : Σ_n |e_n|, e_n the estimated local error of step n in the metric norm
        (|A|² + (1/L)Σ_k|Z_k|² + |B|²)^½. It is the error at the horizon of a flow that neither
        contracts nor expands; an estimate, not a bound, and blind to rounding.
    """

    times: Float[Tensor, " times"]
    observed: dict[str, Tensor]
    weights: Weights
    method: Method
    step: float | None
    tolerance: float | None
    accepted: int
    rejected: int
    gradient_evaluations: int
    largest_stages: int
    error_estimate: Float[Tensor, "*runs"]


Observer = Callable[[Snapshot], Tensor | Number]


def observation(name: str, value: object, device: torch.device, before: list[Tensor]) -> Tensor:
    """What an observer returned, as a tensor of its own on the device.

    A clone, since an entry of V is a view that would keep all of V alive; without its graph.

    Raises
    ------
    ValueError : it is no number, tensor or array, or not of the shape it had before.
    """
    if not isinstance(value, Tensor):
        try:
            array = np.array(value)
            found = torch.from_numpy(array) if array.dtype.kind in "biufc" else None
        except (TypeError, ValueError, RuntimeError):
            found = None
        if found is None:
            raise ValueError(
                f"observe: expected {name!r} to return a number or a tensor, received "
                f"{shown(value)}"
            )
        value = found
    if before and value.shape != before[0].shape:
        raise ValueError(
            f"observe: expected {name!r} to return the shape {tuple(before[0].shape)} as before, "
            f"received {tuple(value.shape)}"
        )
    return value.detach().to(device).clone()


@dataclass
class Recorded:
    """What was observed so far: a list of times, and as many values for each name."""

    times: list[float]
    values: dict[str, list[Tensor]]

    def add(self, snapshot: Snapshot, observers: Mapping[str, Observer]) -> None:
        device = snapshot.weights.V.device
        self.times.append(snapshot.time)
        for name, observer in observers.items():
            series = self.values[name]
            series.append(observation(name, observer(snapshot), device, series))

    def content(self, state: FlowState) -> dict[str, Any]:
        """This and the state, for a file."""
        observed = {
            name: torch.stack(series, dim=-1) if series else None
            for name, series in self.values.items()
        }
        return {"state": state.content(), "times": self.times, "observed": observed}

    @staticmethod
    def restored(content: Mapping[str, Any]) -> Recorded:
        """What the :meth:`content` recorded."""
        values = {
            name: [] if series is None else list(series.unbind(-1))
            for name, series in content["observed"].items()
        }
        return Recorded(times=content["times"], values=values)
