"""The neural ODE of given weights, and the deep nets that tend to it."""

import math
import subprocess
import sys

import jaxtyping
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


def still(s, h):
    return torch.zeros_like(h)


@pytest.mark.parametrize(
    "depths",
    [[0, 2], [-0.1, 1], [0, math.nan], [math.inf, 0], [0], [], [0, 0], [0, 1, 0.5], [[0, 1]]],
)
def test_depths_that_are_none_are_refused(monkeypatch, depths):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    s = torch.tensor(depths, dtype=torch.float64)
    for ask in (
        lambda: integrate(still, H0, s),
        lambda: solve(mean_field_net(TANH), lambda s: V0, lambda s: W0, H0, s),
    ):
        with pytest.raises(ValueError, match="two depths between 0 and 1, all increasing or all"):
            ask()


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1e-17, math.nan, math.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"at least 2\.2e-16, the resolution of float64, received"):
        integrate(still, H0, ENDS, tolerance=tolerance)
    with pytest.raises(ValueError, match=r"at least 1\.2e-07, the resolution of float32, received"):
        integrate(still, H0.float(), ENDS, tolerance=1e-9)


def test_without_a_tolerance_it_is_one_that_the_precision_has():
    V, W = lambda s: V0, lambda s: W0
    net = mean_field_net(TANH)
    torch.testing.assert_close(
        solve(net, V, W, H0, ENDS), solve(net, V, W, H0, ENDS, tolerance=1e-9), rtol=0, atol=0
    )
    single = solve(net, lambda s: V0.float(), lambda s: W0.float(), H0.float(), ENDS)
    torch.testing.assert_close(single.double(), solve(net, V, W, H0, ENDS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_states_that_are_no_numbers_are_refused(monkeypatch, bad):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    broken = H0.clone()
    broken[1, 1] = bad
    for state in (broken, H0[:0], H0.to(torch.complex128), H0.long()):
        with pytest.raises(ValueError, match="neural ODE: expected a state of finite real numbers"):
            integrate(still, state, ENDS)


@pytest.mark.parametrize(
    "f", [lambda s, h: h**3, lambda s, h: h * math.nan, lambda s, h: 1e300 * h + h.exp()]
)
def test_a_solution_that_blows_up_is_an_error(f):
    with pytest.raises(RuntimeError, match="neural ODE: expected a finite solution"):
        integrate(f, 5.0 + H0.abs(), ENDS, tolerance=1e-6)


def test_backwards_it_comes_back_to_the_start():
    V, W = lipschitz_weights()
    net = mean_field_net(TANH)
    end = solve(net, V, W, H0, ENDS)[-1]
    back = solve(net, V, W, end, ENDS.flip(0))
    assert back.shape == (3, n, q)
    torch.testing.assert_close(
        integrate(lambda s, h: -h, end, ENDS.flip(0)).states[-1], end * math.e
    )


def test_jumps_outside_are_refused():
    with pytest.raises(ValueError, match=r"jumps between 0 and 1, received \[0\.5, 1\.5\]"):
        integrate(still, H0, ENDS, jumps=[0.5, 1.5])


@pytest.mark.slow
def test_a_solution_that_ends_is_told_of_without_assertions_too(tmp_path):
    """``python -O`` takes torchdiffeq's own checks away: its steps would shrink for ever."""
    script = tmp_path / "ends.py"
    script.write_text(
        "import torch\n"
        "from cotflow import neural_ode\n"
        "s = torch.tensor([0.0, 1.0], dtype=torch.float64)\n"
        "for f in (lambda s, h: h * h, lambda s, h: torch.sqrt(-h), lambda s, h: h / (0.5 - s)):\n"
        "    try:\n"
        "        neural_ode.integrate(f, 3.0 * torch.ones(2, dtype=torch.float64), s)\n"
        "    except RuntimeError as told:\n"
        "        print(told)\n"
    )
    for option in ("-O", "-X utf8"):
        done = subprocess.run(
            [sys.executable, *option.split(), script], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 3
        assert all("neural ODE: expected a finite solution" in line for line in lines)
