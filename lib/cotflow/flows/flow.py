"""Gradient flows in the layer metric: θ̇ = −r ∂_θℓ, by steps of fixed or controlled length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.flows.adaptive import AdaptiveStep
from cotflow.flows.chebyshev import RKC2, Chebyshev
from cotflow.flows.fixed import FixedStep
from cotflow.flows.runge_kutta import BOGACKI_SHAMPINE, EULER, HEUN, METHODS, RK4, RungeKutta
from cotflow.flows.schedule import schedule
from cotflow.flows.state import FlowState
from cotflow.flows.velocity import DivergenceError, NotFiniteError, VelocityField, frobenius_clip
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights

__all__ = [
    "BOGACKI_SHAMPINE",
    "EULER",
    "HEUN",
    "METHODS",
    "RK4",
    "RKC2",
    "DivergenceError",
    "FlowRecord",
    "FlowState",
    "Snapshot",
    "flow",
    "frobenius_clip",
    "gradient_flow",
]

Clip = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Method = RungeKutta | Chebyshev


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
    observed : by name; the run axes come first, the axis of times last.
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


@runtime_checkable
class Keeper(Protocol):
    """Where a run is kept, and taken up again: see :class:`cotflow.flows.checkpoint.Checkpoint`."""

    def restore(self, run: Mapping) -> tuple[FlowState, list[float], dict] | None: ...

    def keep(self, state: FlowState, times: list[float], values: dict, *, last: bool) -> None: ...


def flow(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    horizon: float,
    step: float | None = None,
    tolerance: float | None = None,
    method: Method | None = None,
    clip: Clip | None = None,
    every: int = 1,
    times: Sequence[float] | None = None,
    segment: int | None = None,
) -> Iterator[Snapshot]:
    """θ̇ = −r ∂_θℓ on [0, horizon], r the rates of the network's metric ([M] eq. (4), [B]).

    Yields the state at times 0, every·step, 2·every·step, … and at the horizon; after every
    accepted step with a tolerance; at the given ``times`` and no others if there are any. The
    weights of past snapshots are never kept here: observe on the fly, or clone what you need.

    Parameters
    ----------
    step : flow time of one step η; the last one is not shortened, the horizon is rounded to a
        whole number of steps, and ``times`` are whole numbers of steps.
    tolerance : instead of a step: each one is as long as its estimated error stays below
        tolerance·(1 + |θ|) in the metric norm, in every run of a batch. All ``times`` and the
        horizon are hit exactly, each by the end of a step.
    method : with a step :data:`EULER` unless told (gradient descent with rate η·L or η·L·m), with
        a tolerance :data:`RKC2`; or :data:`HEUN`, :data:`BOGACKI_SHAMPINE`, :data:`RK4`. Global
        error O(η^order) for σ smooth enough.
    clip : applied to every right-hand side, see :func:`frobenius_clip`.
    segment : layers between two states that are kept, see :func:`cotflow.adjoint.gradient`: less
        memory at great depth, for one more forward sweep a gradient.

    Raises
    ------
    DivergenceError : the loss of a run is not a number, or too large for its squares to be one.
    """
    control, due = schedule(weights, step, tolerance, horizon, every, times)
    field = VelocityField(net, x, y, clip, segment)
    for snapshot in march(field, method or default_method(step), control, weights):
        if due(snapshot.state):
            yield snapshot


def march(
    field: VelocityField,
    method: Method,
    control: FixedStep | AdaptiveStep,
    weights: Weights,
    state: FlowState | None = None,
) -> Iterator[Snapshot]:
    """Every step's end, from the given weights at time 0 on, or from after a given state on."""
    try:
        gradient, velocity = field(weights if state is None else state.weights)
    except NotFiniteError as reason:
        start = state or FlowState(weights, torch.zeros(()))
        raise DivergenceError(control.sentence(start, reason)) from None
    if state is None:
        error = torch.zeros_like(gradient.loss, dtype=torch.float64)
        state = FlowState(weights, error, evaluations=field.evaluations)
        yield Snapshot(state, gradient)
    field.evaluations = state.evaluations
    while not control.done(state):
        del gradient
        state, gradient, velocity = control.advance(field, method, state, velocity)
        yield Snapshot(state, gradient)


def default_method(step: float | None) -> Method:
    return RKC2 if step is None else EULER


def gradient_flow(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    horizon: float,
    step: float | None = None,
    tolerance: float | None = None,
    observe: Mapping[str, Callable[[Snapshot], Tensor]] | None = None,
    method: Method | None = None,
    clip: Clip | None = None,
    every: int = 1,
    times: Sequence[float] | None = None,
    segment: int | None = None,
    checkpoint: Keeper | None = None,
) -> FlowRecord:
    """Run :func:`flow` to the horizon and record observables; the loss is always among them.

    Memory does not grow with the number of steps beyond the observed values. With a
    ``checkpoint`` (:class:`cotflow.flows.checkpoint.Checkpoint`) a run that was cut off goes on
    where it was last kept, and its record is bit for bit that of an uninterrupted run.
    """
    method = method or default_method(step)
    control, due = schedule(weights, step, tolerance, horizon, every, times)
    observers = {"loss": lambda s: s.loss} | dict(observe or {})
    state, recorded, values = None, [], {name: [] for name in observers}
    if checkpoint is not None:
        run = {"net": net, "weights": weights, "x": x, "y": y, "control": control}
        run |= {"method": method, "clip": clip, "every": every, "times": times and list(times)}
        kept = checkpoint.restore(run | {"observed": list(observers)})
        if kept is not None:
            state, recorded, values = kept
    field = VelocityField(net, x, y, clip, segment)
    for snapshot in march(field, method, control, weights, state):
        state = snapshot.state
        if due(state):
            recorded.append(state.time)
            for name, observer in observers.items():
                # A clone, since an entry of V is a view that would keep all of V alive.
                values[name].append(observer(snapshot).clone())
        del snapshot
        if checkpoint is not None:
            checkpoint.keep(state, recorded, values, last=control.done(state))
    return FlowRecord(
        torch.tensor(recorded, dtype=torch.float64),
        {name: torch.stack(series, dim=-1) for name, series in values.items()},
        state.weights,
        method,
        step,
        tolerance,
        state.step,
        state.rejected,
        state.evaluations,
        state.stages,
        state.error,
    )
