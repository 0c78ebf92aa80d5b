"""Geodesics of the conditional distance: ends, constant speed, action, and nothing along s."""

import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotflow.transport.exact import (
    conditional_distance,
    labelled_distance,
    on_product,
    product_distance,
)
from cotflow.transport.geodesics import geodesic
from problems import family, sizes, width

times = st.tuples(st.floats(0, 1), st.floats(0, 1))


def distance_along(path, t, t2):
    return conditional_distance(path.at(t), path.at(t2), (path.masses, path.masses))


@given(**sizes, m=width, m2=width, pair=times)
def test_speed_is_constant(seed, layers, p, m, m2, pair):
    """d(μ_t, μ_t′) = |t − t′| d(μ_0, μ_1), with distances solved anew, for any two widths."""
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m2, p)
    path, d = geodesic(mu, nu), float(conditional_distance(mu, nu))
    expected = abs(pair[0] - pair[1]) * d
    assert float(distance_along(path, *pair)) == pytest.approx(expected, rel=1e-9, abs=1e-7)


@given(**sizes, m=width, m2=width)
def test_action_is_the_squared_distance(seed, layers, p, m, m2):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m2, p)
    path = geodesic(mu, nu)
    torch.testing.assert_close(path.action, conditional_distance(mu, nu).square())
    torch.testing.assert_close(path.masses.sum(-1), torch.ones(layers, dtype=torch.float64))
    assert path.masses.shape[-1] <= max(m + m2 - 1, m)


@given(**sizes, m=width, m2=width)
def test_ends_are_the_two_measures(seed, layers, p, m, m2):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m2, p)
    path = geodesic(mu, nu)
    for t, end in ((0.0, mu), (1.0, nu)):
        count = end.shape[-2]
        uniform = torch.full((layers, count), 1 / count, dtype=torch.float64)
        assert float(conditional_distance(path.at(t), end, (path.masses, uniform))) < 1e-7


@given(**sizes, m=width)
def test_equal_widths_keep_the_order_of_the_start_and_permute_the_end(seed, layers, p, m):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m, p)
    path = geodesic(mu, nu)
    assert torch.equal(path.at(0.0), mu)
    assert torch.equal(path.at(1.0).sort(-2).values, nu.sort(-2).values)
    assert float(labelled_distance(path.at(0.0), path.at(1.0))) == pytest.approx(
        float(conditional_distance(mu, nu))
    )


def test_runs_are_independent_geodesics():
    mu, nu = family(0, runs=(2, 3)), family(1, width=6, runs=(2, 3))
    together = geodesic(mu, nu)
    for i in range(2):
        for j in range(3):
            alone = geodesic(mu[i, j], nu[i, j])
            torch.testing.assert_close(together.action[i, j], alone.action)
            torch.testing.assert_close(
                conditional_distance(
                    together.at(0.3)[i, j], alone.at(0.3), (together.masses[i, j], alone.masses)
                ),
                torch.zeros((), dtype=torch.float64),
                atol=1e-7,
                rtol=0,
            )


def test_a_translation_moves_every_particle_by_the_same_vector():
    mu = family(0)
    shift = torch.tensor([3.0, -1.0], dtype=torch.float64)
    path = geodesic(mu, mu + shift)
    torch.testing.assert_close(path.velocity, shift.expand_as(mu))
    torch.testing.assert_close(path.at(0.25), mu + 0.25 * shift)


def test_on_the_product_particles_change_layer_and_the_action_is_smaller():
    """Two layers that exchange their particles: along s that costs (1/2)² per particle."""
    mu = torch.tensor([[[0.0]], [[5.0]]], dtype=torch.float64)
    nu = mu.flip(0)
    inside, across = geodesic(mu, nu), geodesic(on_product(mu), on_product(nu))
    assert float(inside.action) == pytest.approx(25.0)
    assert float(across.action) == pytest.approx(0.25)
    assert float(product_distance(mu, nu)) == pytest.approx(0.5)
    assert across.velocity[0, :, 0].abs().tolist() == [0.5, 0.5]


def test_stretching_the_depth_far_enough_keeps_layers():
    """W of cost λ|s−s′|² + |ω−ω′|² increases to d, and is d from λ = (L D)² on."""
    mu, nu = family(0, layers=4), family(1, layers=4)
    d = float(conditional_distance(mu, nu))
    reach = float(torch.cdist(mu, nu).max())
    values = []
    for factor in (0.0, 0.3, 1.0, 3.0, 4 * reach):
        scale = torch.tensor([factor, 1.0, 1.0], dtype=torch.float64)
        stretched = conditional_distance(on_product(mu) * scale, on_product(nu) * scale)
        values.append(float(stretched))
    assert values == sorted(values) and values[0] < d
    assert values[-1] == pytest.approx(d, rel=1e-12)


@pytest.mark.parametrize("t", [-0.1, 1.5, math.nan])
def test_a_time_outside_the_unit_interval_is_named(t):
    with pytest.raises(ValueError, match=f"0 ≤ t ≤ 1, received {t}"):
        geodesic(family(0), family(1)).at(t)


def test_a_different_number_of_layers_is_refused_with_both_shapes(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError) as caught:
        geodesic(family(0, layers=3), family(1, layers=5))
    assert "same runs, layers and particle dimension" in str(caught.value)
    assert "(3, 4, 2)" in str(caught.value) and "(5, 4, 2)" in str(caught.value)
