"""A step method of one's own goes wherever the library's do."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from cotflow.flows.chebyshev import RKC2
from cotflow.flows.checkpoint import Checkpoint
from cotflow.flows.flow import gradient_flow
from cotflow.flows.method import Attempt, Method
from cotflow.flows.runge_kutta import METHODS, RK4
from cotflow.network.activations import TANH
from cotflow.network.residual import marion_net
from problems import ALL, distance, problem


@dataclass(frozen=True)
class Midpoint:
    """θ + ηv(θ + ½ηv); the error is estimated by the difference to the trapezoidal rule's step."""

    name: str = "midpoint"
    order: int = 2
    error_order: int = 2

    def spectrum(self, field, weights, velocity, known, *, anew=False):
        return None

    def longest(self, spectrum, tolerance, dtype):
        return math.inf

    def attempt(self, field, weights, velocity, step, spectrum=None):
        _, middle = field(weights.plus(velocity, 0.5 * step))
        end = weights.plus(middle, step)
        gradient, last = field(end)
        error = {n: step * (middle[n] - 0.5 * (velocity[n] + last[n])) for n in middle}
        return Attempt(weights=end, gradient=gradient, velocity=last, error=error, stages=2)


def test_the_librarys_methods_and_ones_own_are_methods():
    for method in (*METHODS, RKC2, Midpoint()):
        assert isinstance(method, Method)
    assert not isinstance("RK4", Method)


def test_it_converges_at_its_order_with_a_step_and_its_cost_is_counted():
    weights, x, y = problem(1)
    net = marion_net(TANH, trained=ALL)

    def end(method, steps):
        step = 0.5 / steps
        return gradient_flow(net, weights, x, y, step=step, horizon=0.5, method=method)

    reference, steps = end(RK4, 128).weights, np.array([8, 16, 32])
    records = [end(Midpoint(), int(k)) for k in steps]
    errors = [distance(record.weights, reference) for record in records]
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert abs(slopes[-1] - 2) < 0.1, slopes
    for record, count in zip(records, steps, strict=True):
        assert record.method == Midpoint() and record.largest_stages == 2
        assert record.gradient_evaluations == 2 * count + 1


def test_its_steps_can_be_controlled_and_its_runs_kept(tmp_path):
    weights, x, y = problem(2)
    net = marion_net(TANH, trained=ALL)
    options = {"tolerance": 1e-5, "horizon": 0.5, "method": Midpoint()}
    exact = gradient_flow(net, weights, x, y, step=1 / 128, horizon=0.5, method=RK4).weights
    kept = [
        gradient_flow(net, weights, x, y, checkpoint=Checkpoint(tmp_path / "run.pt"), **options)
        for _ in range(2)
    ]
    assert distance(kept[0].weights, exact) < 1e-3
    assert distance(kept[0].weights, kept[1].weights) == 0.0
    assert torch.equal(kept[0].observed["loss"], kept[1].observed["loss"])
