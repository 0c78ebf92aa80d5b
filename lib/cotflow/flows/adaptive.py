"""Steps as long as the estimated error allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cotflow.adjoint.gradient import Gradient
from cotflow.flows.control import WAY_OUT
from cotflow.flows.method import Attempt, Method
from cotflow.flows.state import FlowState
from cotflow.flows.velocity import DivergenceError, NotFiniteError, VelocityField
from cotflow.network.weights import Weights

# Below this part of the horizon a step is lost in the rounding of time.
SHORTEST = 1e-14
# Weighted errors below this one count as this one.
TINY = 1e-10


@dataclass(frozen=True)
class AdaptiveStep:
    """Accepts a step when |e| ≤ tolerance·(1 + max(|θ_0|, |θ_1|)) in the metric norm, in all runs.

    The next length is η·0.8·min(x, x·(η/η₋)(E₋/E)^α), x = E^{−α}, within [0.1, 5]η: E the
    weighted error, α = 1/(error order + 1), ₋ the step before (Gustafsson's predictive control,
    as in [SSV]; Hairer & Wanner, Solving ODEs II, IV.8). Every stop ends a step exactly.

    Parameters
    ----------
    stops : increasing times > 0, the last one is the horizon.
    """

    tolerance: float
    stops: tuple[float, ...]

    def done(self, state: FlowState) -> bool:
        return state.time >= self.stops[-1]

    def advance(
        self,
        field: VelocityField,
        method: Method,
        state: FlowState,
        velocity: dict[str, Tensor],
    ) -> tuple[FlowState, Gradient, dict[str, Tensor]]:
        weights, power = state.weights, 1.0 / (method.error_order + 1)
        before, spectrum, rejected = field.evaluations, state.spectrum, 0
        reason: NotFiniteError | None = None
        proposal = state.proposal
        if proposal is None:
            proposal = self.first_step(field, weights, velocity)
        stop = next(time for time in self.stops if time > state.time)
        while True:
            step, lands, error = 0.0, False, math.inf
            try:
                spectrum = method.spectrum(field, weights, velocity, spectrum, anew=rejected > 0)
                longest = float(method.longest(spectrum, self.tolerance, weights.V.dtype))
                proposal = min(proposal, longest)
                step, lands = self.fit(proposal, stop - state.time)
                attempt = method.attempt(field, weights, velocity, step, spectrum)
                error = self.weigh(field, weights, attempt)
            except NotFiniteError as caught:
                reason = caught
            if error <= 1.0:
                break
            rejected += 1
            proposal = step * (max(0.1, 0.8 * error**-power) if math.isfinite(error) else 0.1)
            if proposal < SHORTEST * self.stops[-1]:
                raise DivergenceError(self.sentence(state, reason, step))
        following = self.following(method, state, step, error)
        if rejected:
            following = min(following, step)
        if step < proposal:
            following = max(following, proposal)
        state = state.after(
            attempt,
            time=stop if lands else state.time + step,
            error=field.norm(attempt.weights, attempt.error),
            evaluations=field.evaluations - before,
            rejected=rejected,
            proposal=following,
            previous=(step, max(error, TINY)),
            spectrum=spectrum,
        )
        return state, attempt.gradient, attempt.velocity

    @staticmethod
    def following(method: Method, state: FlowState, step: float, error: float) -> float:
        """The length after an accepted step."""
        power, error = 1.0 / (method.error_order + 1), max(error, TINY)
        change: float = error**-power
        if state.previous is not None:
            before, error_before = state.previous
            change = min(change, change * step / before * (error_before / error) ** power)
        return step * min(max(0.8 * change, 0.1), 5.0)

    @staticmethod
    def fit(proposal: float, left: float) -> tuple[float, bool]:
        """(η, whether it ends at the stop); no tiny step is left over before a stop."""
        if proposal >= left:
            return left, True
        return min(proposal, 0.5 * left), False

    def weigh(self, field: VelocityField, weights: Weights, attempt: Attempt) -> float:
        norm = field.norm(weights, attempt.error)
        value = float((norm / field.scale(weights, attempt.weights)).max()) / self.tolerance
        return math.inf if math.isnan(value) else value

    def first_step(
        self, field: VelocityField, weights: Weights, velocity: Mapping[str, Tensor]
    ) -> float:
        """A tenth of the η at which Euler's error η|v(θ + ηv) − v(θ)| meets the tolerance."""
        size = float((field.norm(weights, velocity) / field.scale(weights)).max())
        if not 0.0 < size < math.inf:
            return self.stops[-1]
        step = min(0.01 / size, self.stops[-1])
        while step > 0.0:
            try:
                _, moved = field(weights.plus(velocity, step))
            except NotFiniteError:
                step *= 0.1
                continue
            change = {name: step * (moved[name] - velocity[name]) for name in moved}
            error = float((field.norm(weights, change) / field.scale(weights)).max())
            return step * 0.1 / math.sqrt(error / self.tolerance + 1e-4)
        return self.stops[-1]

    def sentence(
        self, state: FlowState, reason: NotFiniteError | None, step: float | None = None
    ) -> str:
        reached = "" if step is None else f", down to a step of {step:.3g}"
        return (
            f"the flow diverged near time {state.time:.4g} (step {state.step}): "
            f"{reason or 'the estimated error stays too large'}{reached}. "
            f"Use another tolerance than {self.tolerance:.3g}, {WAY_OUT}"
        )
