"""The tangent kernel: against automatic differentiation, the gradient and the flow itself."""

from dataclasses import replace

import pytest
import torch

from cotflow.adjoint.gradient import gradient
from cotflow.bounds.local_pl import start_constant
from cotflow.measure.tangent import tangent_kernel
from cotflow.network.activations import COS, TANH
from cotflow.network.initial import Sizes, tied
from cotflow.network.residual import marion_net, mean_field_net
from problems import ALL, random_problem

NETS = {
    "layer": marion_net(TANH, trained=ALL),
    "published": marion_net(
        TANH, width_scaling="none", input_scaling="none", trained=("V", "W"), depth_exponent=0.5
    ),
    "particles": mean_field_net(COS),
    "ends": marion_net(TANH, trained=("A", "B"), speed={"A": 3.0}),
    "features": mean_field_net(TANH, trained=("W",), input_scaling="sqrt"),
}
each_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())


def by_autograd(net, weights, x):
    """Σ_θ r J_θ J_θᵀ from the Jacobian of all outputs."""
    kernel = 0.0
    for name, rate in net.rates(weights).items():
        jacobian = torch.autograd.functional.jacobian(
            lambda value, name=name: net(replace(weights, **{name: value}), x).flatten(),
            getattr(weights, name),
        )
        rows = jacobian.flatten(1)
        kernel = kernel + rate * rows @ rows.mT
    return kernel


@each_net
@pytest.mark.parametrize("bias", [True, False])
def test_is_the_gram_matrix_of_the_partial_derivatives(net, bias):
    weights, x, _ = random_problem(3, bias=bias)
    expected = by_autograd(net, weights, x)
    torch.testing.assert_close(tangent_kernel(net, weights, x), expected, rtol=1e-12, atol=1e-13)


def test_runs_are_independent_and_may_share_the_data():
    weights, x, _ = random_problem(5, runs=(2, 3))
    shared = x[0, 0]
    found = tangent_kernel(NETS["layer"], weights, shared)
    one = tangent_kernel(NETS["layer"], weights.run(1).run(2), shared)
    assert found.shape == (2, 3, 12, 12)
    torch.testing.assert_close(found[1, 2], one, rtol=1e-13, atol=1e-14)


@each_net
def test_gives_the_slope_and_the_velocity_of_the_outputs(net):
    weights, x, y = random_problem(1)
    at, theta = gradient(net, weights, x, y), tangent_kernel(net, weights, x)
    r = (net(weights, x) - y).flatten()
    factor = 2.0 * net.loss_factor / len(x)
    assert float(at.slope_squared) == pytest.approx(factor**2 * float(r @ theta @ r), rel=1e-12)
    h = 1e-5
    ahead, back = (net(weights.plus(at.velocity, t), x).flatten() for t in (h, -h))
    torch.testing.assert_close((ahead - back) / (2 * h), -factor * theta @ r, rtol=1e-6, atol=1e-8)


def test_least_eigenvalue_at_the_start_is_the_exact_constant():
    net = marion_net(TANH)
    start = tied(Sizes(4, 32, 7, 4, 3), torch.Generator().manual_seed(0))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    least = float(torch.linalg.eigvalsh(tangent_kernel(net, start, x))[0])
    assert 4.0 / 5 * least == pytest.approx(float(start_constant(net, start, x)), rel=1e-10)


def test_an_argument_that_does_not_fit_is_refused():
    weights, x, _ = random_problem(0)
    with pytest.raises(ValueError, match="tangent kernel: expected x"):
        tangent_kernel(NETS["layer"], weights, x[:, :1])
