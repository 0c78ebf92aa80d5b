"""Which steps a run takes and which of them it records: the arguments of a flow, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from cotflow.flows.adaptive import AdaptiveStep
from cotflow.flows.fixed import FixedStep
from cotflow.flows.state import FlowState
from cotflow.network.weights import Weights


def schedule(
    weights: Weights,
    step: float | None,
    tolerance: float | None,
    horizon: float,
    every: int,
    times: Sequence[float] | None,
) -> tuple[FixedStep | AdaptiveStep, Callable[[FlowState], bool]]:
    """The step control, and which states are recorded."""
    if (step is None) == (tolerance is None):
        raise ValueError(
            "flow: expected either a step or a tolerance, received "
            + ("neither" if step is None else "both")
        )
    if step is not None and not (step > 0 and math.isfinite(step)):
        raise ValueError(f"flow: expected a finite step > 0, received {step}")
    least = 10.0 * torch.finfo(weights.V.dtype).eps
    if tolerance is not None and not least <= tolerance < 1.0:
        raise ValueError(
            f"flow: expected a tolerance from {least:.2g} (ten roundings) up to 1, "
            f"received {tolerance}"
        )
    if not (horizon > 0 and math.isfinite(horizon)):
        raise ValueError(f"flow: expected a finite horizon > 0, received {horizon}")
    if every < 1:
        raise ValueError(f"flow: expected every ≥ 1, received {every}")
    if every > 1 and (tolerance is not None or times is not None):
        raise ValueError("flow: every counts fixed steps; give either every or times")
    if times is not None:
        times = [float(time) for time in times]
        inside = all(0.0 <= time <= horizon for time in times)
        if not (times and inside and all(a < b for a, b in pairwise(times))):
            raise ValueError(
                f"flow: expected increasing times between 0 and the horizon {horizon:g}"
            )
    if tolerance is not None:
        stops = tuple(sorted({*(times or ()), float(horizon)} - {0.0}))
        recorded = None if times is None else set(times)
        return AdaptiveStep(tolerance, stops), lambda s: recorded is None or s.time in recorded
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
