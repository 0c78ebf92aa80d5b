"""The field at particles of the network and at particles without mass."""

import pytest
import torch

from cotflow import GELU, Weights, gradient, marion_net, mean_field_net
from cotflow.field import field


def draw(width, depth=3, q=3, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weights = Weights(
        normal(q, 2), normal(depth, q, width), normal(depth, width, q), normal(2, q),
        normal(depth, width),
    )  # fmt: skip
    return weights, normal(5, 2), normal(5, 2)


@pytest.mark.parametrize("make", [mean_field_net, marion_net], ids=lambda make: make.__name__)
def test_field_at_the_own_particles_is_minus_their_velocity(make):
    net = make(GELU, trained=("V", "W", "b"), metric="particle")
    weights, x, y = draw(4)
    sweep = gradient(net, weights, x, y)
    found = field(net, sweep, 4, weights)
    assert set(found) == {"V", "W", "b"}
    for name, value in found.items():
        torch.testing.assert_close(value, -sweep.velocity[name], rtol=1e-11, atol=1e-13)


def test_field_is_the_derivative_of_the_risk_when_a_little_mass_is_added():
    """Mass ε at ω changes the risk by ε·g(ω) + O(ε²); ∇R = S·D_ω g for a layer of S."""
    net = mean_field_net(GELU)
    weights, x, y = draw(4)
    probe = draw(1, seed=1)[0]
    found = field(net, gradient(net, weights, x, y), 4, probe)
    k, j, eps, h = 1, 2, 1e-5, 1e-4

    def first_variation(shift):
        """S/2ε times the change of the risk over masses ±ε, placed through u: φ is linear in u."""
        risks = []
        for mass in (eps, -eps):
            V = torch.cat([weights.V, torch.zeros_like(probe.V)], -1)
            V[..., :4] *= 5 / 4
            V[k, :, 4] = 5 * mass * probe.V[k, :, 0]
            W = torch.cat([weights.W, probe.W], -2)
            W[k, 4, j] += shift
            b = torch.cat([weights.b, probe.b], -1)
            risks.append(float(net.loss(Weights(weights.A, V, W, weights.B, b), x, y)))
        return weights.depth * (risks[0] - risks[1]) / (2 * eps)

    measured = (first_variation(h) - first_variation(-h)) / (2 * h)
    assert measured == pytest.approx(float(found["W"][k, 0, j]), rel=1e-5)


def test_one_run_of_the_network_serves_many_runs_of_the_probe():
    net = mean_field_net(GELU)
    weights, x, y = draw(4)
    sweep = gradient(net, weights, x, y)
    probes = [draw(2, seed=s)[0] for s in (1, 2)]
    both = Weights(
        *[torch.stack([getattr(p, name) for p in probes]) for name in ("A", "V", "W", "B", "b")]
    )
    found = field(net, sweep, 4, both)
    for i, probe in enumerate(probes):
        for name, value in field(net, sweep, 4, probe).items():
            torch.testing.assert_close(found[name][i], value, rtol=1e-13, atol=0)


def test_probe_of_another_depth_is_refused():
    net = mean_field_net(GELU)
    weights, x, y = draw(4)
    sweep = gradient(net, weights, x, y)
    with pytest.raises(ValueError, match="depth 3, received 2"):
        field(net, sweep, 4, draw(4, depth=2)[0])
