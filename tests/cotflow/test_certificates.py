"""Certificates: bounds against high precision, against a search for counterexamples, and runs."""

import math
import warnings
from dataclasses import fields, replace

import jaxtyping
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import binom, chi2

from adversary import least_ratio, worst_in_ball
from cotflow import certificates
from cotflow.adjoint import compiled
from cotflow.adjoint.gradient import gradient
from cotflow.certificates import (
    IndependentBall,
    InitialBall,
    chernoff_probability,
    descent_budget,
    features_needed,
    gaussian_cos,
    independent_ball,
    independent_certificate,
    initial_ball,
    initial_certificate,
    kernel_gaussian_cos,
    layer_kernels,
    layer_stretch,
    least_eigenvalue,
    least_feature_eigenvalue,
    pl_bound,
    pl_bound_independent,
    prior_certificate,
    running_ball,
    running_certificate,
)
from cotflow.certificates.certificate import last_positive
from cotflow.certificates.eigenvalues import eigenvalue_bounds, operator_norm
from cotflow.certificates.features import forward
from cotflow.certificates.norms import risk_bound
from cotflow.flows.flow import flow
from cotflow.flows.runge_kutta import EULER, RK4
from cotflow.network.activations import COS, GELU, IDENTITY, RELU, TANH, Activation, activation
from cotflow.network.initial import Sizes, independent, tied
from cotflow.network.residual import mean_field_net
from cotflow.network.weights import Weights, stack
from cotflow.transport.exact import labelled_distance, particles

# Piecewise linear, so that features fall exactly as fast as the bounds on a ball allow.
HARD_TANH = Activation(
    "hard tanh", lambda z: z.clamp(-1, 1), lambda z: (z.abs() <= 1).to(z.dtype), 1.0, math.inf, 1.0
)
DOUBLE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(g, *shape):
    return torch.randn(*shape, generator=g, dtype=DOUBLE)


def random_net(seed, depth, q=2, m=3, n=3, d=2, out=2, size=0.5, runs=()):
    """Weights with V ≠ 0, and data."""
    g = generator(seed)
    weights = Weights(
        A=normal(g, *runs, q, d), V=size * normal(g, *runs, depth, q, m),
        W=normal(g, *runs, depth, m, q), B=normal(g, *runs, out, q), b=normal(g, *runs, depth, m),
    )  # fmt: skip
    return weights, normal(g, n, d), normal(g, n, out)


def spread(n, q, width, seed=0, depth=4, tau=1.0, gain=1.0, out=None):
    """V = 0, tied cosine features, data far enough apart for a kernel well above 0."""
    g = generator(seed)
    out = q if out is None else out
    sizes = Sizes(depth, width, q, q, out)
    x = 2.5 * torch.arange(n, dtype=DOUBLE)[:, None] + 0.3 * normal(g, n, q)
    return gaussian_cos(tied(sizes, g), g, tau=tau, output_gain=gain), x


# ------------------------------------------------------------------------------ eigenvalues


def exact_gram(factor):
    phi = mpmath.matrix(factor.tolist())
    return phi * phi.T / factor.shape[-1]


def eigenvalues(matrix):
    with mpmath.workdps(60):
        return mpmath.eigsy(matrix, eigvals_only=True)


@settings(max_examples=20)
@given(
    n=st.integers(1, 6),
    m=st.integers(1, 9),
    smallest=st.integers(-14, 0),
    scale=st.integers(-6, 6),
    seed=st.integers(0, 2**20),
)
def test_least_eigenvalue_is_below_the_exact_one_and_near_it(n, m, smallest, scale, seed):
    g = generator(seed)
    left, _ = torch.linalg.qr(normal(g, n, n))
    right, _ = torch.linalg.qr(normal(g, max(m, n), n))
    values = torch.logspace(0, smallest, n, dtype=DOUBLE) if n > 1 else torch.ones(1, dtype=DOUBLE)
    factor = 10.0**scale * (left * values) @ right.mT
    factor = factor[:, :m] if m < n else factor
    with mpmath.workdps(60):
        exact = eigenvalues(exact_gram(factor))
        low, high = exact[0], exact[len(exact) - 1]
        found = float(least_feature_eigenvalue(factor))
        assert 0.0 <= found <= max(low, 0)
        if m >= n:
            # σ is known to about 1e-14 of the largest, so its square to the geometric mean.
            missing = 4e-14 * mpmath.sqrt(high) * n
            assert mpmath.sqrt(found) >= mpmath.sqrt(max(low, 0)) * (1 - 1e-12) - missing
        gram = factor @ factor.mT / factor.shape[-1]
        gram = (gram + gram.mT) / 2
        stored = eigenvalues(mpmath.matrix(gram.tolist()))
        found = float(least_eigenvalue(gram))
        assert 0.0 <= found <= max(stored[0], 0)
        assert found >= stored[0] - 1e-13 * n * high
        low_bound, high_bound = map(float, eigenvalue_bounds(gram))
        assert low_bound <= stored[0] and stored[len(stored) - 1] <= high_bound
        assert high_bound <= stored[len(stored) - 1] * (1 + 1e-12)
        assert float(operator_norm(factor)) ** 2 / factor.shape[-1] >= high


def test_the_factor_resolves_eigenvalues_that_the_product_hides():
    factor = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-10]], dtype=DOUBLE)
    assert float(least_eigenvalue(factor @ factor.mT / 2)) == 0.0
    with mpmath.workdps(60):
        low = eigenvalues(exact_gram(factor))[0]
        assert 0.99 * low < float(least_feature_eigenvalue(factor)) <= low


def test_an_error_of_the_features_lowers_the_bound():
    factor = torch.eye(3, dtype=DOUBLE)
    assert float(least_feature_eigenvalue(factor, 0.5)) == pytest.approx(0.25 / 3, rel=1e-12)
    assert float(least_feature_eigenvalue(factor, 1.5)) == 0.0


def test_matrices_that_are_no_gram_matrices_are_refused():
    with pytest.raises(ValueError, match="expected a symmetric matrix"):
        least_eigenvalue(torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=DOUBLE))
    with pytest.raises(ValueError, match="expected a positive semidefinite matrix"):
        least_eigenvalue(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=DOUBLE))
    with pytest.raises(ValueError, match="expected finite numbers"):
        least_eigenvalue(torch.tensor([[math.nan]], dtype=DOUBLE))


# ---------------------------------------------------------------------------------- kernels


@settings(max_examples=6)
@given(
    sigma=st.sampled_from([COS, TANH]),
    size=st.sampled_from([0.3, 3.0]),
    inner=st.sampled_from([1.0, 50.0]),
    seed=st.integers(0, 2**20),
)
def test_rounding_of_a_forward_pass_is_bounded(sigma, size, inner, seed):
    weights, x, y = random_net(seed, 3, size=size)
    weights = replace(weights, W=inner * weights.W)
    passed = forward(mean_field_net(sigma), weights, x)
    small = 1e-12 if inner == 1.0 and size < 1.0 else 1e-6
    function = {"cos": mpmath.cos, "tanh": mpmath.tanh}[sigma.name]
    with mpmath.workdps(50):
        A, B = (mpmath.matrix(value.tolist()) for value in (weights.A, weights.B))
        risk = mpmath.mpf(0)
        features = [[] for _ in range(3)]
        for i in range(len(x)):
            h = A * mpmath.matrix(x[i].tolist())
            for k in range(3):
                V, W, b = (mpmath.matrix(v[k].tolist()) for v in (weights.V, weights.W, weights.b))
                gap = mpmath.norm(h - mpmath.matrix(passed.states[k, i].tolist()))
                assert gap <= float(passed.state_error[k, i]) < small
                phi = (W * h + b).apply(function)
                features[k].append(phi)
                h = h + V * phi / (3 * weights.width)
            risk += mpmath.norm(B * h - mpmath.matrix(y[i].tolist())) ** 2 / (2 * len(x))
        assert risk <= risk_bound(weights, passed, y) <= risk * (1 + 1e-6)
        found = passed.least_eigenvalues()
        for k in range(3):
            gap = mpmath.sqrt(
                sum(
                    mpmath.norm(phi - mpmath.matrix(passed.features[k, i].tolist())) ** 2
                    for i, phi in enumerate(features[k])
                )
            )
            assert gap <= float(passed.feature_error[k]) < small
            phi = mpmath.matrix(weights.width, len(x))
            for i, column in enumerate(features[k]):
                phi[:, i] = column
            assert float(found[k]) <= max(eigenvalues(phi.T * phi / weights.width)[0], 0)


def test_layer_kernels_are_gram_matrices_at_the_state_before_the_layer():
    weights, x, _ = random_net(1, 4, runs=(2,))
    net = mean_field_net(TANH)
    kernels, states = layer_kernels(net, weights, x), net.hidden_states(weights, x)
    assert kernels.shape == (2, 4, 3, 3)
    for k in range(4):
        z = states[:, k] @ weights.W[:, k].mT + weights.b[:, k, None]
        expected = torch.einsum("rna,rpa->rnp", z.tanh(), z.tanh()) / weights.width
        torch.testing.assert_close(kernels[:, k], expected, rtol=1e-12, atol=1e-14)


def test_lipschitz_bound_of_a_layer():
    weights, _, _ = random_net(3, 2)
    bound = layer_stretch(weights)
    by_hand = sum(
        float(weights.V[1, :, j].norm() * weights.W[1, j].norm()) for j in range(weights.width)
    )
    assert float(bound[1]) == pytest.approx(by_hand / weights.width, rel=1e-12)
    h = normal(generator(4), 500, 2)
    slopes = TANH.derivative(h @ weights.W[1].mT + weights.b[1])
    jacobians = torch.einsum("am,nm,mc->nac", weights.V[1], slopes, weights.W[1]) / weights.width
    assert float(torch.linalg.matrix_norm(jacobians, ord=2).max()) <= float(bound[1])


def test_cosine_features_reach_their_limit_kernel():
    weights, x = spread(3, 2, 200_000, depth=1, tau=0.4)
    error = (layer_kernels(mean_field_net(COS), weights, x)[0] - kernel_gaussian_cos(x, 0.4)).abs()
    assert float(error.max()) < 5 / math.sqrt(200_000)


def test_cosine_features_tied_or_one_draw_a_layer():
    like = tied(Sizes(3, 4, 2, 2, 1), generator())
    shared = gaussian_cos(like, generator(), output_gain=5.0)
    assert torch.equal(shared.W[0], shared.W[2]) and torch.equal(shared.b[0], shared.b[2])
    assert torch.equal(shared.B, 5.0 * like.B)
    drawn = gaussian_cos(like, generator(), layers="independent")
    assert not torch.equal(drawn.W[0], drawn.W[2])
    assert float(drawn.b.min()) >= 0 and float(drawn.b.max()) <= 2 * math.pi
    with pytest.raises(ValueError, match="expected tied or independent"):
        gaussian_cos(like, generator(), layers="both")


def test_cosine_runs_on_the_plain_step_in_silence():
    assert activation("cos") is COS
    weights, x, y = random_net(5, 8, q=16, m=64, n=40, d=16, out=16)
    net = mean_field_net(COS)
    assert not compiled.supports(net, weights, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gradient(net, weights, x, y)
    plain = gradient(net, weights, x, y, backend="plain")
    assert all(torch.equal(found.velocity[k], plain.velocity[k]) for k in plain.velocity)
    with pytest.raises(ValueError, match=r"activations gelu, tanh, relu, identity, .* with cos"):
        gradient(net, weights, x, y, backend="compiled")


# ------------------------------------------------------------------- the slope at one network


@settings(max_examples=60)
@given(
    sigma=st.sampled_from([COS, TANH, HARD_TANH, RELU, IDENTITY]),
    depth=st.sampled_from([1, 2, 5]),
    n=st.integers(1, 3),
    m=st.integers(1, 5),
    q=st.integers(1, 3),
    size=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]),
    trained=st.sampled_from([("V",), ("V", "W"), ("V", "W", "b")]),
    bias=st.booleans(),
    runs=st.sampled_from([(), (2,)]),
    seed=st.integers(0, 2**20),
)
def test_slope_is_never_below_the_pl_bounds(sigma, depth, n, m, q, size, trained, bias, runs, seed):
    weights, x, y = random_net(seed, depth, q, m, n, q, q, size, runs)
    weights = weights if bias else replace(weights, b=None)
    net = mean_field_net(sigma, trained=trained)
    at = gradient(net, weights, x, y)
    for bound in (pl_bound, pl_bound_independent):
        c = bound(net, weights, x)
        assert c.shape == runs and bool((c >= 0).all())
        assert bool((at.slope_squared * (1 + 1e-9) >= c * at.loss).all())


@pytest.mark.parametrize("sigma", [COS, TANH])
def test_pl_bound_is_attained_at_one_layer_where_only_the_outer_weights_move(sigma):
    weights, x, _ = random_net(7, 1, q=2, m=4, n=3)
    weights = replace(weights, B=torch.eye(2, dtype=DOUBLE))
    net = mean_field_net(sigma, trained=("V",))
    direction = torch.linalg.eigh(layer_kernels(net, weights, x)[0]).eigenvectors[:, :1]
    y = net(weights, x) - direction * torch.tensor([[1.0, -2.0]], dtype=DOUBLE)
    at = gradient(net, weights, x, y)
    c = float(pl_bound(net, weights, x))
    assert float(at.slope_squared / at.loss) == pytest.approx(c, rel=1e-9)


@settings(max_examples=40)
@given(depth=st.sampled_from([1, 2, 5]), seed=st.integers(0, 2**20), size=st.floats(0, 2))
def test_pl_bounds_hold_for_the_worst_target(depth, seed, size):
    weights, x, _ = random_net(seed, depth, size=size)
    weights = replace(weights, A=torch.eye(2, dtype=DOUBLE))
    net = mean_field_net(COS)
    worst = least_ratio(COS.value, COS.derivative, x, weights.B, weights.V, weights.W, weights.b)
    for bound in (pl_bound, pl_bound_independent):
        assert float(bound(net, weights, x)) <= float(worst) * (1 + 1e-9) + 1e-13


def test_independent_layers_narrower_than_the_data_have_a_bound_together():
    sizes = Sizes(200, 1, 2, 2, 2)
    weights = gaussian_cos(tied(sizes, generator()), generator(), tau=1.5, layers="independent")
    _, x = spread(3, 2, 1)
    net = mean_field_net(COS)
    at = gradient(net, weights, x, torch.zeros_like(x))
    assert float(pl_bound(net, weights, x)) == 0.0
    c = float(pl_bound_independent(net, weights, x))
    assert 0.1 < c <= float(at.slope_squared / at.loss)
    # And while the layers learn, as long as their Lipschitz constants stay small.
    moved = replace(weights, V=0.02 * normal(generator(1), *weights.V.shape))
    at = gradient(net, moved, x, torch.zeros_like(x))
    assert 0.01 < float(pl_bound_independent(net, moved, x)) <= float(at.slope_squared / at.loss)


def steep_layer(epsilon, x=0.3):
    """Layer 1 sends the adjoint to 0: u w = −2 at depth 2."""
    column = torch.tensor([0.0, -epsilon], dtype=DOUBLE).reshape(2, 1, 1)
    W = torch.tensor([0.0, 2 / epsilon], dtype=DOUBLE).reshape(2, 1, 1)
    b = torch.tensor([30.0, -2 * x / epsilon], dtype=DOUBLE).reshape(2, 1)
    one = torch.ones(1, 1, dtype=DOUBLE)
    return Weights(A=one, V=column, W=W, B=one, b=b), torch.full((1, 1), x, dtype=DOUBLE)


@pytest.mark.parametrize(("epsilon", "ratio"), [(0.1, 0.0805), (0.01, 8.05e-4)])
def test_the_exponential_form_fails_for_layers_and_the_product_form_does_not(epsilon, ratio):
    weights, x = steep_layer(epsilon)
    net = mean_field_net(TANH)
    at = gradient(net, weights, x, x + 1.0)
    kernels, slopes = layer_kernels(net, weights, x)[:, 0, 0], layer_stretch(weights)
    # In continuous depth the layer itself is passed half-way on average; leave that loss out.
    exponential = 2.0 * (kernels[0] * math.exp(-float(slopes[1])) + kernels[1]) / 2.0
    assert float(at.slope_squared / at.loss / exponential) == pytest.approx(ratio, rel=2e-3)
    assert float(pl_bound(net, weights, x)) * float(at.loss) <= float(at.slope_squared)


# ------------------------------------------------------------------------------- whole balls


CASES = [
    # σ, depth, points, state, features, scale of the inner weights
    (HARD_TANH, 1, 1, 1, 1, 0.1),
    (HARD_TANH, 2, 1, 1, 2, 0.1),
    (COS, 1, 2, 1, 3, 1.0),
    (COS, 2, 1, 2, 3, 1.0),
    (TANH, 5, 2, 1, 2, 2.0),
    (COS, 5, 3, 1, 3, 2.0),
    (TANH, 1, 2, 2, 4, 1.0),
    (COS, 3, 1, 1, 1, 3.0),
]


def drawn(case, seed):
    sigma, depth, n, q, m, tau = case
    g = generator(seed)
    weights = gaussian_cos(tied(Sizes(depth, m, q, q, q), g), g, tau=tau)
    x = normal(g, n, q)
    if sigma is HARD_TANH:
        weights, x = replace(weights, b=weights.b / 9.0), 0.3 * x
    return weights, x


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].name}-L{c[1]}-N{c[2]}-q{c[3]}")
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_no_measure_in_the_ball_around_the_initial_law_beats_the_bound(case, share):
    sigma, net = case[0], mean_field_net(case[0])
    for seed in range(3):
        weights, x = drawn(case, seed)
        ball = initial_ball(net, weights, x)
        reach = last_positive(ball.root)
        assert reach > 0.0
        radius = share * reach
        best, _ = worst_in_ball(
            sigma.value, sigma.derivative, x, weights.B, weights, radius, seed=seed, steps=40
        )
        assert best >= float(ball.root(radius)) ** 2
        assert best >= float(ball.explicit(radius))


def test_the_search_comes_within_a_hundredth_of_the_bound():
    """Teeth: with a slightly larger constant the search above would find a counterexample."""
    net = mean_field_net(HARD_TANH)
    weights, x = drawn(CASES[0], 0)
    ball = initial_ball(net, weights, x)
    radius = 0.1 * last_positive(ball.root)
    best, omega = worst_in_ball(
        HARD_TANH.value, HARD_TANH.derivative, x, weights.B, weights, radius
    )
    assert 1.0 <= best / float(ball.root(radius)) ** 2 < 1.01
    better = replace(ball, data_norm=0.9 * ball.data_norm)
    assert best < float(better.root(radius)) ** 2
    # The measure that was found is in the ball, and its slope is above the bound as well.
    start = particles(weights).repeat_interleave(2, dim=-2)
    assert float(labelled_distance(start, omega)) <= radius * (1 + 1e-12)
    found = Weights(weights.A, omega[..., :1].mT, omega[..., 1:2], weights.B, omega[..., 2])
    at = gradient(net, found, x, net(found, x) + 1.0)
    assert float(at.slope_squared / at.loss) >= float(ball.root(radius)) ** 2


@pytest.mark.parametrize("case", CASES[:7], ids=lambda c: f"{c[0].name}-L{c[1]}-N{c[2]}-q{c[3]}")
@pytest.mark.parametrize("size", [0.0, 0.1, 0.3])
def test_no_measure_in_the_ball_around_a_net_beats_the_bound(case, size):
    sigma, net = case[0], mean_field_net(case[0])
    searched = 0
    for seed in range(3):
        weights, x = drawn(case, seed)
        g = generator(seed + 100)
        weights = replace(
            weights,
            V=size * normal(g, *weights.V.shape),
            W=weights.W + 0.1 * size * normal(g, *weights.W.shape),
        )
        ball = running_ball(net, weights, x)
        reach = last_positive(ball.root)
        searched += reach > 0.0
        for share in (0.0, 0.1, 0.6):
            best, _ = worst_in_ball(
                sigma.value,
                sigma.derivative,
                x,
                weights.B,
                weights,
                share * reach,
                seed=seed,
                steps=25 if share else 1,
            )
            assert best >= float(ball.root(share * reach)) ** 2
    assert searched or size == 0.3


def thin(case, seed):
    """V = 0 and one feature a layer, drawn anew for each of eight."""
    sigma, _, n, q, _, tau = case
    g = generator(seed)
    weights = gaussian_cos(tied(Sizes(8, 1, q, q, q), g), g, tau=tau, layers="independent")
    x = normal(g, n, q)
    if sigma is HARD_TANH:
        weights, x = replace(weights, b=weights.b / 9.0), 0.3 * x
    return weights, x


@pytest.mark.parametrize("case", CASES[:7], ids=lambda c: f"{c[0].name}-N{c[2]}-q{c[3]}")
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_no_measure_around_layers_of_one_feature_beats_the_bound(case, share):
    sigma, net = case[0], mean_field_net(case[0])
    for seed in range(2):
        weights, x = thin(case, seed)
        ball = independent_ball(net, weights, x)
        radius = share * last_positive(ball.root)
        assert radius > 0.0
        best, _ = worst_in_ball(
            sigma.value, sigma.derivative, x, weights.B, weights, radius, seed=seed, steps=25
        )
        assert best >= float(ball.root(radius)) ** 2


def one_line(w, b, point, depth=8):
    """Points of the line, one feature σ(wx + b) a layer."""
    one = torch.ones(1, 1, dtype=DOUBLE)
    return Weights(
        A=one,
        V=torch.zeros(depth, 1, 1, dtype=DOUBLE),
        W=torch.full((depth, 1, 1), w, dtype=DOUBLE),
        B=one,
        b=torch.full((depth, 1), b, dtype=DOUBLE),
    ), point * one


class WithoutAdjoints(IndependentBall):
    def growth(self, radius):
        return 0.0 * np.asarray(radius)


@pytest.mark.parametrize(
    ("start", "worse"),
    [
        ((20.0, 0.0, 0.05), lambda ball: replace(ball, late_norm=0.0)),
        ((20.0, 0.0, 0.05), lambda ball: replace(ball, late_norm=0.6 * ball.late_norm)),
        ((20.0, 0.0, 0.05), lambda ball: WithoutAdjoints(**vars(ball))),
        ((0.1, 0.5, 0.3), lambda ball: replace(ball, data_norm=0.9 * ball.data_norm)),
    ],
    ids=["no states", "smaller states", "no adjoints", "smaller data"],
)
def test_each_term_of_the_bound_around_independent_layers_is_needed(start, worse):
    """Teeth: without one of its terms a network of the ball would be below the bound."""
    net = mean_field_net(HARD_TANH)
    weights, x = one_line(*start)
    ball = independent_ball(net, weights, x)
    radius = 0.05 * last_positive(ball.root)
    best, _ = worst_in_ball(
        HARD_TANH.value, HARD_TANH.derivative, x, weights.B, weights, radius, copies=1, count=12
    )
    assert float(ball.root(radius)) ** 2 <= best < float(worse(ball).root(radius)) ** 2


@pytest.mark.parametrize("R", [1e-10, 0.01, 0.08])
def test_the_ball_around_independent_layers_has_the_formula_of_the_page(R):
    """Terms of second order in R, which no network is known to attain, too."""
    ball = IndependentBall(
        points=3,
        feature_eigenvalue=0.6,
        data_norm=2.0,
        feature_norm=4.0,
        late_norm=0.9,
        output=2.0,
    )
    with mpmath.workdps(50):
        stretch = 4 * mpmath.mpf(R) + mpmath.mpf(R) ** 2 / 2
        both = 1 + mpmath.expm1(stretch) / stretch
        lost = R * mpmath.sqrt(4 + both**2 * 3 * mpmath.mpf(0.9) ** 2)
        lost += both * mpmath.sqrt(3) / 2 * mpmath.mpf(R) ** 2
        exact = 2 * mpmath.sqrt(mpmath.mpf(2) / 3) * (mpmath.sqrt(mpmath.mpf(0.6)) - lost)
        assert 0 < exact * (1 - 1e-9) <= float(ball.root(R)) <= exact


@pytest.mark.parametrize(
    ("certify", "ball_of"),
    [
        (initial_certificate, initial_ball),
        (independent_certificate, independent_ball),
        (running_certificate, running_ball),
    ],
)
def test_radius_rate_and_threshold_of_a_certificate_belong_together(certify, ball_of):
    """√L(μ_0) = ½∫₀^R √m, the rate is m(R) and not m(0), and the threshold is (½∫√m)²."""
    net, weights, x, y = certified_problem()
    ball = ball_of(net, weights, x)
    size = math.sqrt(
        0.5 * certify(net, weights, x, y).largest_risk / float(net.loss(weights, x, y))
    )
    found = certify(net, weights, x, size * y)

    def reached(end):
        return float(integrate.quad(lambda r: float(ball.root(r)), 0.0, end)[0]) / 2.0

    assert found.holds and found.rate == pytest.approx(float(ball.root(found.radius)) ** 2)
    assert found.rate < 0.9 * float(ball.root(0.0)) ** 2
    assert reached(found.radius) == pytest.approx(math.sqrt(found.risk), rel=5e-3)
    threshold = reached(last_positive(ball.root)) ** 2
    assert threshold * 0.99 < found.largest_risk <= threshold * (1 + 1e-9)


def test_late_layers_weigh_more_since_both_states_and_adjoints_pass_them():
    weights, x = one_line(1.0, 0.0, 0.5, depth=4)
    W = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=DOUBLE).reshape(4, 1, 1)
    ball = independent_ball(mean_field_net(COS), replace(weights, W=W), x)
    assert ball.feature_norm == pytest.approx(math.sqrt((1 + 4 + 9 + 16) / 4))
    assert ball.late_norm == pytest.approx(math.sqrt((4 * 1 + 9 * 2 + 16 * 3) / 16))


@settings(max_examples=200)
@given(
    n=st.integers(1, 8),
    eigenvalue=st.floats(1e-9, 1.0),
    spread=st.floats(0.0, 1.0),
    radius=st.floats(0.0, 10.0),
    moment=st.one_of(st.just(0.0), st.floats(1e-6, 1e4)),
    anisotropy=st.floats(0.01, 1.0),
    share=st.floats(0.0, 1.0),
)
def test_explicit_constants_are_never_better_than_the_sharp_ones(
    n, eigenvalue, spread, radius, moment, anisotropy, share
):
    # √N ≤ κ ≤ √(N(1 + X₀²)) and β₀ ≤ b₀: all that is known of them.
    largest = math.sqrt(n * (1 + radius**2))
    ball = InitialBall(
        points=n,
        feature_eigenvalue=eigenvalue,
        data_norm=math.sqrt(n) + spread * (largest - math.sqrt(n)),
        feature_norm=anisotropy * moment,
        feature_moment=moment,
        data_radius=radius,
        output=1.0,
    )
    R = share * last_positive(ball.explicit)
    assert float(ball.explicit(R)) <= float(ball.root(R)) ** 2 * (1 + 1e-9)
    _, budget = descent_budget(ball.root, last_positive(ball.root))
    assert float(ball.explicit(R)) * R**2 / 4 <= budget[-1] ** 2 * 1.01
    assert ball.closed_form() <= budget[-1] ** 2 * 1.01


def test_bounds_on_balls_do_not_increase_with_the_radius():
    weights, x = spread(3, 2, 50)
    net = mean_field_net(COS)
    moved = replace(weights, V=0.2 * normal(generator(), *weights.V.shape))
    balls = (
        initial_ball(net, weights, x),
        independent_ball(net, weights, x),
        running_ball(net, moved, x),
    )
    for ball in balls:
        end = last_positive(ball.root)
        values = ball.root(np.linspace(0.0, 1.5 * end, 2000))
        assert end > 0 and values[0] > 0 and values[-1] == 0
        assert (np.diff(values) <= 0).all()


def test_at_radius_zero_the_balls_give_the_bound_at_their_centre():
    weights, x = spread(3, 2, 50, gain=3.0)
    net = mean_field_net(COS)
    c = float(pl_bound(net, weights, x))
    for ball in (initial_ball(net, weights, x), running_ball(net, weights, x)):
        assert float(ball.root(0.0)) ** 2 == pytest.approx(c, rel=1e-10)
    drawn_anew = gaussian_cos(weights, generator(7), layers="independent")
    c = float(pl_bound_independent(net, drawn_anew, x))
    assert float(independent_ball(net, drawn_anew, x).root(0.0)) ** 2 == pytest.approx(c, rel=1e-10)


def test_frozen_coordinates_leave_their_columns_out():
    weights, x = spread(3, 2, 50)
    norms = [
        initial_ball(mean_field_net(COS, trained=trained), weights, x).data_norm
        for trained in (("V", "W", "b"), ("V", "W"), ("V", "b"), ("V",))
    ]
    ones = torch.ones(3, 1, dtype=DOUBLE)
    expected = [torch.cat([x, ones], 1), x, ones]
    expected = [float(torch.linalg.matrix_norm(e, ord=2)) for e in expected] + [0.0]
    assert norms == pytest.approx(expected, rel=1e-12)
    no_bias = initial_ball(mean_field_net(COS), replace(weights, b=None), x)
    assert no_bias.data_norm == pytest.approx(expected[1], rel=1e-12)


# -------------------------------------------------------------------------------- the budget


@pytest.mark.parametrize("reach", [1e-9, 0.7, 4.0])
def test_descent_budget_is_below_the_integral_and_near_it(reach):
    def root(r):
        return 3.0 * np.exp(-r / reach) * np.maximum(1.0 - r / reach, 0.0)

    radii, budget = descent_budget(root, reach)
    for i in (1, 100, 2048, 4096):
        exact = integrate.quad(root, 0, radii[i], epsrel=1e-12)[0] / 2
        assert budget[i] <= exact
        assert budget[i] > (0.998 if i > 100 else 0.98 if i == 100 else 0.0) * exact


@pytest.mark.parametrize("end", [1e-200, 1e-6, 0.3, 1.0, 1e5])
def test_last_positive_stays_inside(end):
    found = last_positive(lambda r: np.maximum(end - r, 0.0))
    assert end * (1 - 1e-11) <= found <= end
    assert last_positive(lambda r: np.asarray(0.0)) == 0.0


# ------------------------------------------------------------------------------ certificates


def certified_problem(width=60, depth=4, seed=0, gain=30.0):
    """Three points of the line in (x, 0), read off by B = gain·(0, 1)."""
    weights, x = spread(3, 1, width, seed=seed)
    g = generator(seed + 1)
    sizes = Sizes(depth, width, 2, 1, 1)
    weights = gaussian_cos(tied(sizes, g), g, tau=1.2, output_gain=gain)
    return mean_field_net(COS), weights, x, torch.tensor([[0.2], [-0.1], [0.3]], dtype=DOUBLE)


@pytest.mark.parametrize("constants", ["sharp", "explicit"])
@pytest.mark.parametrize("depth", [1, 4])
def test_a_certified_flow_stays_in_its_ball_and_decays_at_the_rate(constants, depth):
    net, weights, x, y = certified_problem(depth=depth, gain=500.0)
    certificate = initial_certificate(net, weights, x, y, constants=constants)
    assert certificate.holds and certificate.reason == ""
    assert certificate.risk == pytest.approx(float(net.loss(weights, x, y)), rel=1e-9)
    start, rate = particles(weights), certificate.rate
    ends = []
    for at in flow(net, weights, x, y, horizon=4 / rate, step=0.1 / rate, method=RK4):
        distance = float(labelled_distance(start, particles(at.weights)))
        assert distance <= certificate.radius
        assert float(at.loss) <= math.exp(-rate * at.time) * certificate.risk * (1 + 1e-6)
        ends.append((distance, float(at.loss)))
    assert ends[-1][1] < 0.02 * ends[0][1] and ends[-1][0] > 0.2 * certificate.radius


def thin_problem(depth=300, seed=0, gain=60.0):
    """The same with one feature a layer."""
    net, _, x, y = certified_problem()
    g = generator(seed)
    weights = gaussian_cos(
        tied(Sizes(depth, 1, 2, 1, 1), g), g, tau=1.2, output_gain=gain, layers="independent"
    )
    return net, weights, x, y


@pytest.mark.slow
def test_a_certified_flow_of_layers_with_one_feature_stays_in_its_ball_and_decays():
    net, weights, x, y = thin_problem()
    found = independent_certificate(net, weights, x, y)
    assert found.holds and found.theorem == "independent" and found.reason == ""
    start, rate = particles(weights), found.rate
    for at in flow(net, weights, x, y, horizon=4 / rate, step=0.1 / rate, method=RK4, every=4):
        distance = float(labelled_distance(start, particles(at.weights)))
        assert distance <= found.radius
        assert float(at.loss) <= math.exp(-rate * at.time) * found.risk * (1 + 1e-6)
    assert distance > 0.2 * found.radius and float(at.loss) < 0.02 * found.risk
    # No other certificate speaks of layers that are narrower than the data.
    assert running_certificate(net, weights, x, y).reason.startswith("a layer's 1 features")
    few = independent_certificate(net, thin_problem(depth=2)[1], x, y)
    assert few.reason.startswith("all layers' 2 features are fewer than the 3 data points")


def test_a_running_certificate_holds_along_a_run_and_then_for_its_rest():
    net, weights, x, y = certified_problem()
    y = 8.0 * y
    assert not initial_certificate(net, weights, x, y).holds
    pace = float(pl_bound(net, weights, x))
    found, rest = None, []
    for at in flow(net, weights, x, y, horizon=6 / pace, step=0.05 / pace, method=RK4, every=4):
        if found is None:
            found = running_certificate(net, at.weights, x, y)
            begun, start = at.time, particles(at.weights).clone()
            found = found if found.holds else None
        else:
            decay = math.exp(-found.rate * (at.time - begun))
            assert float(at.loss) <= decay * found.risk * (1 + 1e-6)
            rest.append(float(labelled_distance(start, particles(at.weights))))
    assert found is not None and begun > 0 and len(rest) > 3
    assert max(rest) <= found.radius


def test_the_threshold_is_where_the_certificate_stops():
    net, weights, x, y = certified_problem()
    for certify in (
        initial_certificate,
        running_certificate,
        lambda *a: initial_certificate(*a, constants="explicit"),
        lambda *a: initial_certificate(*a, 0.003),
        lambda *a: initial_certificate(*a, 0.001, constants="explicit"),
        independent_certificate,
        lambda *a: independent_certificate(*a, 0.003),
    ):
        at = certify(net, weights, x, y)
        # At V = 0 and BA = 0 the risk is that of y alone.
        scale = math.sqrt(at.largest_risk / at.risk)
        below = certify(net, weights, x, 0.999 * scale * y)
        above = certify(net, weights, x, 1.001 * scale * y)
        assert below.holds and below.rate > 0
        assert not above.holds and above.rate == 0
        assert above.reason.startswith("the risk ")
        assert above.largest_risk == below.largest_risk == at.largest_risk


def test_a_smaller_risk_gives_a_smaller_ball_and_a_faster_rate():
    net, weights, x, y = certified_problem(gain=100.0)
    for constants in ("sharp", "explicit"):
        found = [
            initial_certificate(net, weights, x, s * y, constants=constants)
            for s in (0.1, 0.01, 0.0)
        ]
        assert all(c.holds for c in found)
        assert found[0].radius > found[1].radius > 1e3 * found[2].radius
        assert found[0].rate < found[1].rate < found[2].rate
        assert found[2].rate == pytest.approx(float(pl_bound(net, weights, x)), rel=1e-6)


def test_sharp_constants_certify_more_and_the_ball_may_be_given():
    net, weights, x, y = certified_problem()
    sharp = initial_certificate(net, weights, x, y)
    explicit = initial_certificate(net, weights, x, y, constants="explicit")
    assert sharp.largest_risk > 50 * explicit.largest_risk > 0
    ball = initial_ball(net, weights, x)
    assert 0.5 * sharp.largest_risk < ball.closed_form() <= sharp.largest_risk * 1.002
    given_radius = initial_certificate(net, weights, x, y, radius=2 * sharp.radius)
    assert given_radius.holds and given_radius.radius == 2 * sharp.radius
    assert given_radius.rate < sharp.rate


def test_gradient_descent_with_measured_decrease_stays_in_the_ball():
    """L_k − L_{k+1} ≥ θη|g_k|², checked at every step, and √L_0 ≤ (θ/2)∫√m."""
    net, weights, x, y = certified_problem(gain=100.0)
    ball = initial_ball(net, weights, x)
    theta, rate = 0.5, float(ball.root(0.0)) ** 2
    radii, budget = descent_budget(ball.root, last_positive(ball.root))
    start, before, length = particles(weights), None, 0.0
    eta = 0.2 / rate
    for at in flow(net, weights, x, y, horizon=40 * eta, step=eta, method=EULER):
        if before is None:
            radius = radii[np.searchsorted(theta * budget, math.sqrt(float(at.loss)))]
        else:
            loss, slope = before
            assert loss - float(at.loss) >= theta * eta * slope
            length += eta * math.sqrt(slope)
            assert float(labelled_distance(start, particles(at.weights))) <= length * (1 + 1e-9)
            contraction = 1 - theta * eta * float(ball.root(radius)) ** 2
            assert length <= radius and float(at.loss) <= contraction * loss
        before = float(at.loss), float(at.gradient.slope_squared)
    assert before[0] < 1e-3


# --------------------------------------------------------------------- sentences, and no NaN


def reason(net, weights, x, y, radius=None, **options):
    certificate = initial_certificate(net, weights, x, y, radius, **options)
    assert not certificate.holds and certificate.rate == 0.0
    no_nan(certificate)
    return certificate.reason


def no_nan(certificate):
    numbers = [getattr(certificate, f.name) for f in fields(certificate)]
    assert not any(isinstance(v, float) and math.isnan(v) for v in numbers), certificate


def test_reasons_are_sentences_for_people():
    net, weights, x, y = certified_problem()
    found = initial_certificate(net, weights, x, y)
    assert f"exp(−{found.rate:.3g} t)" in str(found) and "converges" in str(found)
    assert str(initial_certificate(net, weights, x, 1e6 * y)).startswith("no certificate: ")
    twins = torch.cat([x[:2], x[1:2]])
    for certify in (initial_certificate, running_certificate):
        assert certify(net, weights, twins, y).reason == (
            "two data points coincide (rows 1 and 2), so the kernel is singular and no "
            "certificate exists"
        )
    _, narrow, _, _ = certified_problem(width=2)
    assert reason(net, narrow, x, y).startswith(
        "a layer's 2 features are fewer than the 3 data points"
    )
    close = torch.tensor([[0.0], [1e-18], [1.0]], dtype=DOUBLE)
    assert reason(net, weights, close, y).startswith(
        "the least eigenvalue of the features' kernel is 0 to rounding"
    )
    flat = replace(weights, B=torch.zeros_like(weights.B))
    assert reason(net, flat, x, y) == "the output map B is not onto, so no certificate exists"
    assert "the bound √λ_R = -" in reason(net, weights, x, y, 0.5)
    assert "at radius R = 0.5 the bound λ_R = -" in reason(
        net, weights, x, y, 0.5, constants="explicit"
    )
    assert "is above the threshold" in reason(net, weights, x, 1e6 * y)
    assert "of the ball of radius R = 0.0001" in reason(net, weights, x, 1e6 * y, 1e-4)
    steep = replace(weights, V=30.0 * normal(generator(), *weights.V.shape))
    assert running_certificate(net, steep, x, y).reason.startswith("a layer may be too steep")
    assert "Lipschitz" in running_certificate(net, weights, x, y, 5.0).reason
    assert "√λ_R" in running_certificate(net, weights, x, y, 0.2).reason
    one = replace(
        weights,
        W=torch.full_like(weights.W, 200.0),
        b=torch.zeros_like(weights.b),
    )
    assert "add up to" in reason(net, one, torch.zeros(1, 1, dtype=DOUBLE), y[:1], 0.0042)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"activation": GELU}, r"expected an activation with \|σ\| ≤ 1 and \|σ′\| ≤ 1 \(tanh, cos"),
        ({"activation": RELU}, r"received 'relu' with sup\|σ\| = inf"),
        ({"loss_factor": 1.0}, "expected loss_factor = 0.5 .*, received 1.0"),
        ({"width_scaling": "sqrt"}, "expected width_scaling = 'mean'"),
        ({"input_scaling": "sqrt"}, "expected input_scaling = 'none'"),
        ({"depth_exponent": 0.5}, "expected depth_exponent = 1.0"),
        ({"metric": "layer"}, "expected metric = 'particle'"),
        ({"trained": ("W", "b")}, "expected V among the trained parameters"),
        ({"trained": ("A", "V", "W", "b")}, "expected A and B frozen"),
        ({"speed": {"W": 2.0}}, "all speeds 1"),
    ],
)
def test_networks_outside_the_theorem_are_refused(change, sentence):
    net, weights, x, y = certified_problem()
    for certify in (initial_certificate, independent_certificate, running_certificate):
        with pytest.raises(ValueError, match=sentence):
            certify(replace(net, **change), weights, x, y)
    if change.get("activation") is GELU:
        with pytest.raises(ValueError, match=r"expected an activation with \|σ′\| ≤ 1"):
            pl_bound(replace(net, **change), weights, x)


def test_states_and_shapes_outside_the_theorem_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    net, weights, x, y = certified_problem()
    with pytest.raises(ValueError, match=r"expected x of shape \(N, 1\), received \(3, 2\)"):
        initial_certificate(net, weights, torch.zeros(3, 2, dtype=DOUBLE), y)
    with pytest.raises(ValueError, match=r"expected y of shape \(3, 1\), received \(2, 1\)"):
        initial_certificate(net, weights, x, y[:2])
    with pytest.raises(ValueError, match=r"weights of one run, V of shape \(L, q, m\)"):
        initial_certificate(net, stack([weights, weights]), x, y)
    moved = replace(weights, V=weights.V + 1e-3)
    with pytest.raises(ValueError, match="running_certificate takes any weights"):
        initial_certificate(net, moved, x, y)
    with pytest.raises(ValueError, match="running_certificate takes any weights"):
        independent_certificate(net, moved, x, y)
    untied = gaussian_cos(weights, generator(), layers="independent")
    with pytest.raises(ValueError, match="the same W and b in every layer"):
        initial_certificate(net, untied, x, y)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a radius > 0"):
            initial_certificate(net, weights, x, y, bad)
    with pytest.raises(ValueError, match="expected sharp or explicit"):
        initial_certificate(net, weights, x, y, constants="best")
    for bad in (math.nan, math.inf, 1e200):
        with pytest.raises(ValueError, match=r"expected finite numbers up to 1e\+60 in x"):
            initial_certificate(net, weights, x + bad, y)


@settings(max_examples=60)
@given(
    exponents=st.tuples(*[st.sampled_from([-300, -60, -8, 0, 3, 30, 59])] * 5),
    n=st.integers(1, 3),
    depth=st.sampled_from([1, 3]),
    radius=st.sampled_from([None, 1e-200, 1e-3, 1.0, 1e50]),
    seed=st.integers(0, 1000),
)
def test_extreme_numbers_give_a_certificate_without_nan(exponents, n, depth, radius, seed):
    v, w, b, x, B = (10.0**e for e in exponents)
    weights, data, y = random_net(seed, depth, n=n, m=4)
    weights = Weights(weights.A, v * weights.V, w * weights.W, B * weights.B, b * weights.b)
    net = mean_field_net(TANH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = running_certificate(net, weights, x * data, y, radius)
        no_nan(found)
        assert found.holds == (found.reason == "") == (found.rate > 0)
        start = Weights(
            weights.A,
            0 * weights.V,
            weights.W[:1].repeat(depth, 1, 1),
            weights.B,
            weights.b[:1].repeat(depth, 1),
        )
        for constants in ("sharp", "explicit"):
            no_nan(initial_certificate(net, start, x * data, y, radius, constants=constants))
        no_nan(independent_certificate(net, start, x * data, y, radius))
        for bound in (pl_bound, pl_bound_independent):
            value = float(bound(net, weights, x * data))
            assert math.isfinite(value) and value >= 0


def test_states_beyond_the_range_of_numbers_are_refused():
    weights, x, _ = random_net(0, 4)
    weights = replace(weights, V=1e59 * weights.V, W=1e59 * weights.W)
    with pytest.raises(ValueError, match="beyond the range of numbers"):
        pl_bound(mean_field_net(IDENTITY), weights, x)


def test_single_precision_weights_are_taken_as_the_numbers_they_are():
    net, weights, x, y = certified_problem()
    single = [weights.to(dtype=torch.float32), x.float(), y.float()]
    double = [single[0].to(dtype=DOUBLE), x.float().double(), y.float().double()]
    assert initial_certificate(net, *single) == initial_certificate(net, *double)
    assert running_certificate(net, *single) == running_certificate(net, *double)


CERTIFY = [
    initial_certificate,
    independent_certificate,
    running_certificate,
    lambda *a: initial_certificate(*a, constants="explicit"),
]


@pytest.mark.parametrize("certify", CERTIFY)
@pytest.mark.parametrize("size", [1e-150, 1e-162, 1e-170, 1e-300, 5e-324])
def test_a_risk_that_underflows_is_told(certify, size):
    """One point at 0 with the target y: neither the risk y²/2 nor its root is 0."""
    net, weights, x, _ = certified_problem()
    point, y = 0.0 * x[:1], torch.full((1, 1), size, dtype=DOUBLE)
    found = certify(net, weights, point, y)
    no_nan(found)
    assert not found.holds and found.rate == 0.0 and 0.0 < found.risk <= 1e-280
    assert found.reason == (
        "the risk at the start is not 0, but below 1e-280, where squares underflow"
    )
    assert certify(net, weights, point, 1e-100 + 0 * y).radius > 0.0
    at_rest = certify(net, weights, point, 0 * y)
    assert at_rest.holds and at_rest.risk == at_rest.radius == 0.0


def test_a_rate_that_underflows_is_told():
    net, weights, _, _ = certified_problem()
    tiny, zero = replace(weights, B=1e-160 * weights.B), torch.zeros(1, 1, dtype=DOUBLE)
    for certify in CERTIFY:
        found = certify(net, tiny, zero, zero)
        assert not found.holds and found.rate == 0.0 and "underflow" in found.reason
    for bound in (pl_bound, pl_bound_independent):
        assert float(bound(net, tiny, zero)) == 0.0 < float(bound(net, weights, zero))


@pytest.mark.parametrize("certify", [*CERTIFY, lambda *a: pl_bound(*a[:3])])
def test_what_autograd_follows_is_certified_all_the_same(certify):
    net, weights, x, y = certified_problem()
    followed = weights.map(lambda v: v.clone().requires_grad_())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = certify(net, followed, x.clone().requires_grad_(), y.clone().requires_grad_())
    assert found == certify(net, weights, x, y)
    assert not getattr(found, "requires_grad", False)


@pytest.mark.parametrize("certify", CERTIFY)
def test_data_of_another_kind_are_refused_in_a_sentence(monkeypatch, certify):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    net, weights, x, y = certified_problem()
    for dtype in (torch.complex128, torch.int64, torch.bool):
        kind = str(dtype).removeprefix("torch.")
        sentence = "expected real floating-point numbers in {}, received " + kind
        with pytest.raises(ValueError, match=sentence.format("x")):
            certify(net, weights, x.to(dtype), y)
        with pytest.raises(ValueError, match=sentence.format("y")):
            certify(net, weights, x, y.to(dtype))
    with pytest.raises(ValueError, match="numbers in B, received complex128"):
        certify(net, replace(weights, B=weights.B.to(torch.complex128)), x, y)
    with pytest.raises(ValueError, match=r"expected x of shape \(N, 1\), received \(2, 3, 1\)"):
        certify(net, weights, x.expand(2, 3, 1), y)
    with pytest.raises(ValueError, match=r"expected y of shape \(3, 1\), received \(2, 3, 1\)"):
        certify(net, weights, x, y.expand(2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_precisions_are_taken_as_their_numbers_and_infinity_is_none_of_them(dtype):
    net, weights, x, y = certified_problem()
    for certify in CERTIFY:
        small = x.to(dtype), y.to(dtype)
        assert certify(net, weights, *small) == certify(net, weights, *(v.double() for v in small))
        beyond = (x + 1e60).to(dtype)
        with pytest.raises(ValueError, match=r"finite numbers up to 1e\+60 in x, received inf"):
            certify(net, weights, beyond, y)
    for ball in (initial_ball, running_ball, layer_kernels, pl_bound, pl_bound_independent):
        with pytest.raises(ValueError, match=r"finite numbers up to 1e\+60 in x, received inf"):
            ball(net, weights, beyond)


# ---------------------------------------------------------------------------- many features


def test_features_needed_is_the_least_number_and_6_52_the_constant():
    for eigenvalue, points, failure in ((0.3, 4, 0.05), (1.0, 1, 0.5), (0.01, 50, 1e-6)):
        needed = features_needed(eigenvalue, points, failure)
        assert chernoff_probability(needed, eigenvalue, points) >= 1 - failure
        if needed > 1:
            assert chernoff_probability(needed - 1, eigenvalue, points) < 1 - failure
        assert needed <= math.ceil(6.52 * points / eigenvalue * math.log(points / failure))
    assert chernoff_probability(1, 0.5, 10) == 0.0
    for bad in ((0.0, 3, 0.1), (1.5, 3, 0.1), (0.5, 0, 0.1), (0.5, 3, 0.0), (0.5, 3, 1.0)):
        with pytest.raises(ValueError, match="features: expected"):
            features_needed(*bad)
    with pytest.raises(ValueError, match="expected at least 1"):
        chernoff_probability(0, 0.5, 3)


@pytest.mark.parametrize("layers", ["tied", "independent"])
def test_random_features_keep_half_of_the_eigenvalue_as_often_as_promised(layers):
    g = generator(3)
    x = torch.tensor([[0.0], [1.2], [2.4]], dtype=DOUBLE)
    eigenvalue = float(torch.linalg.eigvalsh(kernel_gaussian_cos(x, 1.0))[0])
    draws, depth, m = 500, 4, 70
    like = independent(Sizes(depth, m, 1, 1, 1), g, runs=(draws,))
    weights = gaussian_cos(like, g, layers=layers)
    kernels = layer_kernels(mean_field_net(COS), weights, x)
    features = m if layers == "tied" else m * depth
    kept = torch.linalg.eigvalsh(kernels.mean(1))[:, 0] >= eigenvalue / 2
    promised = chernoff_probability(features, eigenvalue, 3)
    frequency = float(kept.to(DOUBLE).mean())
    assert frequency + 4 * math.sqrt(0.25 / draws) >= promised
    assert (promised > 0.5) == (layers == "independent")


@pytest.mark.parametrize("expected", [10.0, 40.0])
def test_the_exponent_of_chernoff_is_that_of_rare_features(expected):
    """One point that a feature sees with probability λ: λ_min(K_M) is a binomial mean. Teeth: a
    larger exponent is refuted."""
    eigenvalue = 0.01
    M = round(expected / eigenvalue)
    missed = float(binom.cdf(math.floor(M * eigenvalue / 2), M, eigenvalue))
    bound = 1.0 - chernoff_probability(M, eigenvalue, 1)
    assert missed <= bound
    assert missed > bound**2


# ------------------------------------------------------------- before the features are drawn


def square():
    return 1.5 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=DOUBLE)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("tau", [0.1, 1.5])
def test_the_promise_before_the_draw_is_kept_by_the_worst_draw_that_it_allows(n, tau):
    """λ₀ = λ/2 and β₀ = β at once, in the same ball."""
    x = square()[:n] / tau
    found = prior_certificate(x, tau=tau, failure=0.1, state=3)
    ball = InitialBall(
        points=n,
        feature_eigenvalue=found.eigenvalue / 2,
        data_norm=float(torch.linalg.matrix_norm(torch.cat([x, torch.ones(n, 1)], 1), ord=2)),
        feature_norm=found.feature_norm,
        feature_moment=found.feature_norm,
        data_radius=0.0,
        output=1.0,
    )
    _, budget = descent_budget(ball.root, found.radius)
    # Teeth: neither promise could be half as large again.
    assert 0.5 * budget[-1] ** 2 < found.largest_risk <= budget[-1] ** 2
    assert 0.5 * float(ball.root(found.radius)) ** 2 < found.rate <= ball.root(found.radius) ** 2
    assert found.largest_risk <= ball.closed_form()


@pytest.mark.parametrize(("n", "q", "output"), [(1, 2, 1.0), (4, 3, 20.0)])
def test_the_promise_before_the_draw_has_the_formulas_of_the_page(n, q, output):
    x, delta, tau = square()[:n], 0.1, 0.7
    found = prior_certificate(x, tau=tau, failure=delta, state=q, output=output)
    ideal = 0.5 * torch.exp(-(tau**2) * torch.cdist(x, x) ** 2 / 2)
    eigenvalue = float(torch.linalg.eigvalsh(ideal)[0])
    M = math.ceil(2 / (1 - math.log(2)) * n / eigenvalue * math.log(2 * n / delta))
    t = math.log(2 / delta)
    beta = tau * math.sqrt(q + 2 * math.sqrt(q * t / M) + 2 * t / M)
    kappa = float(torch.linalg.matrix_norm(torch.cat([x, torch.ones(n, 1)], 1), ord=2))
    C = math.sqrt(kappa**2 + 4 / 9 * n * beta**2) + 1 / (2 * math.sqrt(2))
    R = math.sqrt(eigenvalue / 8) / C
    theta = 1 - (beta + 0.5) * R
    risk = 9 * output**2 * eigenvalue**2 * theta**2 / (512 * n * C**2)
    rate = output**2 * eigenvalue * theta**2 / (4 * n)
    assert found.features == M and theta >= 0.46
    assert (found.feature_norm, found.speed, found.radius) == pytest.approx((beta, C, R), rel=1e-9)
    assert (found.largest_risk, found.rate) == pytest.approx((risk, rate), rel=1e-9)
    assert found.gain(3.0) == pytest.approx(math.sqrt(3.0 / risk), rel=1e-9)


@pytest.mark.slow
def test_features_of_the_promised_number_keep_it_as_often_as_promised():
    x, g, draws = square(), generator(5), 100
    found = prior_certificate(x, tau=1.5, failure=0.1, state=3)
    net, y = mean_field_net(COS), torch.zeros(4, 1, dtype=DOUBLE)
    kept = 0
    for _ in range(draws):
        like = tied(Sizes(1, found.features, 3, 2, 1), g)
        weights = gaussian_cos(like, g, tau=1.5)
        kept += initial_certificate(net, weights, x, y).largest_risk >= found.largest_risk
    assert kept >= 0.9 * draws
    # The two events, in law: teeth for the constants, since the draws above meet them with ease.
    for failure, part in ((0.1, 0.05), (1e-6, 1e-3)):
        rare = prior_certificate(x, tau=1.5, failure=failure, state=3)
        size = rare.features * (rare.feature_norm / 1.5) ** 2
        assert part * failure / 2 < float(chi2.sf(size, 3 * rare.features)) <= failure / 2
    assert chernoff_probability(found.features, found.eigenvalue, 4) >= 0.95
    assert chernoff_probability(found.features - 2, found.eigenvalue, 4) < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("risk", [0.3, 1.0])
def test_a_flow_within_the_promise_before_the_draw_keeps_it(risk):
    x = square()
    found = prior_certificate(x, tau=1.5, failure=0.1, state=3)
    y = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]], dtype=DOUBLE)
    gain = found.gain(0.5 / risk)
    promise = prior_certificate(x, tau=1.5, failure=0.1, state=3, output=gain)
    assert promise.largest_risk == pytest.approx(0.5 / risk) and promise.radius == found.radius
    for width in (found.features, 2 * found.features):
        g = generator(width)
        weights = tied(Sizes(3, width, 3, 2, 1), g)
        weights = gaussian_cos(weights, g, tau=1.5, output_gain=gain)
        start, rate = particles(weights), promise.rate
        states = flow(
            mean_field_net(COS), weights, x, y * math.sqrt(1 / risk), horizon=2 / rate,
            step=0.02 / rate, method=RK4, every=20,
        )  # fmt: skip
        for at in states:
            distance = float(labelled_distance(start, particles(at.weights)))
            assert distance <= promise.radius
            assert float(at.loss) <= math.exp(-rate * at.time) * 0.5 / risk * (1 + 1e-6)
        assert distance > 0.2 * promise.radius


def test_the_ideal_kernel_is_bounded_from_below():
    with mpmath.workdps(50):
        for scale in (1e-4, 0.3, 3.0):
            x = scale * normal(generator(1), 4, 2)
            K = mpmath.matrix(4, 4)
            for i in range(4):
                for j in range(4):
                    gap = sum((mpmath.mpf(a) - mpmath.mpf(b)) ** 2 for a, b in
                              zip(x[i].tolist(), x[j].tolist(), strict=True))  # fmt: skip
                    K[i, j] = mpmath.exp(-gap / 2) / 2
            exact = eigenvalues(K)[0]
            found = prior_certificate(x, tau=1.0).eigenvalue
            assert exact - 1e-12 <= found <= exact


def test_the_promise_before_the_draw_in_sentences():
    x = square()
    assert prior_certificate(x[[0, 1, 1]]).reason == "two data points coincide (rows 1 and 2)"
    near = prior_certificate(1e-9 * x)
    assert near.reason == "the least eigenvalue of the ideal kernel is 0 to rounding"
    assert near.largest_risk == near.rate == near.radius == 0.0 and near.gain(1.0) == math.inf
    for bad in ({"failure": 0.0}, {"failure": 1.0}, {"state": 1}, {"output": 0.0}, {"tau": -1.0}):
        with pytest.raises(ValueError, match="expected"):
            prior_certificate(x, **bad)


def test_every_public_name_is_there():
    for name in certificates.__all__:
        assert getattr(certificates, name).__doc__
