"""Lipschitz bounds of layers and Jacobians of the whole network, against independent means."""

import pytest
import torch

from cotflow.bounds.layer_maps import jacobians, layer_lipschitz
from cotflow.network.activations import ACTIVATIONS, IDENTITY, RELU, TANH
from cotflow.network.initial import Sizes, tied
from cotflow.network.residual import ResidualNet, marion_net, mean_field_net
from cotflow.network.weights import Weights, stack


def draw(depth, width, state, seed, b=False):
    g = torch.Generator().manual_seed(seed)
    shape = {"generator": g, "dtype": torch.float64}
    eye = torch.eye(state, dtype=torch.float64)
    return Weights(
        eye,
        torch.randn(depth, state, width, **shape),
        torch.randn(depth, width, state, **shape),
        eye,
        torch.randn(depth, width, **shape) if b else None,
    )


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("make", [marion_net, mean_field_net])
def test_no_pair_of_states_is_stretched_beyond_the_lipschitz_bound(name, make):
    net = make(ACTIVATIONS[name])
    weights = draw(3, 5, 4, seed=1, b=True)
    bound = layer_lipschitz(net, weights)
    g = torch.Generator().manual_seed(2)
    h = torch.randn(200, 4, generator=g, dtype=torch.float64)
    other = h + 0.1 * torch.randn(200, 4, generator=g, dtype=torch.float64)
    for k in range(3):
        moved = (net.residual(weights, k, h) - net.residual(weights, k, other)).norm(dim=-1)
        assert (moved / (h - other).norm(dim=-1)).max() <= bound[k] * (1 + 1e-12)


def test_bound_is_the_operator_norm_for_linear_layers():
    net = ResidualNet(IDENTITY, "none", "none")
    V = torch.diag(torch.tensor([3.0, -8.0], dtype=torch.float64)).expand(4, 2, 2)
    eye = torch.eye(2, dtype=torch.float64)
    assert layer_lipschitz(net, Weights(eye, V, eye.expand(4, 2, 2), eye)).tolist() == [2.0] * 4


@pytest.mark.parametrize("net", [mean_field_net(TANH), marion_net(TANH)])
def test_jacobian_is_the_finite_difference_of_every_run(net):
    runs = [draw(6, 5, 3, seed, b=True) for seed in (3, 4)]
    h = torch.randn(7, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = jacobians(net, stack(runs), h)
    for weights, J in zip(runs, found, strict=True):
        for j in range(3):
            step = 1e-6 * torch.eye(3, dtype=torch.float64)[j]
            column = (net(weights, h + step) - net(weights, h - step)) / 2e-6
            assert torch.allclose(J[..., j], column, rtol=1e-6, atol=1e-8)


def test_embeddings_do_not_enter_the_jacobian():
    net, weights = mean_field_net(TANH), tied(Sizes(4, 5, 3, 2, 1), torch.Generator())
    h = torch.zeros(2, 3, dtype=torch.float64)
    assert torch.equal(
        jacobians(net, weights, h), torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    )


def test_one_relu_layer_of_norm_two_reflects_the_plane():
    net = ResidualNet(RELU, "none", "none")
    V = torch.tensor([[[0.0, 0.0], [-2.0, 2.0]]], dtype=torch.float64)
    W = torch.tensor([[[0.0, 1.0], [0.0, -1.0]]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    weights = Weights(eye, V, W, eye)
    h = torch.tensor([[1.0, 0.5], [-2.0, -3.0]], dtype=torch.float64)
    assert torch.equal(net(weights, h), h * torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert torch.linalg.det(jacobians(net, weights, h)).tolist() == [-1.0, -1.0]
    assert layer_lipschitz(net, weights).item() >= 2.0
