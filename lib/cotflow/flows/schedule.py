"""Which steps a run takes and which of them it records: the arguments of a flow, checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch

from cotflow.flows.adaptive import AdaptiveStep
from cotflow.flows.control import StepControl
from cotflow.flows.fixed import FixedStep
from cotflow.flows.state import FlowState
from cotflow.network.checks import require_kind
from cotflow.network.numbers import Number, positive, real, shown, whole
from cotflow.network.weights import Weights

# Two times are one if they differ by less than this part of a step; of controlled steps, which
# have no length of their own, by less than this part of this part of the horizon.
CLOSE = 1e-6


@dataclass(frozen=True)
class Schedule:
    """What a flow was asked for, in plain numbers.

    Attributes
    ----------
    horizon : where the flow ends.
    times : those recorded, as the clock of the flow will show them; None for every ``every``-th
        step and the horizon.
    """

    control: StepControl
    step: float | None
    tolerance: float | None
    horizon: float
    every: int
    times: frozenset[float] | None

    def due(self, state: FlowState) -> bool:
        """Whether the state is recorded."""
        if self.times is not None:
            return state.time in self.times
        return state.step % self.every == 0 or self.control.done(state)


def schedule(
    weights: Weights,
    step: Number | None,
    tolerance: Number | None,
    horizon: Number,
    every: Number,
    times: Iterable[Number] | None,
) -> Schedule:
    """The plan of a flow with these arguments, which may be numbers of NumPy and of torch."""
    require_kind(weights, Weights, "flow: expected cotflow.Weights")
    if step is not None and tolerance is None:
        step = real(step, "flow: expected a finite step > 0", positive)
        horizon, every, times = checked(horizon, every, times, fixed=True)
        _require_range(weights, max(step, horizon))
        return fixed_steps(step, horizon, every, times)
    if tolerance is not None and step is None:
        if not weights.V.dtype.is_floating_point and not weights.V.dtype.is_complex:
            raise ValueError(
                f"flow: expected weights in floating point, received {weights.V.dtype}"
            )
        least = 10.0 * torch.finfo(weights.V.dtype).eps
        tolerance = real(
            tolerance,
            f"flow: expected a tolerance from {least:.2g} (ten roundings) up to 1",
            lambda t: least <= t < 1.0,
        )
        horizon, every, times = checked(horizon, every, times, fixed=False)
        _require_range(weights, horizon)
        return controlled_steps(tolerance, horizon, times)
    raise ValueError(
        "flow: expected either a step or a tolerance, received "
        + ("neither" if step is None else "both")
    )


def _require_range(weights: Weights, time: float) -> None:
    """A time that the weights' precision has a number for."""
    dtype = weights.V.dtype
    if dtype.is_floating_point and time > torch.finfo(dtype).max:
        raise ValueError(
            f"flow: expected times within the range of {str(dtype).removeprefix('torch.')}, "
            f"received {time:g}"
        )


def checked(
    horizon: Number, every: Number, times: Iterable[Number] | None, *, fixed: bool
) -> tuple[float, int, list[float] | None]:
    """The three as plain numbers."""
    horizon = real(horizon, "flow: expected a finite horizon > 0", positive)
    every = whole(every, "flow: expected every ≥ 1", 1)
    if every > 1 and (times is not None or not fixed):
        raise ValueError("flow: every counts fixed steps; give either every or times")
    if times is None:
        return horizon, every, None
    try:
        each = list(times)
    except TypeError:
        raise ValueError(f"flow: expected a list of times, received {shown(times)}") from None
    return horizon, every, [real(time, "flow: expected finite times") for time in each]


def within(times: list[float], horizon: float, close: float) -> list[float]:
    """The times, those that rounding keeps from 0 or from the horizon put there.

    Raises
    ------
    ValueError : they do not increase, or leave [0, horizon].
    """
    times = [horizon if abs(time - horizon) <= close else time for time in times]
    times = [0.0 if -close <= time < 0.0 else time for time in times]
    inside = all(0.0 <= time <= horizon for time in times)
    if not (times and inside and all(a < b for a, b in pairwise(times))):
        raise ValueError(f"flow: expected increasing times between 0 and the horizon {horizon:g}")
    return times


def controlled_steps(tolerance: float, horizon: float, times: list[float] | None) -> Schedule:
    if times is not None:
        times = within(times, horizon, CLOSE**2 * horizon)
    return Schedule(
        control=AdaptiveStep(tolerance, tuple(sorted({*(times or ()), horizon} - {0.0}))),
        step=None,
        tolerance=tolerance,
        horizon=horizon,
        every=1,
        times=None if times is None else frozenset(times),
    )


def fixed_steps(step: float, horizon: float, every: int, times: list[float] | None) -> Schedule:
    if not horizon / step < 2**53:
        raise ValueError(
            f"flow: expected a step that can be counted up to the horizon {horizon:g}, "
            f"received {step:g}"
        )
    count = max(1, round(horizon / step))
    recorded: list[int] | None = None
    if times is not None:
        times = within(times, max(horizon, count * step), CLOSE * step)
        recorded = [round(time / step) for time in times]
        for index, time in zip(recorded, times, strict=True):
            if abs(index * step - time) > CLOSE * step or index > count:
                raise ValueError(
                    f"flow: expected times that are whole numbers of steps {step:g} up to "
                    f"{count * step:g}, received {time:g}"
                )
        if len(set(recorded)) < len(recorded):
            raise ValueError(f"flow: expected times that are a step {step:g} apart or more")
    return Schedule(
        control=FixedStep(step, count),
        step=step,
        tolerance=None,
        horizon=count * step,
        every=every,
        times=None if recorded is None else frozenset(index * step for index in recorded),
    )
