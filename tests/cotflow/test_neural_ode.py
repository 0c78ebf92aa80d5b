"""The neural ODE of given weights, and the deep nets that tend to it."""

import math

import pytest
import torch

from cotflow.limits.neural_ode import integrate, sample_layers, solve, weight_functions
from cotflow.measure.rates import loglog_slope
from cotflow.network.activations import GELU, IDENTITY, TANH
from cotflow.network.residual import ResidualNet, marion_net, mean_field_net
from cotflow.network.weights import Weights

q, m, n = 3, 5, 4
ENDS = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)


def draw(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


V0, W0, H0 = draw(q, m, seed=1), draw(m, q, seed=2), draw(n, q, seed=3)


def lipschitz_weights():
    """V and W as smooth functions of s."""
    V1, W1 = draw(q, m, seed=4), draw(m, q, seed=5)
    return (
        lambda s: math.cos(2 * s) * V0 + math.sin(3 * s) * V1,
        lambda s: math.cos(s) * W0 + s**2 * W1,
    )


def layered_output(net, depth, V, W):
    Vs, Ws = sample_layers(depth, V, W)
    eye = torch.eye(q, dtype=torch.float64)
    return net(Weights(eye, Vs, Ws, eye), H0)


@pytest.mark.parametrize(
    "net, factor",
    [
        (marion_net(IDENTITY), (m * q) ** -0.5),
        (mean_field_net(IDENTITY), 1 / m),
        (ResidualNet(IDENTITY, width_scaling="none", input_scaling="none"), 1.0),
    ],
)
def test_constant_linear_weights_give_the_matrix_exponential(net, factor):
    """H(s) = exp(s c_m c_q V W) H(0)."""
    H = solve(net, lambda s: V0, lambda s: W0, H0, ENDS)
    for s, state in zip(ENDS, H, strict=True):
        exact = H0 @ torch.matrix_exp(s * factor * V0 @ W0).mT
        torch.testing.assert_close(state, exact, rtol=1e-7, atol=1e-7)


def test_tolerance_controls_the_error():
    net = mean_field_net(IDENTITY)
    exact = H0 @ torch.matrix_exp(V0 @ W0 / m).mT
    errors = [
        float((solve(net, lambda s: V0, lambda s: W0, H0, ENDS, tolerance=t)[-1] - exact).norm())
        for t in (1e-4, 1e-7, 1e-10)
    ]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_deep_linear_nets_converge_to_the_exponential_at_order_one():
    net = marion_net(IDENTITY)
    exact = H0 @ torch.matrix_exp(V0 @ W0 / math.sqrt(m * q)).mT
    depths = [32, 64, 128, 256]
    errors = [
        float((layered_output(net, depth, lambda s: V0, lambda s: W0) - exact).norm())
        for depth in depths
    ]
    assert loglog_slope(depths, errors).slope == pytest.approx(-1, abs=0.05)


@pytest.mark.parametrize("net", [marion_net(GELU), mean_field_net(TANH)])
def test_nets_with_sampled_weights_converge_at_order_one(net):
    """[M] Prop. 2: weights sampled at k/L from Lipschitz functions leave an error ≤ C/L."""
    V, W = lipschitz_weights()
    limit = solve(net, V, W, H0, ENDS)[-1]
    depths = [32, 64, 128, 256]
    errors = [float((layered_output(net, depth, V, W) - limit).norm()) for depth in depths]
    assert loglog_slope(depths, errors).slope == pytest.approx(-1, abs=0.05)
    assert errors[-1] < 0.05


def test_sample_layers_evaluates_at_k_over_depth():
    seen = []

    def at(s):
        seen.append(s)
        return torch.full((2, 2), s, dtype=torch.float64)

    V, W = sample_layers(4, at, lambda s: torch.full((3, 3, 3), 2 * s, dtype=torch.float64))
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert V.shape == (4, 2, 2) and V[:, 0, 0].tolist() == seen
    assert W.shape == (3, 4, 3, 3) and W[1, :, 0, 0].tolist() == [0.5, 1.0, 1.5, 2.0]


def test_weight_functions_are_piecewise_linear_between_layers():
    eye = torch.eye(q, dtype=torch.float64)
    weights = Weights(eye, draw(4, q, m, seed=6), draw(4, m, q, seed=7), eye)
    V, W = weight_functions(weights)
    for k in range(4):
        torch.testing.assert_close(V(k / 3), weights.V[k])
        torch.testing.assert_close(W(k / 3), weights.W[k])
    torch.testing.assert_close(V(0.5), (weights.V[1] + weights.V[2]) / 2)


def test_runs_are_solved_together():
    V, W = draw(2, q, m, seed=8), draw(2, m, q, seed=9)
    net = mean_field_net(TANH)
    together = solve(net, lambda s: V, lambda s: W, H0.expand(2, n, q), ENDS)
    assert together.shape == (3, 2, n, q)
    for r in range(2):
        alone = solve(net, lambda s, r=r: V[r], lambda s, r=r: W[r], H0, ENDS)
        torch.testing.assert_close(together[:, r], alone, rtol=1e-7, atol=1e-7)


def test_other_depth_exponents_have_no_such_limit():
    net = ResidualNet(TANH, depth_exponent=0.5)
    with pytest.raises(ValueError, match=r"expected depth_exponent 1, received 0\.5"):
        solve(net, lambda s: V0, lambda s: W0, H0, ENDS)


def test_integrate_stops_at_jumps_and_counts_evaluations():
    """x′ = 1 before s = ½ and −3 after it: exact only if no step crosses the jump."""
    start = torch.zeros(1, dtype=torch.float64)

    def f(s, x):
        assert 0.0 <= s <= 1.0
        return torch.ones_like(x) if s < 0.5 else -3 * torch.ones_like(x)

    aware = integrate(f, start, ENDS, tolerance=1e-6, jumps=[0.5])
    blind = integrate(f, start, ENDS, tolerance=1e-6)
    assert aware.states.shape == (3, 1)
    assert float(aware.states[-1]) == pytest.approx(-1.0, abs=1e-10)
    assert 12 < aware.evaluations < blind.evaluations


def test_integrate_costs_more_at_smaller_tolerances():
    counts = [
        integrate(lambda s, h: torch.cos(9 * s * h), H0, ENDS, tolerance=t).evaluations
        for t in (1e-3, 1e-6, 1e-9)
    ]
    assert counts[0] < counts[1] < counts[2]
