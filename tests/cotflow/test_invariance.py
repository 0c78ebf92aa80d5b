"""Exactness in the width: the flow sees the measure of a layer, not the list of its particles."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotflow.flows.flow import gradient_flow
from cotflow.flows.runge_kutta import METHODS, RK4
from cotflow.network.activations import ACTIVATIONS, GELU, TANH
from cotflow.network.residual import marion_net, mean_field_net
from cotflow.network.weights import Weights
from cotflow.transport.exact import conditional_distance, particles

ALL = ("A", "V", "W", "b", "B")


def problem(seed=0, depth=3, q=3, m=4, d=2, dy=2, n=5):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.7 * torch.randn(*shape, generator=g, dtype=torch.float64)

    weights = Weights(draw(q, d), draw(depth, q, m), draw(depth, m, q), draw(dy, q), draw(depth, m))
    return weights, draw(n, d), draw(n, dy)


def select(weights, index):
    """The particles of those indices, in every layer: a permutation, a duplication, a subset."""
    return replace(
        weights,
        V=weights.V[:, :, index],
        W=weights.W[:, index],
        b=weights.b[:, index],
    )


def twice(weights):
    return select(weights, torch.arange(weights.width).repeat(2))


def run(net, weights, x, y, method=RK4, horizon=0.5):
    return gradient_flow(
        net,
        weights,
        x,
        y,
        step=0.05,
        horizon=horizon,
        method=method,
        observe={"slope": lambda s: s.gradient.slope_squared},
    )


def difference(nets, first, second, x, y):
    """Largest relative deviation of losses, squared slopes and outputs between two records."""
    worst = [
        float(((first.observed[k] - second.observed[k]) / first.observed[k]).abs().max())
        for k in ("loss", "slope")
    ]
    outputs = [net(record.weights, x) for net, record in zip(nets, (first, second), strict=True)]
    return max(*worst, float((outputs[0] - outputs[1]).norm() / outputs[0].norm()))


@given(
    name=st.sampled_from(sorted(ACTIVATIONS)),
    mean_field=st.booleans(),
    orders=st.tuples(*[st.permutations(range(4))] * 3),
)
def test_permuting_particles_inside_each_layer_changes_nothing(name, mean_field, orders):
    make = mean_field_net if mean_field else marion_net
    net = make(ACTIVATIONS[name], trained=ALL)
    weights, x, y = problem()
    layers = [(k, torch.tensor(order)) for k, order in enumerate(orders)]
    permuted = replace(
        weights,
        V=torch.stack([weights.V[k][:, order] for k, order in layers]),
        W=torch.stack([weights.W[k][order] for k, order in layers]),
        b=torch.stack([weights.b[k][order] for k, order in layers]),
    )
    first, second = (run(net, w, x, y, horizon=0.25) for w in (weights, permuted))
    assert difference((net, net), first, second, x, y) < 1e-10
    ends = particles(first.weights), particles(second.weights)
    assert float(conditional_distance(*ends)) < 1e-10


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_duplicating_every_particle_changes_nothing_at_rate_depth_times_width(name, method):
    net = mean_field_net(ACTIVATIONS[name], trained=ALL)
    weights, x, y = problem(1)
    first, second = run(net, weights, x, y, method), run(net, twice(weights), x, y, method)
    assert difference((net, net), first, second, x, y) < 1e-10
    wide = particles(second.weights)
    torch.testing.assert_close(wide[:, :4], wide[:, 4:], rtol=0, atol=1e-12)
    assert float(conditional_distance(particles(twice(first.weights)), wide)) < 1e-10
    assert float(conditional_distance(particles(weights), wide)) > 0.05


def test_rate_depth_alone_slows_the_wider_net_down():
    """Without the factor m each of two copies moves at half the speed of the one particle."""
    net = mean_field_net(TANH, metric="layer", trained=("V", "W", "b"))
    weights, x, y = problem(1)
    first, second = run(net, weights, x, y), run(net, twice(weights), x, y)
    assert difference((net, net), first, second, x, y) > 0.1
    doubled = mean_field_net(
        TANH, metric="layer", trained=("V", "W", "b"), speed={"V": 2.0, "W": 2.0, "b": 2.0}
    )
    assert difference((net, doubled), first, run(doubled, twice(weights), x, y), x, y) < 1e-10


def rescaled_twice(weights):
    """(V, W, b) → (V/√2, W, b), twice: the same function under the scaling 1/√m."""
    wide = twice(weights)
    return replace(wide, V=wide.V / math.sqrt(2.0))


def test_root_scaling_has_two_rates_under_duplication():
    """V moves at rate L and W, b at rate 2L in the net of twice the width."""
    net = marion_net(GELU, trained=ALL)
    weights, x, y = problem(2)
    first = run(net, weights, x, y)
    two_rates = marion_net(GELU, trained=ALL, speed={"W": 2.0, "b": 2.0})
    second = run(two_rates, rescaled_twice(weights), x, y)
    assert difference((net, two_rates), first, second, x, y) < 1e-10
    rescaled = particles(rescaled_twice(first.weights))
    assert float(conditional_distance(rescaled, particles(second.weights))) < 1e-10


@pytest.mark.parametrize("speed", [0.5, 1.0, math.sqrt(2.0), 2.0])
def test_root_scaling_fails_with_one_common_rate(speed):
    net = marion_net(GELU, trained=ALL)
    common = marion_net(GELU, trained=ALL, speed=dict.fromkeys("VWb", speed))
    weights, x, y = problem(2)
    second = run(common, rescaled_twice(weights), x, y)
    assert difference((net, common), run(net, weights, x, y), second, x, y) > 1e-2


def test_root_scaling_with_frozen_inner_weights_has_one_rate():
    """The two rates differ only if W moves: with V alone trained duplication is exact at rate L."""
    net = marion_net(GELU, trained=("V",))
    weights, x, y = problem(2)
    first, second = run(net, weights, x, y), run(net, rescaled_twice(weights), x, y)
    assert difference((net, net), first, second, x, y) < 1e-10


def test_plain_duplication_changes_the_function_under_root_scaling():
    net = marion_net(GELU)
    weights, x, _ = problem(2)
    narrow, wide = net(weights, x), net(twice(weights), x)
    assert float((narrow - wide).norm() / narrow.norm()) > 0.05
    mean_field = mean_field_net(GELU)
    torch.testing.assert_close(
        mean_field(weights, x), mean_field(twice(weights), x), rtol=1e-13, atol=0
    )


def test_root_scaling_is_the_mean_field_flow_with_another_clock():
    """φ_m = √m φ: training Z at rate L for the time t is rate L·m on 1/m Σ φ_m at the time t/m."""
    weights, x, y = problem(3)
    m = weights.width
    layer = marion_net(GELU, trained=("V", "W", "b"))
    particle = replace(layer, metric="particle")
    first = gradient_flow(layer, weights, x, y, step=0.04, horizon=0.8)
    second = gradient_flow(particle, weights, x, y, step=0.04 / m, horizon=0.8 / m)
    torch.testing.assert_close(first.observed["loss"], second.observed["loss"], rtol=1e-11, atol=0)
