"""The a-priori bounds against random networks: no flow escapes, no line bends further down."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotflow.adjoint.gradient import gradient
from cotflow.bounds.energy import layer_rate, no_blow_up, semiconvexity
from cotflow.flows.flow import flow
from cotflow.flows.runge_kutta import RK4
from cotflow.measure.observables import largest_layer
from cotflow.network.activations import ACTIVATIONS, GELU, TANH
from cotflow.network.initial import Sizes, tied
from cotflow.network.residual import ResidualNet, marion_net, mean_field_net
from cotflow.network.weights import Weights

SIZE = st.sampled_from([0.03, 0.3, 1.0, 3.0])


def draws(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


@settings(max_examples=60)
@given(
    name=st.sampled_from(["gelu", "tanh", "identity"]),
    width_scaling=st.sampled_from(["sqrt", "mean", "none"]),
    trained=st.sampled_from([("A", "V", "W", "B"), ("V", "W"), ("V",), ("W", "B")]),
    depth=st.integers(1, 6),
    m=st.integers(1, 4),
    q=st.integers(1, 3),
    n=st.integers(1, 4),
    sizes=st.tuples(SIZE, SIZE, SIZE, SIZE),
    factor=st.sampled_from([0.5, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_no_flow_leaves_the_region_of_no_blow_up(
    name, width_scaling, trained, depth, m, q, n, sizes, factor, seed
):
    draw = draws(seed)
    v, w, data, target = sizes
    net = ResidualNet(ACTIVATIONS[name], width_scaling, trained=trained, loss_factor=factor)
    # One layer larger than the others: the bound must hold in the layer, not on average.
    heavy = torch.ones(depth, 1, 1, dtype=torch.float64)
    heavy[0] = 2.0
    weights = Weights(
        draw(q, q), v * heavy * draw(depth, q, m), w * heavy * draw(depth, m, q), draw(q, q)
    )
    x, y = data * draw(n, q), target * draw(n, q)
    start = gradient(net, weights, x, y)
    horizon = 0.02 / (1.0 + float(start.slope_squared)) ** 0.5
    for s in flow(net, weights, x, y, step=horizon / 4, horizon=horizon, method=RK4):
        bound = no_blow_up(net, weights, x, start.loss, s.time)
        norms = (
            s.gradient.states.norm(dim=-1).max(),
            s.gradient.adjoints.norm(dim=-1).mean(-1).max(),
        )
        assert float(norms[0]) <= float(bound.H) * (1 + 1e-9)
        assert float(norms[1]) <= float(bound.P) * (1 + 1e-9)
        assert float(largest_layer(s.weights).log()) <= float(bound.log_layer) + 1e-9
        assert float(layer_rate(net, s.weights, s.gradient)) <= float(bound.rate) * (1 + 1e-9)


@settings(max_examples=100)
@given(
    name=st.sampled_from(["gelu", "tanh", "identity"]),
    depth=st.integers(1, 5),
    m=st.integers(1, 4),
    q=st.integers(1, 3),
    sizes=st.tuples(SIZE, SIZE),
    eta=SIZE,
    seed=st.integers(0, 2**20),
)
def test_one_euler_step_obeys_the_measured_rate(name, depth, m, q, sizes, eta, seed):
    draw = draws(seed)
    net = marion_net(ACTIVATIONS[name])
    V, W = sizes[0] * draw(depth, q, m), sizes[1] * draw(depth, m, q)
    weights = Weights(draw(q, q), V, W, draw(q, q))
    at = gradient(net, weights, draw(5, q), draw(5, q))
    after = largest_layer(weights.plus(at.velocity, eta))
    rate = layer_rate(net, weights, at)
    assert float(after) <= float((1 + eta * rate) * largest_layer(weights)) * (1 + 1e-12)


@settings(max_examples=100)
@given(
    name=st.sampled_from(["gelu", "tanh"]),
    depth=st.integers(1, 5),
    m=st.integers(1, 6),
    q=st.integers(1, 3),
    sizes=st.tuples(SIZE, SIZE, SIZE),
    bias=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_no_line_bends_down_more_than_the_semiconvexity_constant(
    name, depth, m, q, sizes, bias, seed
):
    draw = draws(seed)
    v, w, data = sizes
    net = mean_field_net(ACTIVATIONS[name])
    eye = torch.eye(q, dtype=torch.float64)
    b = draw(depth, m) if bias else None
    weights = Weights(eye, v * draw(depth, q, m), w * draw(depth, m, q), eye, b)
    x, y = data * draw(4, q), data * draw(4, q)
    bound = semiconvexity(net, weights, gradient(net, weights, x, y), y)
    names = [name for name in ("V", "W", "b") if getattr(weights, name) is not None]

    def loss(*values):
        layers = dict(zip(names, values, strict=True))
        return net.loss(Weights(eye, layers["V"], layers["W"], eye, layers.get("b")), x, y)

    point = tuple(getattr(weights, name) for name in names)
    # The most negative direction of the whole Hessian, not a random one.
    blocks = torch.autograd.functional.hessian(loss, point)
    sizes = [value.numel() for value in point]
    rows = [
        torch.cat([blocks[i][j].reshape(sizes[i], sizes[j]) for j in range(len(sizes))], 1)
        for i in range(len(sizes))
    ]
    lowest = torch.linalg.eigvalsh(torch.cat(rows))[0] * depth * m
    assert float(lowest) >= -float(bound) * (1 + 1e-9)


def test_the_bound_of_a_depth_is_that_of_every_depth():
    x, found = draws(1)(6, 3), []
    for depth in (1, 4, 64):
        weights = tied(Sizes(depth, 5, 4, 3, 1), torch.Generator().manual_seed(0))
        found.append(no_blow_up(marion_net(GELU), weights, x, torch.tensor(2.0), 0.1).log_layer)
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-12)
    assert float(found[0]) == pytest.approx(float(found[2]), rel=1e-12)


def test_networks_outside_the_bounds_are_refused_in_one_sentence():
    weights = tied(Sizes(2, 4, 3, 3, 3), torch.Generator().manual_seed(0))
    x = draws(0)(5, 3)
    net = marion_net(TANH, speed={"W": 2.0})
    with pytest.raises(ValueError, match="expected a net without bias"):
        no_blow_up(net, weights, x, torch.tensor(1.0), 1.0)
    with pytest.raises(ValueError, match="expected a net made by mean_field_net"):
        semiconvexity(marion_net(TANH), weights, gradient(net, weights, x, x), x)
    with pytest.raises(ValueError, match="expected a net made by mean_field_net"):
        slow = mean_field_net(TANH, depth_exponent=0.5)
        semiconvexity(slow, weights, gradient(slow, weights, x, x), x)
    with pytest.raises(ValueError, match="expected B = I"):
        mean, turned = mean_field_net(TANH), replace(weights, B=-weights.B)
        semiconvexity(mean, turned, gradient(mean, turned, x, x), x)


def test_a_gradient_without_its_states_is_refused():
    net, g = marion_net(TANH), torch.Generator().manual_seed(0)
    weights = tied(Sizes(4, 3, 2, 2, 2), g)
    x = torch.ones(3, 2, dtype=weights.V.dtype)
    at = gradient(net, weights, x, x, segment=2)
    with pytest.raises(ValueError, match="expected a gradient with its states and adjoints"):
        layer_rate(net, weights, at)
