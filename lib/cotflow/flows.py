"""Gradient flows in the layer metric: θ̇ = −r ∂_θℓ, by explicit Runge–Kutta methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint import Gradient, gradient
from cotflow.network import ResidualNet, Weights


@dataclass(frozen=True)
class RungeKutta:
    """Explicit method: stage j sits at θ + η Σ_i a[j][i] v_i, the step is θ + η Σ_i b[i] v_i."""

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


# On a gradient flow, explicit Euler of step η is gradient descent with rate η·L (or η·L·m).
EULER = RungeKutta("Euler", 1, ((),), (1.0,))
HEUN = RungeKutta("Heun", 2, ((), (1.0,)), (0.5, 0.5))
RK4 = RungeKutta("RK4", 4, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
METHODS = (EULER, HEUN, RK4)


class DivergenceError(ArithmeticError):
    """The flow left the range of numbers; names the time, the norm and a way out."""


@dataclass(frozen=True)
class Snapshot:
    """The flow at one time, with the gradient there."""

    time: float
    step: int
    weights: Weights
    gradient: Gradient

    @property
    def loss(self) -> Tensor:
        return self.gradient.loss


@dataclass(frozen=True)
class FlowRecord:
    """What a flow left: observables at the recorded times, the weights at the end, the cost.

    ``observed[name]`` has the run axes first and the axis of times last.
    """

    times: Float[Tensor, " times"]
    observed: dict[str, Tensor]
    weights: Weights
    method: RungeKutta
    step: float
    gradient_evaluations: int


def frobenius_clip(radius: float) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """π(G) = G · min(1, radius/‖G‖_F), matrix by matrix: bounded by the radius and 1-Lipschitz.

    The clipped flow ([M] eq. (5)) applies it to each right-hand side.
    """
    if not radius > 0:
        raise ValueError(f"clip: expected a radius > 0, received {radius}")

    def clip(velocity: dict[str, Tensor]) -> dict[str, Tensor]:
        clipped = {}
        for name, value in velocity.items():
            axes = (-1,) if name == "b" else (-2, -1)
            norm = torch.linalg.vector_norm(value, dim=axes, keepdim=True)
            clipped[name] = value * (radius / norm.clamp_min(radius))
        return clipped

    return clip


def flow(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    step: float,
    horizon: float,
    method: RungeKutta = EULER,
    clip: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    every: int = 1,
) -> Iterator[Snapshot]:
    """θ̇ = −r ∂_θℓ on [0, horizon], r the rates of the network's metric ([M] eq. (4), [B]).

    Yields the state at times 0, every·step, 2·every·step, … and at the horizon. The weights of
    past snapshots are never kept here: observe on the fly, or clone what you need.

    Parameters
    ----------
    step : flow time of one step η; the last one is not shortened, the horizon is rounded to a
        whole number of steps.
    method : :data:`EULER` (gradient descent with rate η·L or η·L·m), :data:`HEUN`, :data:`RK4`;
        global error O(η^order) for σ smooth enough.
    clip : applied to every right-hand side, see :func:`frobenius_clip`.

    Raises
    ------
    DivergenceError : the loss of a run is not a number, or too large for its squares to be one.
    """
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"flow: expected a finite step > 0, received {step}")
    if not (horizon > 0 and math.isfinite(horizon)):
        raise ValueError(f"flow: expected a finite horizon > 0, received {horizon}")
    if every < 1:
        raise ValueError(f"flow: expected every ≥ 1, received {every}")
    count = max(1, round(horizon / step))

    def evaluate(at: Weights, index: int) -> tuple[Gradient, dict[str, Tensor]]:
        result = gradient(net, at, x, y)
        # Squares of weights overflow long before the loss does.
        if not bool((result.loss < torch.finfo(result.loss.dtype).max ** 0.5).all()):
            norm = torch.stack([value.abs().max() for value in at.tensors().values()]).max()
            raise DivergenceError(
                f"the flow diverged near time {index * step:.4g} (step {index} of {count}): the "
                f"loss is {result.loss.max():.3g} and the largest weight entry is {norm:.3g}. Use "
                f"a step below {step:.3g}, a shorter horizon, or clip=frobenius_clip(radius)."
            )
        return result, result.velocity if clip is None else clip(result.velocity)

    for index in range(count):
        first, velocity = evaluate(weights, index)
        if index % every == 0:
            yield Snapshot(index * step, index, weights, first)
        stages = [velocity]
        for row in method.a[1:]:
            stages.append(evaluate(weights.plus(combine(stages, row), step), index)[1])
        weights = weights.plus(combine(stages, method.b), step)
    last, _ = evaluate(weights, count)
    yield Snapshot(count * step, count, weights, last)


def combine(
    stages: list[dict[str, Tensor]], coefficients: tuple[float, ...]
) -> Mapping[str, Tensor]:
    """Σ_i c_i v_i over the stages whose coefficient is not zero."""
    if coefficients == (1.0,):
        return stages[0]
    return {
        name: sum(c * v[name] for c, v in zip(coefficients, stages, strict=True) if c)
        for name in stages[0]
    }


def gradient_flow(
    net: ResidualNet,
    weights: Weights,
    x: Float[Tensor, "*data n d"],
    y: Float[Tensor, "*data n dy"],
    *,
    step: float,
    horizon: float,
    observe: Mapping[str, Callable[[Snapshot], Tensor]] | None = None,
    method: RungeKutta = EULER,
    clip: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    every: int = 1,
) -> FlowRecord:
    """Run :func:`flow` to the horizon and record observables; the loss is always among them.

    Memory does not grow with the number of steps beyond the observed values.
    """
    observers = {"loss": lambda s: s.loss} | dict(observe or {})
    times, values = [], {name: [] for name in observers}
    for snapshot in flow(
        net, weights, x, y, step=step, horizon=horizon, method=method, clip=clip, every=every
    ):
        times.append(snapshot.time)
        for name, observer in observers.items():
            # A clone, since an entry of V is a view that would keep all of V alive.
            values[name].append(observer(snapshot).clone())
    return FlowRecord(
        torch.tensor(times, dtype=torch.float64),
        {name: torch.stack(series, dim=-1) for name, series in values.items()},
        snapshot.weights,
        method,
        step,
        snapshot.step * len(method.b) + 1,
    )
