"""Activations made again backwards: errors, bounds, gradients, and what autograd keeps."""

import math

import pytest
import torch
from torch.func import jacrev

from cotflow.bounds.layer_maps import jacobian_norms, sample_norms, secants
from cotflow.limits.refinement import hidden_states
from cotflow.limits.reversal import KeptTensors, backpropagate, reconstruct, reconstruction_bound
from cotflow.measure.rates import loglog_slope


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(depth, seed=0):
    """Independent layers, and the residual that reads them."""
    V, W = draw(depth, 3, 4, seed=seed), draw(depth, 4, 3, seed=seed + 1)
    parameters = [
        (v.clone().requires_grad_(), w.clone().requires_grad_()) for v, w in zip(V, W, strict=True)
    ]

    def f(k, h):
        v, w = parameters[k]
        return torch.tanh(h @ w.mT) @ v.mT / 3

    return f, parameters


H0 = draw(5, 3, seed=9)


def test_reconstruction_of_linear_layers_is_a_product():
    rate, depth = 0.7, 8
    last = (1 + rate / depth) ** depth * H0
    rebuilt = reconstruct(lambda k, h: rate * h, depth, last)
    assert torch.equal(rebuilt[-1], last)
    torch.testing.assert_close(rebuilt[0], (1 - (rate / depth) ** 2) ** depth * H0)


@pytest.mark.parametrize("depth", [1, 4, 32])
def test_reconstruction_error_is_below_its_bound_with_secants(depth):
    for seed in range(10):
        f, _ = net(depth, seed=10 * seed)
        states = hidden_states(f, depth, H0)
        rebuilt = reconstruct(f, depth, states[-1])
        speeds = depth * sample_norms(states[1:] - states[:-1], 2)
        rates = secants(f, states[:-1], rebuilt[1:])
        bound = reconstruction_bound(rates, speeds)
        assert bool((sample_norms(rebuilt - states, 2) <= bound * (1 + 1e-9)).all())
        closed = torch.expm1(rates.mean(0)) * speeds.amax(0) / depth
        assert bool((bound <= closed * (1 + 1e-12)).all())


def test_reconstruction_and_its_gradients_are_of_order_one_for_rough_weights():
    depths, activations, gradients = [16, 32, 64, 128, 256], [], []
    for depth in depths:
        errors = []
        for seed in range(8):
            f, parameters = net(depth, seed=1000 * seed)
            states = hidden_states(f, depth, H0)
            rebuilt = reconstruct(f, depth, states[-1])
            exact = backpropagate(f, parameters, states[-1], states[-1], states)
            other = backpropagate(f, parameters, states[-1], states[-1])
            off = [
                depth * (a - b).norm()
                for x, y in zip(exact.gradients, other.gradients, strict=True)
                for a, b in zip(x, y, strict=True)
            ]
            errors.append([float((rebuilt - states).norm(dim=-1).max()), float(max(off))])
        mean = torch.tensor(errors).mean(0)
        activations.append(float(mean[0]))
        gradients.append(float(mean[1]))
    assert loglog_slope(depths, activations).slope < -0.9
    assert loglog_slope(depths, gradients).slope < -0.9


def test_sweep_with_states_is_the_gradient_of_autograd():
    depth = 6
    f, parameters = net(depth)
    h = start = H0.clone().requires_grad_()
    for k in range(depth):
        h = h + f(k, h) / depth
    flat = [p for row in parameters for p in row]
    expected = torch.autograd.grad(h.square().sum() / 2, [start, *flat])
    states = hidden_states(f, depth, H0)
    sweep = backpropagate(f, parameters, states[-1], states[-1], states)
    torch.testing.assert_close(sweep.adjoint, expected[0])
    found = [g for row in sweep.gradients for g in row]
    for g, e in zip(found, expected[1:], strict=True):
        torch.testing.assert_close(g, e)


def test_kept_tensors_grow_with_the_depth_only_where_activations_are_stored():
    stored, rebuilt = [], []
    for depth in (4, 8, 16):
        f, parameters = net(depth)
        weights = [p for row in parameters for p in row]
        with KeptTensors(weights) as counter:
            h = H0.clone().requires_grad_()
            for k in range(depth):
                h = h + f(k, h) / depth
        assert counter.now == counter.peak
        stored.append(counter.peak)
        del h
        assert counter.now == 0
        with KeptTensors(weights) as counter:
            backpropagate(f, parameters, H0, H0)
        assert counter.now == 0
        rebuilt.append(counter.peak)
    assert stored[1] - stored[0] == (stored[2] - stored[1]) / 2 > 0
    assert rebuilt[0] == rebuilt[1] == rebuilt[2] > 0


def test_power_iteration_finds_the_norms_of_the_jacobians_from_below():
    depth = 3
    f, _ = net(depth)
    states = hidden_states(f, depth, H0)
    found = {n: jacobian_norms(f, states, n, torch.Generator().manual_seed(0)) for n in (2, 5, 200)}
    for k in range(depth):
        for i in range(len(H0)):
            jacobian = jacrev(lambda h, k=k: f(k, h))(states[k, i])
            exact = float(torch.linalg.matrix_norm(jacobian.detach(), 2))
            assert float(found[2][k, i]) <= float(found[5][k, i]) + 1e-12 <= exact + 1e-11
            assert float(found[200][k, i]) == pytest.approx(exact, rel=1e-6)


def test_runs_on_more_axes_are_samples():
    f, _ = net(2)
    states = hidden_states(f, 2, draw(2, 5, 3))
    rates = secants(f, states[:-1], states[1:], batch=2)
    assert rates.shape == (2, 2, 5)
    torch.testing.assert_close(rates[:, 1], secants(f, states[:-1, 1], states[1:, 1]))


def test_secant_of_equal_states_is_not_a_number():
    assert math.isnan(float(secants(lambda k, h: h, H0[None, :1], H0[None, :1])))
