"""The hand-written adjoint against autograd, finite differences and the papers' formulas."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotflow.adjoint.gradient import gradient
from cotflow.network.activations import ACTIVATIONS
from cotflow.network.residual import ResidualNet
from problems import ALL, random_problem


def autograd(net, weights, x, y):
    leaves = {k: v.clone().requires_grad_() for k, v in weights.tensors().items()}
    loss = net.loss(replace(weights, **leaves), x, y)
    return loss, dict(zip(leaves, torch.autograd.grad(loss.sum(), leaves.values()), strict=True))


@given(
    name=st.sampled_from(sorted(ACTIVATIONS)),
    width_scaling=st.sampled_from(["sqrt", "mean", "none"]),
    input_scaling=st.sampled_from(["sqrt", "none"]),
    metric=st.sampled_from(["layer", "particle"]),
    beta=st.sampled_from([0.5, 1.0]),
    depth=st.integers(1, 6),
    runs=st.sampled_from([(), (1,), (3,), (2, 2)]),
    bias=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_gradient_equals_autograd(
    name, width_scaling, input_scaling, metric, beta, depth, runs, bias, seed
):
    net = ResidualNet(
        ACTIVATIONS[name], width_scaling, input_scaling, beta, 0.7, trained=ALL, metric=metric
    )
    weights, x, y = random_problem(seed, runs, depth, bias=bias)
    loss, partial = autograd(net, weights, x, y)
    result = gradient(net, weights, x, y)
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-12, atol=1e-14)
    rates = net.rates(weights)
    assert set(result.velocity) == set(partial)
    slope = 0.0
    for key, value in partial.items():
        error = (result.velocity[key] / -rates[key] - value).norm() / (value.norm() + 1e-14)
        assert error < 1e-8, (key, float(error))
        slope = slope + rates[key] * value.square().sum()
    torch.testing.assert_close(result.slope_squared.sum(), slope, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["gelu", "tanh", "identity"])
def test_gradient_equals_central_differences(name):
    net = ResidualNet(ACTIVATIONS[name], trained=ALL)
    weights, x, y = random_problem(7)
    result = gradient(net, weights, x, y)
    rates = net.rates(weights)
    # Close to the gradient, so that the derivative is not small by cancellation.
    g = torch.Generator().manual_seed(8)
    direction = {
        k: -result.velocity[k] / rates[k] * (1 + torch.rand(v.shape, generator=g, dtype=v.dtype))
        for k, v in weights.tensors().items()
    }
    predicted = -sum((result.velocity[k] / rates[k] * direction[k]).sum() for k in direction)
    # Richardson's combination of two central differences: error O(h⁴), rounding about 1e-13/h.
    d1, d2 = (
        (net.loss(weights.plus(direction, h), x, y) - net.loss(weights.plus(direction, -h), x, y))
        / (2 * h)
        for h in (1e-3, 2e-3)
    )
    assert abs((4 * d1 - d2) / 3 - predicted) < 1e-8 * abs(predicted)


def test_mispaired_state_and_adjoint_is_off_by_one_over_depth():
    """The exact field pairs h before a layer with p after it; p before the layer is O(1/L) off."""
    net = ResidualNet(
        ACTIVATIONS["tanh"], width_scaling="mean", input_scaling="none", trained=("V",)
    )
    errors = []
    for depth in (16, 32, 64):
        weights, x, y = random_problem(3, depth=1, bias=False)
        weights = replace(
            weights, V=weights.V.expand(depth, -1, -1), W=weights.W.expand(depth, -1, -1)
        )
        result = gradient(net, weights, x, y)
        features = torch.tanh(result.states[:-1] @ weights.W.mT)
        pairs = [torch.matmul(p.mT, features) for p in (result.adjoints[1:], result.adjoints[:-1])]
        exact = -result.velocity["V"] * x.shape[0] * weights.width
        assert (pairs[0] - exact).norm() < 1e-12 * exact.norm()
        errors.append(float((pairs[1] - exact).norm() / exact.norm()))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.2)


def test_batched_runs_equal_the_loop():
    net = ResidualNet(trained=ALL)
    weights, x, y = random_problem(1, runs=(3,))
    together = gradient(net, weights, x, y)
    for r in range(3):
        alone = gradient(net, weights.run(r), x[r], y[r])
        torch.testing.assert_close(together.loss[r], alone.loss, rtol=1e-13, atol=0)
        for key in ALL:
            torch.testing.assert_close(
                together.velocity[key][r], alone.velocity[key], rtol=1e-11, atol=1e-14
            )


def test_data_without_run_axis_serve_every_run():
    net = ResidualNet(trained=ALL)
    weights, _, _ = random_problem(1, runs=(3,))
    _, x, y = random_problem(2)
    shared = gradient(net, weights, x, y)
    copied = gradient(net, weights, x.expand(3, -1, -1), y.expand(3, -1, -1))
    for key in ALL:
        torch.testing.assert_close(shared.velocity[key], copied.velocity[key])


def test_runs_on_the_device_in_both_precisions(device):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        net = ResidualNet(trained=ALL)
        weights, x, y = random_problem(5)
        exact = gradient(net, weights, x, y)
        moved = weights.to(dtype=dtype, device=device)
        result = gradient(net, moved, x.to(device, dtype), y.to(device, dtype))
        for key in ALL:
            assert result.velocity[key].dtype == dtype
            assert result.velocity[key].device.type == device
            error = (result.velocity[key].double().cpu() - exact.velocity[key]).norm()
            assert error < tolerance * exact.velocity[key].norm()


def test_shapes_that_do_not_fit_are_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    weights, _, _ = random_problem(bias=False)
    with pytest.raises(ValueError, match=r"asks for W ending in \(4, 5, 3\), received \(4, 3, 5\)"):
        replace(weights, W=weights.W.mT)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_constants_of_activations(name):
    sigma = ACTIVATIONS[name]
    z = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    slope = sigma.derivative(z)
    assert float(slope.abs().max()) == pytest.approx(sigma.lipschitz, rel=1e-6)
    if sigma.curvature < float("inf"):
        second = slope.diff() / (z[1] - z[0])
        assert float(second.abs().max()) == pytest.approx(sigma.curvature, rel=1e-4, abs=1e-12)
    if sigma.bound < float("inf"):
        assert float(sigma(z).abs().max()) == pytest.approx(sigma.bound, rel=1e-5)
