"""Gradient flows in the layer metric: θ̇ = −r ∂_θℛ, by steps of fixed or controlled length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import Backend
from cotflow.adjoint.inputs import admitted
from cotflow.flows.chebyshev import RKC2
from cotflow.flows.control import StepControl
from cotflow.flows.keeper import Keeper
from cotflow.flows.method import Method
from cotflow.flows.record import FlowRecord, Observer, Recorded, Snapshot
from cotflow.flows.runge_kutta import EULER
from cotflow.flows.schedule import schedule
from cotflow.flows.state import FlowState
from cotflow.flows.velocity import Clip, DivergenceError, NotFiniteError, VelocityField
from cotflow.network.checks import require_tensor
from cotflow.network.numbers import Number, shown
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


def flow(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    horizon: Number,
    step: Number | None = None,
    tolerance: Number | None = None,
    method: Method | None = None,
    clip: Clip | None = None,
    every: Number = 1,
    times: Iterable[Number] | None = None,
    segment: Number | None = None,
    backend: Backend = "auto",
) -> Iterator[Snapshot]:
    """θ̇ = −r ∂_θℛ on [0, horizon], r the rates of the network's metric ([M] eq. (4), [B]).

    Yields the state at times 0, every·step, 2·every·step, … and at the horizon; after every
    accepted step with a tolerance; at the given ``times`` and no others if there are any. The
    weights of past snapshots are never kept here: observe on the fly, or clone what you need.
    Nothing here is differentiated: weights and data enter without their graph, and snapshots
    carry none. Numbers may be Python's, NumPy's or torch's.

    Parameters
    ----------
    step : flow time of one step η; the last one is not shortened, the horizon is rounded to a
        whole number of steps, and ``times`` are whole numbers of steps.
    tolerance : instead of a step: each one is as long as its estimated error stays below
        tolerance·(1 + |θ|) in the metric norm, in every run of a batch. All ``times`` and the
        horizon are hit exactly, each by the end of a step.
    method : with a step :data:`EULER` unless told (gradient descent with rate η·L or η·L·M), with
        a tolerance :data:`RKC2`; or :data:`cotflow.HEUN`, :data:`cotflow.RK4`,
        :data:`cotflow.flows.runge_kutta.BOGACKI_SHAMPINE`, or one of your own, see
        :class:`cotflow.flows.method.Method`. Global error O(η^order) for σ smooth enough.
    clip : applied to every right-hand side, see :func:`cotflow.flows.velocity.frobenius_clip`.
    segment : layers between two states that are kept, see :func:`cotflow.adjoint.gradient`: less
        memory at great depth, for one more forward sweep a gradient.
    backend : what makes the gradients, see :func:`cotflow.adjoint.gradient`.

    Raises
    ------
    ValueError : at the call, before the first state.
    DivergenceError : the loss of a run is not a number, or too large for its squares to be one.

    >>> from cotflow import flow, published
    >>> e = published("figure 2", depth=4, seed=0)
    >>> [s.step for s in flow(e.net, e.weights, e.x, e.y, step=0.25, horizon=1.0, every=2)]
    [0, 2, 4]
    """
    plan = schedule(weights, step, tolerance, horizon, every, times)
    weights, field = begun(weights, x, y), VelocityField(net, x, y, clip, segment, backend)
    states = march(field, chosen(method, step), plan.control, weights)
    return (snapshot for snapshot in states if plan.due(snapshot.state))


def begun(weights: Weights, x: Tensor, y: Tensor) -> Weights:
    """The weights without their graph.

    Raises
    ------
    ValueError, TypeError : they and the data do not fit together, or there is no run, no layer, no
        particle or no sample.
    """
    for name, value in (weights.tensors() | {"x": x, "y": y}).items():
        require_tensor(value, f"flow: expected a torch tensor for {name}")
        if value.numel() == 0:
            raise ValueError(
                "flow: expected at least one run, layer, particle and sample, received "
                f"{name} of shape {tuple(value.shape)}"
            )
    admitted(weights, x, y)
    return weights.map(Tensor.detach)


def march(
    field: VelocityField,
    method: Method,
    control: StepControl,
    weights: Weights,
    state: FlowState | None = None,
) -> Iterator[Snapshot]:
    """Every step's end, from the given weights at time 0 on, or from after a given state on."""
    try:
        gradient, velocity = field(weights if state is None else state.weights)
    except NotFiniteError as reason:
        start = state or FlowState(weights=weights, error=weights.V.new_zeros(()))
        raise DivergenceError(control.sentence(start, reason)) from None
    if state is None:
        error = torch.zeros_like(gradient.loss, dtype=torch.float64)
        state = FlowState(weights=weights, error=error, evaluations=1)
        yield Snapshot(state=state, gradient=gradient)
    while not control.done(state):
        del gradient
        state, gradient, velocity = control.advance(field, method, state, velocity)
        yield Snapshot(state=state, gradient=gradient)


def chosen(method: Method | None, step: Number | None) -> Method:
    """The method, or the one that goes with a step or with a tolerance."""
    if method is None:
        return RKC2 if step is None else EULER
    if not isinstance(method, Method):
        raise ValueError(f"flow: expected a step method such as RK4, received {shown(method)}")
    return method


def gradient_flow(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    horizon: Number,
    step: Number | None = None,
    tolerance: Number | None = None,
    observe: Mapping[str, Observer] | None = None,
    method: Method | None = None,
    clip: Clip | None = None,
    every: Number = 1,
    times: Iterable[Number] | None = None,
    segment: Number | None = None,
    backend: Backend = "auto",
    checkpoint: Keeper | None = None,
) -> FlowRecord:
    """Run :func:`flow` to the horizon and record observables; the loss is always among them.

    An observable is a number, a tensor or an array, of the same shape at all times; the name
    "loss" is taken. Memory does not grow with the number of steps beyond the observed values. With
    a ``checkpoint`` (:class:`cotflow.flows.checkpoint.Checkpoint`) a run that was cut off goes on
    where it was last kept, and its record is bit for bit that of an uninterrupted run.

    >>> from cotflow import gradient_flow, published
    >>> e = published("figure 2", depth=4, seed=[0, 1])
    >>> record = gradient_flow(e.net, e.weights, e.x, e.y, step=0.25, horizon=1.0)
    >>> record.observed["loss"].shape, record.times.tolist()
    (torch.Size([2, 5]), [0.0, 0.25, 0.5, 0.75, 1.0])
    """
    method, plan = chosen(method, step), schedule(weights, step, tolerance, horizon, every, times)
    weights, field = begun(weights, x, y), VelocityField(net, x, y, clip, segment, backend)
    observers: dict[str, Observer] = {"loss": lambda s: s.loss}
    if observe and observers.keys() & observe.keys():
        raise ValueError('observe: expected a name other than "loss", which is always recorded')
    observers |= dict(observe or {})
    for name, observer in observers.items():
        if not callable(observer):
            raise ValueError(f"observe: expected {name!r} to be a function, received {observer!r}")
    recorded = Recorded(times=[], values={name: [] for name in observers})
    state: FlowState | None = None
    if checkpoint is not None:
        run: dict[str, object] = {
            "the network": net,
            "the initial weights": weights,
            "the inputs x": x,
            "the targets y": y,
            "the step": plan.step,
            "the tolerance": plan.tolerance,
            "the horizon": plan.horizon,
            "every": plan.every,
            "the times": plan.times,
            "the segment": field.segment,
            "the backend": backend,
            "the method": method,
            "the clip": clip,
        }
        run |= {f"the observable {name!r}": observer for name, observer in observers.items()}
        kept = checkpoint.restore(run, weights.V.device)
        if kept is not None:
            state, recorded = FlowState.restored(kept["state"]), Recorded.restored(kept)
    try:
        for snapshot in march(field, method, plan.control, weights, state):
            state = snapshot.state
            if plan.due(state):
                recorded.add(snapshot, observers)
            del snapshot
            if checkpoint is not None:
                last = plan.control.done(state)
                checkpoint.keep(state.step, partial(recorded.content, state), last=last)
    finally:
        if checkpoint is not None:
            checkpoint.release()
    assert state is not None, "march begins with a state, or was given one"
    return FlowRecord(
        times=torch.tensor(recorded.times, dtype=torch.float64, device="cpu"),
        observed={name: torch.stack(series, dim=-1) for name, series in recorded.values.items()},
        weights=state.weights.map(Tensor.detach),
        method=method,
        step=plan.step,
        tolerance=plan.tolerance,
        accepted=state.step,
        rejected=state.rejected,
        gradient_evaluations=state.evaluations,
        largest_stages=state.stages,
        error_estimate=state.error,
    )
