"""Runge–Kutta–Chebyshev: order, stability interval, spectral radius, gain over plain descent."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cotflow.flows.chebyshev import RKC2, coefficients, spectral_radius, stability_limit
from cotflow.flows.flow import gradient_flow
from cotflow.flows.runge_kutta import RK4
from cotflow.flows.velocity import VelocityField, frobenius_clip
from cotflow.network.activations import IDENTITY, TANH
from cotflow.network.published import published
from cotflow.network.residual import ResidualNet, marion_net
from cotflow.network.weights import Weights
from problems import ALL, distance, problem


def linear_problem(*curvatures):
    """One flow Ḃ_i = −λ_i B_i a curvature: F = Bx, x_i = √(nλ_i/2)·e_i, everything else still."""
    n = len(curvatures)
    x = torch.diag(torch.tensor(curvatures, dtype=torch.float64).mul(n / 2).sqrt())
    still = torch.zeros(1, n, 1, dtype=torch.float64)
    eye, one = torch.eye(n, dtype=torch.float64), torch.ones(1, n, dtype=torch.float64)
    weights = Weights(A=eye, V=still, W=still.mT.contiguous(), B=one)
    return ResidualNet(IDENTITY, trained=("B",)), weights, x, torch.zeros(n, 1, dtype=torch.float64)


def amplification(stages, z, damping=2 / 13):
    """R(z) by the three-term recurrence on y′ = zy of step 1, from the coefficients alone."""
    first, rows = coefficients(stages, damping)
    before, now = 1.0, 1.0 + first * z
    for mu, nu, gain, start in rows:
        after = (1 - mu - nu) + mu * now + nu * before + gain * z * now + start * z
        before, now = now, after
    return now


@pytest.mark.parametrize("stages", [2, 3, 5, 10, 50, 200])
def test_stability_interval(stages):
    """|R| ≤ 1 − ε/3 + o(1) away from 0, up to β(s) ≈ (2/3)(s²−1)(1−(2/15)ε), and not beyond."""
    limit = stability_limit(stages)
    assert limit == pytest.approx(0.653 * (stages**2 - 1), rel=1e-3)
    inside = np.array([amplification(stages, -z) for z in np.linspace(0, limit, 5000)[1:]])
    assert np.abs(inside).max() < 1.0
    assert np.abs(inside[len(inside) // 2 :]).max() < 0.97
    assert abs(amplification(stages, -1.25 * limit)) > 1.0
    # The stages chosen by 1.54 keep every step inside.
    chosen = 1 + int(math.sqrt(1.0 + 1.54 * limit))
    assert stability_limit(chosen) >= limit


@pytest.mark.parametrize("stages", [2, 3, 7, 20])
def test_consistent_to_second_order(stages):
    """R(z) = e^z + O(z³)."""
    gap = [abs(amplification(stages, -z) - math.exp(-z)) for z in (1e-2, 1e-3)]
    assert 2.9 < math.log10(gap[0] / gap[1]) < 3.1


@pytest.mark.parametrize("stages", [2, 4, 9])
def test_linear_flow_decays_inside_the_interval_and_grows_beyond(stages):
    net, weights, x, y = linear_problem(1.0, 3.0)
    options = {"method": replace(RKC2, stages=stages), "horizon": 1.0}

    def ends(reach, steps):
        step = reach / 3.0
        horizon = {"horizon": steps * step}
        record = gradient_flow(net, weights, x, y, step=step, **(options | horizon))
        return record.observed["loss"]

    stable = ends(0.65 * (stages**2 - 1), 60)
    assert bool((stable <= stable[0]).all()) and float(stable[-1]) < 1e-2 * float(stable[0])
    beyond = ends(1.15 * stability_limit(stages), 20)
    assert float(beyond[-1]) > 1e3 * float(beyond[0])


def test_flow_agrees_with_the_amplification_factor():
    net, weights, x, y = linear_problem(0.5, 2.0)
    for stages in (2, 6):
        method = replace(RKC2, stages=stages)
        record = gradient_flow(net, weights, x, y, step=0.7, horizon=0.7, method=method)
        expected = [amplification(stages, -0.7 * rate) for rate in (0.5, 2.0)]
        np.testing.assert_allclose(record.weights.B[0], expected, rtol=1e-12)
        assert record.gradient_evaluations == stages + 1
        assert record.largest_stages == stages


@pytest.mark.parametrize("stages", [None, 2, 5])
def test_order_two(stages):
    weights, x, y = problem(1)
    net = marion_net(TANH, trained=ALL)
    method = replace(RKC2, stages=stages)

    def end(method, steps):
        return gradient_flow(net, weights, x, y, step=0.5 / steps, horizon=0.5, method=method)

    reference = end(RK4, 128).weights
    steps = np.array([8, 16, 32])
    records = [end(method, int(k)) for k in steps]
    errors = [distance(record.weights, reference) for record in records]
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert abs(slopes[-1] - 2) < 0.1, slopes
    # The sum of local errors is of the same order, and of the size of the error.
    sums = [float(record.error_estimate) for record in records]
    assert abs(-np.diff(np.log(sums))[-1] / math.log(2) - 2) < 0.15
    assert 0.2 < sums[-1] / errors[-1] < 20


def test_stages_follow_the_spectral_radius_and_keep_a_long_step_stable():
    net, weights, x, y = linear_problem(1.0, 400.0)
    record = gradient_flow(net, weights, x, y, step=0.5, horizon=5.0, method=RKC2)
    assert record.largest_stages == 1 + int(math.sqrt(1 + 1.54 * 0.5 * 480))
    assert record.weights.B[0].tolist() == pytest.approx([math.exp(-5.0), 0.0], abs=0.1)
    assert record.gradient_evaluations < 350
    with pytest.raises(AssertionError):
        few = gradient_flow(
            net, weights, x, y, step=0.5, horizon=5.0, method=replace(RKC2, stages=4)
        )
        assert float(few.weights.B.abs().max()) < 1e3


@pytest.mark.parametrize("metric", ["layer", "particle"])
def test_spectral_radius_is_the_largest_curvature_in_the_metric(metric):
    weights, x, y = problem(3)
    net = marion_net(TANH, trained=ALL, metric=metric, speed={"W": 2.0})
    parts, rates = weights.tensors(), net.rates(weights)
    sizes = [value.numel() for value in parts.values()]

    def loss(flat):
        pieces = flat.split(sizes)
        shaped = {n: p.reshape(parts[n].shape) for n, p in zip(parts, pieces, strict=True)}
        return net.loss(Weights(**shaped), x, y)

    hessian = torch.autograd.functional.hessian(
        loss, torch.cat([value.flatten() for value in parts.values()])
    )
    roots = torch.cat([torch.full((v.numel(),), rates[n] ** 0.5) for n, v in parts.items()])
    exact = float(torch.linalg.eigvalsh(roots[:, None] * hessian * roots).abs().max())
    field = VelocityField(net, x, y)
    _, velocity = field(weights)
    first = spectral_radius(field, weights, velocity, safety=1.0)
    assert 0.9 * exact < first.radius < 1.01 * exact
    cost = field.evaluations
    again = spectral_radius(field, weights, velocity, first.direction, safety=1.0)
    assert field.evaluations - cost <= 5
    assert first.radius * (1 - 1e-3) < again.radius < 1.01 * exact
    assert field.norm(weights, again.direction).item() == pytest.approx(1.0)


def test_spectral_radius_of_a_batch_is_that_of_its_stiffest_run():
    weights, x, y = problem(3, runs=(3,))
    x = x * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)[:, None, None]
    net = marion_net(TANH, trained=ALL)

    def radius(weights, x, y):
        field = VelocityField(net, x, y)
        return spectral_radius(field, weights, field(weights)[1], accuracy=1e-4).radius

    alone = [radius(weights.run(r), x[r], y[r]) for r in range(3)]
    assert radius(weights, x, y) == pytest.approx(max(alone), rel=2e-3)


def test_clipped_stabilised_flow_agrees_with_a_fine_reference():
    weights, x, y = problem(4, scale=1.5)
    net, clip = marion_net(TANH, trained=ALL), frobenius_clip(0.5)
    fine = gradient_flow(net, weights, x, y, step=5e-3, horizon=0.5, method=RK4, clip=clip)
    record = gradient_flow(net, weights, x, y, tolerance=1e-5, horizon=0.5, clip=clip)
    assert distance(record.weights, fine.weights) < 5e-3


@pytest.mark.slow
def test_one_seventh_of_the_gradients_of_plain_descent_on_the_published_problem():
    """[M] figure 2 at depth 16 up to flow time 10: 2000 iterations at the published rate 5e-3."""
    e = published("figure 2", 16, 0, dtype=torch.float64)
    times = [0.1, 0.3, 1.0, 3.0, 10.0]
    options = {"horizon": 10.0, "times": times}
    problem = (e.net, e.weights, e.x, e.y)
    fine = gradient_flow(*problem, step=0.025, method=RK4, **options).observed["loss"]
    record = gradient_flow(*problem, tolerance=1e-4, **options)
    assert float((record.observed["loss"] / fine - 1).abs().max()) < 0.01
    assert record.gradient_evaluations < round(10.0 / 5e-3) / 7


def test_too_few_stages_or_iterations_are_refused():
    weights, x, y = problem()
    field = VelocityField(marion_net(), x, y)
    for stages in (0, 1):
        with pytest.raises(ValueError, match=f"^RKC2: expected stages ≥ 2, received {stages}"):
            replace(RKC2, stages=stages)
    with pytest.raises(ValueError, match=r"^spectral radius: expected iterations ≥ 1, received 0"):
        spectral_radius(field, weights, field(weights)[1], iterations=0)
