"""The gradient field at any ω: against the velocity of particles, autograd and continuous depth."""

import math
from dataclasses import replace

import pytest
import torch

from cotflow.adjoint.gradient import gradient
from cotflow.limits.risk_field import continuous_sweep, landscape, risk_gradient
from cotflow.measure.rates import loglog_slope
from cotflow.network.activations import ACTIVATIONS, GELU, IDENTITY, TANH
from cotflow.network.residual import marion_net, mean_field_net
from cotflow.network.weights import Weights
from cotflow.transport.exact import particles

q, m, n = 3, 5, 4


def draw(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return 0.7 * torch.randn(*shape, generator=g, dtype=torch.float64)


def problem(runs=(), depth=4, bias=True):
    weights = Weights(
        A=draw(*runs, q, 2, seed=1),
        V=draw(*runs, depth, q, m, seed=2),
        W=draw(*runs, depth, m, q, seed=3),
        B=draw(*runs, 2, q, seed=4),
        b=draw(*runs, depth, m, seed=5) if bias else None,
    )
    return weights, draw(*runs, n, 2, seed=6), draw(*runs, n, 2, seed=7)


NETS = [
    pytest.param(make(ACTIVATIONS[name], **options), id=f"{make.__name__}-{name}")
    for name in sorted(ACTIVATIONS)
    for make, options in (
        (mean_field_net, {}),
        (marion_net, {"metric": "particle", "trained": ("V", "W", "b")}),
    )
]


@pytest.mark.parametrize("runs", [(), (2,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_field_at_the_particles_is_minus_their_velocity(net, bias, runs):
    weights, x, y = problem(runs, bias=bias)
    found = gradient(net, weights, x, y)
    h, p = found.states[..., :-1, :, :], found.adjoints[..., 1:, :, :]
    at = risk_gradient(net, particles(weights), h, p, width=m)
    velocity = particles(replace(weights, **found.velocity))
    torch.testing.assert_close(at, -velocity, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(at.square().sum(-1).mean((-2, -1)), found.slope_squared)


@pytest.mark.parametrize("net", NETS)
def test_field_is_the_gradient_of_the_landscape(net):
    omega = draw(6, 2 * q + 1, seed=8).requires_grad_()
    h, p = draw(n, q, seed=9), draw(n, q, seed=10)
    height = landscape(net, omega, h, p, width=m)
    (expected,) = torch.autograd.grad(height.sum(), omega)
    with torch.no_grad():
        torch.testing.assert_close(
            risk_gradient(net, omega, h, p, width=m), expected, rtol=1e-12, atol=1e-14
        )


def test_landscape_is_the_derivative_of_the_risk_by_mass():
    """ε ↦ ℓ(one more atom of mass ε at ω in layer k): the slope at 0 is V(ω)/L."""
    net, depth, eps = mean_field_net(TANH), 4, 1e-6
    weights, x, y = problem(depth=depth)
    found = gradient(net, weights, x, y)
    omega = draw(1, 2 * q + 1, seed=8)
    k = 1
    rise = landscape(net, omega, found.states[k], found.adjoints[k + 1], width=m) / depth

    def loss(mass):
        V, W, b = (torch.cat([v, 0 * v[:, :1]], 1) for v in (weights.V.mT, weights.W, weights.b))
        V[k, m] = mass * (m + 1) * omega[0, :q]
        W[k, m], b[k, m] = omega[0, q : 2 * q], omega[0, 2 * q]
        V[:, :m] *= (m + 1) / m  # m + 1 slots of mass 1/(m + 1) carry the m old atoms of mass 1/m
        return net.loss(replace(weights, V=V.mT, W=W, b=b), x, y)

    assert float((loss(eps) - loss(-eps)) / (2 * eps)) == pytest.approx(float(rise), rel=1e-7)


def test_points_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="dimension 6 or 7, received 5"):
        risk_gradient(mean_field_net(TANH), draw(2, 5), draw(n, q), draw(n, q), width=m)


OMEGA = [draw(m, 2 * q + 1, seed=20 + i) for i in range(2)]


def omega_at(s):
    return math.cos(2 * s) * OMEGA[0] + math.sin(3 * s) * OMEGA[1]


def layered(depth):
    eye = torch.eye(q, dtype=torch.float64)
    points = torch.stack([omega_at(k / depth) for k in range(1, depth + 1)])
    return Weights(eye, points[..., :q].mT, points[..., q : 2 * q], eye, points[..., 2 * q])


X, Y = draw(n, q, seed=30), draw(n, q, seed=31)


@pytest.mark.parametrize("net", [mean_field_net(TANH), marion_net(GELU)], ids=["mean", "sqrt"])
def test_layered_states_adjoints_and_loss_tend_to_those_of_continuous_depth(net):
    nodes = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    limit = continuous_sweep(net, omega_at, X, Y, nodes)
    errors, depths = [], [32, 64, 128]
    for depth in depths:
        found = gradient(net, layered(depth), X, Y)
        at = [0, depth // 2, depth]
        errors.append(
            [
                float((found.states[at] - limit.states).abs().max()),
                float((found.adjoints[at] - limit.adjoints).abs().max()),
                float((found.loss - limit.loss).abs()),
            ]
        )
    for row in map(list, zip(*errors, strict=True)):
        assert loglog_slope(depths, row).slope == pytest.approx(-1, abs=0.1)


def test_linear_residual_has_matrix_exponentials():
    """x(s) = exp(sG) x and p(s) = exp((1−s)G)ᵀ p(1) with G = (1/m) Σ_j u_j w_jᵀ."""
    net, omega = mean_field_net(IDENTITY), draw(m, 2 * q, seed=40)
    G = omega[:, :q].mT @ omega[:, q:] / m
    nodes = torch.tensor([0.25, 0.75], dtype=torch.float64)
    found = continuous_sweep(net, lambda s: omega, X, Y, nodes)
    last = X @ torch.matrix_exp(G).mT - Y
    for i, s in enumerate(nodes):
        close = {"rtol": 1e-8, "atol": 1e-9}
        torch.testing.assert_close(found.states[i], X @ torch.matrix_exp(s * G).mT, **close)
        torch.testing.assert_close(found.adjoints[i], last @ torch.matrix_exp((1 - s) * G), **close)


@pytest.mark.parametrize("nodes", [[0.0, 1.0], [1.0], [0.5]])
def test_depths_asked_for_are_the_depths_returned(nodes):
    net = mean_field_net(TANH)
    both = continuous_sweep(net, omega_at, X, Y, torch.tensor([0.0, 0.5, 1.0]))
    some = continuous_sweep(net, omega_at, X, Y, torch.tensor(nodes))
    index = [int(2 * s) for s in nodes]
    assert some.states.shape == (len(nodes), n, q)
    torch.testing.assert_close(some.adjoints, both.adjoints[index], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(some.states, both.states[index], rtol=1e-7, atol=1e-9)


def test_runs_advance_together():
    net = mean_field_net(TANH)
    nodes = torch.tensor([0.0, 1.0])

    def two(s):
        return torch.stack([omega_at(s), 0.5 * omega_at(s)])

    together = continuous_sweep(net, two, X, Y, nodes)
    assert together.states.shape == (2, 2, n, q)
    for r in range(2):
        alone = continuous_sweep(net, lambda s, r=r: two(s)[r], X, Y, nodes)
        torch.testing.assert_close(together.adjoints[:, r], alone.adjoints, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(together.loss[r], alone.loss, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("nodes", [[0.5, 0.2], [-0.1, 0.5], [0.5, 1.2]])
def test_depths_out_of_order_or_range_are_refused(nodes):
    with pytest.raises(ValueError, match="expected 0 ≤ s_1"):
        continuous_sweep(mean_field_net(TANH), omega_at, X, Y, torch.tensor(nodes))


def test_other_depth_scalings_have_no_continuous_limit_here():
    net = mean_field_net(TANH, depth_exponent=0.5)
    with pytest.raises(ValueError, match=r"expected depth_exponent 1, received 0\.5"):
        continuous_sweep(net, omega_at, X, Y, torch.tensor([0.0, 1.0]))
