"""The rate of the depth limit against one exact Euler step of a network and of its limit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotflow.adjoint.gradient import gradient
from cotflow.bounds.depth_rate import depth_growth
from cotflow.limits.collocation import at, limit_flow, points
from cotflow.network.activations import ACTIVATIONS, COS, IDENTITY, RELU, TANH
from cotflow.network.residual import ResidualNet, marion_net, mean_field_net
from cotflow.network.weights import Weights

SIZE = st.sampled_from([0.05, 0.3, 0.7])
SUBSETS = [("A", "V", "W", "B"), ("V", "W"), ("V",), ("W",), ("A", "V"), ("W", "B")]


def off(weights, limit):
    """N = max(max_k ‖Z_k − Z(k/L)‖, |A^L − A|, |B^L − B|)."""
    s = [k / weights.depth for k in range(1, weights.depth + 1)]
    pairs = [(getattr(weights, z), at(getattr(limit, z), s)) for z in "VW"]
    layers = sum((a - b).square().sum((-2, -1)) for a, b in pairs)
    ends = [(getattr(weights, z) - getattr(limit, z)).norm() for z in "AB"]
    return float(max(layers.max().sqrt(), *ends))


def one_step(net, weights, start, x, y, eta):
    """(N after a step, its bound; largest error of a state, its bound)."""
    now, then = limit_flow(net, start, x, y, step=eta, steps=1)
    found = gradient(net, weights, x, y)
    rate, depth = depth_growth(net, x, y, weights, found, now), weights.depth
    before, after = off(weights, start), off(weights.plus(found.velocity, eta), then.weights)
    H = at(now.states, [k / depth for k in range(depth + 1)])
    error = float((found.states - H).norm(dim=-1).max())
    bound = (1 + eta * rate.growth) * before + eta * rate.defect / depth
    return after, float(bound), error, float(rate.gain * before + rate.sampling / depth)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    name=st.sampled_from(["gelu", "tanh", "identity"]),
    width_scaling=st.sampled_from(["sqrt", "mean", "none"]),
    input_scaling=st.sampled_from(["sqrt", "none"]),
    trained=st.sampled_from(SUBSETS),
    loss_factor=st.sampled_from([1.0, 0.25]),
    depth=st.integers(1, 6),
    m=st.integers(1, 3),
    q=st.integers(1, 3),
    n=st.integers(1, 4),
    sizes=st.tuples(SIZE, SIZE, SIZE, SIZE),
    away=st.sampled_from([0.0, 0.01, 0.3]),
    eta=st.sampled_from([0.001, 0.02]),
    seed=st.integers(0, 2**20),
)
def test_one_euler_step_never_exceeds_the_bound(
    name, width_scaling, input_scaling, trained, loss_factor, depth, m, q, n, sizes, away, eta, seed
):
    """From any network, not only from one that starts where the limit does."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    net = ResidualNet(
        ACTIVATIONS[name], width_scaling, input_scaling, loss_factor=loss_factor, trained=trained
    )
    v, w, dv, dw = sizes
    V, V1, W, W1, A, B = (draw(*s) for s in [(q, m)] * 2 + [(m, q)] * 2 + [(q, q)] * 2)

    def weights_at(s):
        s = s.reshape(-1, 1, 1)
        return Weights(A, v * V + dv * (s - s**2) * V1, w * W + dw * s * W1, B)

    start = weights_at(points(16))
    places = torch.arange(1, depth + 1, dtype=torch.float64) / depth
    named = weights_at(places).tensors()
    moved = {name: z + away * (name in trained) * draw(*z.shape) for name, z in named.items()}
    weights = Weights(**moved)
    after, bound, error, state_bound = one_step(net, weights, start, draw(n, q), draw(n, q), eta)
    scale = 1e-6 * (1 + abs(bound))
    assert after <= bound + scale, (after, bound)
    assert error <= state_bound + 1e-6 * (1 + state_bound)


ONE = torch.ones(1, 1, dtype=torch.float64)


def scalar(V, W=1.0, A=1.0, B=1.0, depth=12):
    def fill(z):
        return torch.as_tensor(z, dtype=torch.float64).reshape(-1, 1, 1).expand(depth, 1, 1)

    return Weights(A * ONE, fill(V), fill(W), B * ONE)


def ratio(net, start, weights, x, y, eta=1e-6):
    """How much of its bound the change of N in one small step is."""
    after, bound, *_ = one_step(net, weights, start, x * ONE, y * ONE, eta)
    before = off(weights, start)
    return (after - before) / (bound - before)


TWO = torch.tensor([[1.0], [0.5]], dtype=torch.float64)  # two samples, for the means
FALLING = 0.02 + 0.15 * (1 - points(12))
LINEAR = marion_net(IDENTITY, trained=("V",))
WITNESSES = {
    "step of the state": (LINEAR, scalar(0.05), scalar(0.05, depth=400), 1.0, 50.0, 0.75),
    "slope of the weights": (
        LINEAR, scalar(FALLING),
        scalar(0.02 + 0.15 * (1 - torch.arange(1, 401) / 400), depth=400), 1.0, 50.0, 0.5,
    ),
    "states in the velocity": (LINEAR, scalar(0.0), scalar(0.01, depth=400), 1.0, 500.0, 0.9),
    "the end": (LINEAR, scalar(0.0), scalar(0.01, depth=400), 1.0, 1.0, 0.9),
    "A and B": (
        marion_net(TANH, trained=("A", "B")), scalar(0.0, W=0.0),
        scalar(0.0, W=0.0, A=1.01, B=1.01, depth=400), 1.0, 500.0, 0.9,
    ),
    "B in the velocity of A": (
        marion_net(TANH, trained=("A", "B")), scalar(0.0, W=0.0, A=0.05, B=10.0),
        scalar(0.0, W=0.0, A=0.06, B=10.0099, depth=400), 1.0, -500.0, 0.95,
    ),
    "V in the velocity of A": (
        marion_net(IDENTITY, trained=("A", "V")), scalar(0.0, A=0.001),
        scalar(0.0099, A=0.011, depth=400), 1.0, -1.0, 0.9,
    ),
    "B in its own velocity": (
        marion_net(TANH, trained=("B",)), scalar(0.0, W=0.0),
        scalar(0.0, W=0.0, B=1.01, depth=400), TWO, 5 * TWO, 0.9,
    ),
    "step of the state, seen by A": (
        marion_net(IDENTITY, trained=("A",)), scalar(0.05), scalar(0.05, depth=400), 1.0, 50.0, 0.6,
    ),
    "step of the state, seen by B": (
        marion_net(IDENTITY, trained=("B",)), scalar(0.05), scalar(0.05, depth=400),
        TWO, 50 * TWO, 0.9,
    ),
    "second derivative in W": (
        marion_net(TANH, trained=("W",)), scalar(0.05, W=0.658),
        scalar(0.05, W=0.668, depth=400), 1.0, 500.0, 0.8,
    ),
    "second derivative in the state": (
        marion_net(TANH, trained=("A",)), scalar(0.001, W=100.0, A=0.00658),
        scalar(0.001, W=100.0, A=0.00668, depth=400), 1.0, 500.0, 0.6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITNESSES)
def test_the_bound_is_nearly_reached(name):
    """Were one of the terms that matter there dropped, it would be exceeded."""
    net, start, weights, x, y, least = WITNESSES[name]
    assert least < abs(ratio(net, start, weights, x, y)) <= 1.0 + 1e-6


def test_what_the_theorem_does_not_cover_is_refused_in_one_sentence():
    start, data = scalar(0.5), ONE
    state = next(limit_flow(marion_net(TANH), start, data, data, step=0.1, steps=0))
    fast = marion_net(TANH, speed={"V": 2.0})
    for net in (marion_net(RELU), marion_net(COS), fast, mean_field_net(TANH)):
        with pytest.raises(ValueError, match=r"expected a net with σ\(0\) = 0 and a bounded σ″"):
            depth_growth(net, data, data, start, gradient(net, start, data, data), state)
    net = marion_net(TANH)
    without = gradient(net, start, data, data, segment=4)
    with pytest.raises(ValueError, match="ask for it without segment"):
        depth_growth(net, data, data, start, without, state)
    other = gradient(net, start, data.expand(3, 1), data.expand(3, 1))
    with pytest.raises(ValueError, match=r"states of shape \(\*runs, places, 1, 1\), received"):
        depth_growth(net, data, data, start, other, state)
