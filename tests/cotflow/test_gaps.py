"""The a-posteriori bound on gaps against one exact Euler step, and the worst-case constants."""

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotflow.adjoint.gradient import gradient
from cotflow.bounds.gaps import gap_growth, worst_case
from cotflow.measure.observables import largest_gap
from cotflow.network.activations import ACTIVATIONS, GELU, RELU, TANH
from cotflow.network.initial import Sizes, tied
from cotflow.network.residual import ResidualNet, marion_net
from cotflow.network.weights import Weights

SIZE = st.integers(-2, 1).map(lambda e: 10.0**e)


@settings(max_examples=150)
@given(
    name=st.sampled_from(["gelu", "tanh", "identity"]),
    width_scaling=st.sampled_from(["sqrt", "mean", "none"]),
    input_scaling=st.sampled_from(["sqrt", "none"]),
    beta=st.sampled_from([0.5, 1.0, 2.0]),
    metric=st.sampled_from(["layer", "particle"]),
    trained=st.sampled_from([("A", "V", "W", "B"), ("V", "W"), ("V",), ("W",)]),
    speed=st.sampled_from([{}, {"W": 4.0}, {"V": 0.3}]),
    depth=st.integers(2, 6),
    m=st.integers(1, 5),
    q=st.integers(1, 4),
    n=st.integers(1, 5),
    sizes=st.tuples(SIZE, SIZE, SIZE, SIZE),
    eta=SIZE,
    seed=st.integers(0, 2**20),
)
def test_one_euler_step_never_exceeds_the_bound(
    name,
    width_scaling,
    input_scaling,
    beta,
    metric,
    trained,
    speed,
    depth,
    m,
    q,
    n,
    sizes,
    eta,
    seed,
):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    net = ResidualNet(
        ACTIVATIONS[name],
        width_scaling,
        input_scaling,
        beta,
        trained=trained,
        metric=metric,
        speed=speed,
    )
    v, w, dv, dw = sizes
    weights = Weights(
        draw(q, q), v * draw(1, q, m) + dv * draw(depth, q, m),
        w * draw(1, m, q) + dw * draw(depth, m, q), draw(q, q),
    )  # fmt: skip
    at = gradient(net, weights, draw(n, q), draw(n, q))
    alpha, beta_term = gap_growth(net, weights, at)
    bound = (1 + eta * alpha) * largest_gap(weights) + eta * beta_term / depth
    after = largest_gap(weights.plus(at.velocity, eta))
    assert float(after) <= float(bound) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("trained", "numbers"),
    [
        (("V",), (-0.8, 2.5, -0.2, 0.6, 4.6)),
        (("V",), (-6.9, 4.2, 0.2, -0.4, 3.8)),
        (("W",), (-0.5, -2.2, -1.0, 0.5, -4.8)),
        (("W",), (2.0, -1.0, -0.3, -0.4, -4.6)),
        (("W",), (1.8, -1.3, 0.6, -0.2, -5.1)),
    ],
    ids=["Δp, V", "Δh, V", "Δh in σ′", "Δp, W", "Δh, W"],
)
def test_each_term_of_beta_is_needed(trained, numbers):
    """Two equal scalar layers: without the term the gap after a step would exceed the bound."""
    v, w, a, b, y = (torch.full((1, 1), z, dtype=torch.float64) for z in numbers)
    net, x = marion_net(TANH, trained=trained), torch.ones(1, 1, dtype=torch.float64)
    weights = Weights(a, v.expand(2, 1, 1), w.expand(2, 1, 1), b)
    at = gradient(net, weights, x, y)
    bound = float(gap_growth(net, weights, at)[1]) / 2
    assert 0.05 * bound < float(largest_gap(weights.plus(at.velocity, 1.0))) <= bound


def test_networks_outside_the_bound_are_refused_in_one_sentence():
    g = torch.Generator().manual_seed(0)
    for net, depth in ((marion_net(RELU), 3), (marion_net(TANH), 1)):
        weights = tied(Sizes(depth, 4, 3, 3, 3), g)
        x = torch.randn(5, 3, generator=g, dtype=torch.float64)
        with pytest.raises(ValueError, match="expected a net without bias"):
            gap_growth(net, weights, gradient(net, weights, x, x))


@pytest.mark.parametrize("activation", [GELU, TANH])
@pytest.mark.parametrize("bound", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("x_bound", [0.01, 2.0])
def test_worst_case_constants_in_high_precision(activation, bound, x_bound):
    net = marion_net(activation, loss_factor=0.25)
    weights = tied(Sizes(3, 4, 3, 3, 3), torch.Generator().manual_seed(0))
    found = worst_case(net, weights, bound, x_bound, 1.5)
    mpmath.mp.dps = 50
    c_q = 1 / mpmath.sqrt(3)
    c = c_q / 2
    K, C = mpmath.mpf(activation.lipschitz), mpmath.mpf(activation.curvature)
    K1 = c * K * bound**2 / 4
    H = mpmath.e**K1 * bound * x_bound
    kappa = max(K1, c * K * bound * H)
    a, b = c * K * H, c * c_q * C * bound * H**2
    K_prime = max(
        mpmath.eigsy(mpmath.matrix([[0, a], [a, b]]), eigvals_only=True)[1],
        c * K * bound + c * c_q * C * bound**2 * H / 4,
    )
    alpha = 2 * 0.25 * mpmath.e**kappa * K_prime * bound
    alpha *= mpmath.e**kappa * bound**2 * x_bound + 1.5
    beta = 2 * 0.25 * kappa * mpmath.e**kappa * bound
    beta *= kappa + mpmath.e**kappa * K_prime * bound * x_bound
    beta *= mpmath.e**kappa * bound**2 * x_bound + 1.5
    assert pytest.approx(float(K1), rel=1e-12) == found.K1
    assert found.log10_kappa == pytest.approx(float(mpmath.log10(kappa)), rel=1e-9, abs=1e-9)
    assert found.log10_alpha == pytest.approx(float(mpmath.log10(alpha)), rel=1e-9, abs=1e-9)
    assert found.log10_beta == pytest.approx(float(mpmath.log10(beta)), rel=1e-9, abs=1e-9)
