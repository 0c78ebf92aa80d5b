"""The limit of training by collocation in depth, against networks, exact solutions and itself."""

import math

import pytest
import torch

from cotflow.flows.flow import flow
from cotflow.limits import neural_ode
from cotflow.limits.collocation import at, limit_flow, points, slope
from cotflow.measure.rates import loglog_slope
from cotflow.network.activations import GELU, IDENTITY, TANH
from cotflow.network.residual import ResidualNet, marion_net, mean_field_net
from cotflow.network.weights import Weights

q, m, d, n = 3, 4, 2, 5


def draw(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


x, y = draw(n, d, seed=1), draw(n, d, seed=2)


def start_at(s):
    """Weights that are smooth in s, at the given places."""
    s = s.reshape(-1, 1, 1)
    V = 0.4 * ((2 * s).cos() * draw(q, m, seed=3) + (3 * s).sin() * draw(q, m, seed=4))
    W = s.cos() * draw(m, q, seed=5) + s**2 * draw(m, q, seed=6)
    return Weights(draw(q, d, seed=7), V, W, draw(d, q, seed=8))


def layers(depth):
    return start_at(torch.arange(1, depth + 1, dtype=torch.float64) / depth)


def off(weights, limit):
    s = [k / weights.depth for k in range(1, weights.depth + 1)]
    there = {"V": at(limit.V, s), "W": at(limit.W, s), "A": limit.A, "B": limit.B}
    return max(float((value - getattr(weights, name)).abs().max()) for name, value in there.items())


def soft(velocity):
    """π(G) = G/(1 + ‖G‖²)^½, a smooth clip: bounded by 1 and 1-Lipschitz."""
    return {
        name: g / (1 + g.square().sum((-2, -1), keepdim=True)).sqrt()
        for name, g in velocity.items()
    }


NETS = {
    "everything": (marion_net(GELU), None),
    "published": (ResidualNet(TANH, "none", "none", loss_factor=0.5, trained=("V", "W")), None),
    "clipped": (marion_net(GELU), soft),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_networks_are_at_order_one_from_the_limit_and_at_order_two_from_the_shifted_one(name):
    """N ≤ C/L, and C/L² with shift 1/L: the layer's index, the pairing of states and adjoints and
    the factors of the velocity are right, or the second order would be lost."""
    net, clip = NETS[name]
    depths, orders = [32, 64, 128], {"limit": [], "shifted": []}
    options = {"step": 0.02, "steps": 8, "clip": clip}
    for depth in depths:
        *_, end = flow(net, layers(depth), x, y, step=0.02, horizon=0.16, clip=clip)
        for kind, shift in (("limit", 0.0), ("shifted", 1.0 / depth)):
            *_, state = limit_flow(net, start_at(points(24)), x, y, shift=shift, **options)
            orders[kind].append(off(end.weights, state.weights))
    assert loglog_slope(depths, orders["limit"]).slope == pytest.approx(-1.0, abs=0.1)
    assert loglog_slope(depths, orders["shifted"]).slope == pytest.approx(-2.0, abs=0.1)


def test_states_and_adjoints_solve_their_equations():
    """H against an adaptive solver, and ⟨P, δH⟩ is constant in s along the linearized equation."""
    net, start = marion_net(GELU), start_at(points(20))
    state = next(limit_flow(net, start, x, y, step=0.1, steps=0))
    V, W = (lambda s, z=z: at(z, [s])[0] for z in (start.V, start.W))
    s = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    H0 = torch.matmul(x, start.A.mT)
    H = neural_ode.solve(net, V, W, H0, s)
    assert float((at(state.states, s.tolist()) - H).abs().max()) < 1e-6
    nearby = neural_ode.solve(net, V, W, H0 + 1e-5 * draw(n, q, seed=9), s, tolerance=1e-12)
    exact = neural_ode.solve(net, V, W, H0, s, tolerance=1e-12)
    paired = (at(state.adjoints, s.tolist()) * (nearby - exact)).sum((-2, -1))
    assert float((paired / paired[-1] - 1).abs().max()) < 1e-3


def test_the_scalar_linear_limit_is_exact():
    """f = zh with z constant: H = xe^{zs}, P = 2(xe^z − y)e^{z(1−s)}, ∂_tz = −HP."""
    one = torch.ones(1, 1, dtype=torch.float64)
    z, target, s = 0.3, 2.0, points(12)
    start = Weights(one, torch.full((12, 1, 1), z, dtype=torch.float64), one.expand(12, 1, 1), one)
    net = marion_net(IDENTITY, trained=("V",))
    first, second = limit_flow(net, start, one, target * one, step=0.01, steps=1)
    push = 2 * (math.exp(z) - target)
    assert torch.allclose(first.states.flatten(), (z * s).exp(), rtol=1e-12)
    assert torch.allclose(first.adjoints.flatten(), push * (z * (1 - s)).exp(), rtol=1e-12)
    assert torch.allclose(
        second.weights.V, start.V - 0.01 * push * math.exp(z), rtol=1e-13, atol=0.0
    )
    assert float(first.lipschitz()) < 1e-11


def test_runs_advance_together_and_alone_to_the_same_numbers():
    net, start = marion_net(TANH), start_at(points(10))
    both = start.map(lambda a, b: torch.stack([a, b]), start.map(lambda z: 0.5 * z))
    *_, together = limit_flow(net, both, x, y, step=0.05, steps=3, shift=0.1)
    *_, alone = limit_flow(net, both.run(1), x, y, step=0.05, steps=3, shift=0.1)
    for name, value in alone.weights.tensors().items():
        assert torch.allclose(together.weights.tensors()[name][1], value, rtol=1e-10)
    assert together.lipschitz().shape == (2,)


def test_polynomials_are_met_exactly():
    s = points(7)
    values = (1 + 2 * s - s**6).reshape(-1, 1, 1)
    exact = torch.tensor([1.0, 1.74 - 0.37**6, 2.0], dtype=torch.float64)
    assert torch.allclose(at(values, [0.0, 0.37, 1.0]).flatten(), exact, rtol=1e-13)
    assert torch.allclose(slope(values).flatten(), 2 - 6 * s**5, atol=1e-11)


def test_what_has_no_such_limit_is_refused_in_one_sentence():
    start = start_at(points(5))
    for net in (mean_field_net(TANH), marion_net(TANH, depth_exponent=0.5)):
        with pytest.raises(ValueError, match="expected a net without bias, of depth exponent 1"):
            limit_flow(net, start, x, y, step=0.1, steps=1)
    net = marion_net(TANH)
    with pytest.raises(ValueError, match="expected at least 2 points, received 1"):
        limit_flow(net, layers(1), x, y, step=0.1, steps=1)
    with pytest.raises(ValueError, match="expected a finite step > 0, received 0"):
        limit_flow(net, start, x, y, step=0.0, steps=1)
    with pytest.raises(ValueError, match=r"expected s between 0 and 1, received \[1\.5\]"):
        at(start.V, [1.5])
    net, large = marion_net(IDENTITY), start.map(lambda z: 100.0 * z)
    with pytest.raises(RuntimeError, match="the weights are too large"):
        next(limit_flow(net, large, x, y, step=0.1, steps=1))
