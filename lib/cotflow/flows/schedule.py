"""Which steps a run takes and which of them it records: the arguments of a flow, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from cotflow.flows.adaptive import AdaptiveStep
from cotflow.flows.control import StepControl
from cotflow.flows.fixed import FixedStep
from cotflow.flows.state import FlowState
from cotflow.network.weights import Weights

Schedule = tuple[StepControl, Callable[[FlowState], bool]]


def schedule(
    weights: Weights,
    step: float | None,
    tolerance: float | None,
    horizon: float,
    every: int,
    times: Sequence[float] | None,
) -> Schedule:
    """The step control, and which states are recorded."""
    if step is not None and tolerance is None:
        if not (step > 0 and math.isfinite(step)):
            raise ValueError(f"flow: expected a finite step > 0, received {step}")
        times = checked(horizon, every, times, every > 1 and times is not None)
        return fixed_steps(step, horizon, every, times)
    if tolerance is not None and step is None:
        least = 10.0 * torch.finfo(weights.V.dtype).eps
        if not least <= tolerance < 1.0:
            raise ValueError(
                f"flow: expected a tolerance from {least:.2g} (ten roundings) up to 1, "
                f"received {tolerance}"
            )
        times = checked(horizon, every, times, every > 1)
        return controlled_steps(tolerance, horizon, times)
    raise ValueError(
        "flow: expected either a step or a tolerance, received "
        + ("neither" if step is None else "both")
    )


def checked(
    horizon: float, every: int, times: Sequence[float] | None, two_rhythms: bool
) -> list[float] | None:
    """The times as numbers."""
    if not (horizon > 0 and math.isfinite(horizon)):
        raise ValueError(f"flow: expected a finite horizon > 0, received {horizon}")
    if every < 1:
        raise ValueError(f"flow: expected every ≥ 1, received {every}")
    if two_rhythms:
        raise ValueError("flow: every counts fixed steps; give either every or times")
    if times is None:
        return None
    times = [float(time) for time in times]
    inside = all(0.0 <= time <= horizon for time in times)
    if not (times and inside and all(a < b for a, b in pairwise(times))):
        raise ValueError(f"flow: expected increasing times between 0 and the horizon {horizon:g}")
    return times


def controlled_steps(tolerance: float, horizon: float, times: list[float] | None) -> Schedule:
    stops = tuple(sorted({*(times or ()), float(horizon)} - {0.0}))
    recorded = None if times is None else set(times)
    return AdaptiveStep(tolerance, stops), lambda s: recorded is None or s.time in recorded


def fixed_steps(step: float, horizon: float, every: int, times: list[float] | None) -> Schedule:
    count = max(1, round(horizon / step))
    if times is None:
        return FixedStep(step, count), lambda s: s.step % every == 0 or s.step == count
    steps = {round(time / step): time for time in times}
    for index, time in steps.items():
        if abs(index * step - time) > 1e-6 * step or index > count:
            raise ValueError(
                f"flow: expected times that are whole numbers of steps {step:g} up to "
                f"{count * step:g}, received {time:g}"
            )
    return FixedStep(step, count), lambda s: s.step in steps
