"""Sliced distances: one-dimensional case, bound by the exact distance, batches, Monte Carlo."""

import math

import jaxtyping
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotflow.transport.exact import conditional_distance, layer_distances
from cotflow.transport.sliced import directions, sliced_distance
from problems import family, sizes, width


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plane(count=2000):
    angle = math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def test_directions_are_unit_vectors_with_covariance_one_over_p():
    theta = directions(20_000, 3, generator())
    torch.testing.assert_close(theta.norm(dim=-1), torch.ones(20_000, dtype=torch.float64))
    covariance = theta.mT @ theta / len(theta)
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64) / 3, atol=0.01, rtol=0)


@given(seed=sizes["seed"], layers=sizes["layers"], m=width, m2=width)
def test_on_the_line_it_is_the_exact_distance(seed, layers, m, m2):
    mu, nu = family(seed, layers, m, 1), family(seed + 1, layers, m2, 1)
    sliced = sliced_distance(mu, nu, torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(sliced.squared, conditional_distance(mu, nu).square())


@given(seed=sizes["seed"], layers=sizes["layers"], m=width, m2=width)
def test_in_the_plane_it_is_below_half_the_squared_distance(seed, layers, m, m2):
    """SW₂² ≤ W₂²/p at p = 2, by quadrature over angles, which has no Monte-Carlo error."""
    mu, nu = family(seed, layers, m, 2), family(seed + 1, layers, m2, 2)
    sliced = sliced_distance(mu, nu, plane())
    assert 2 * float(sliced.squared) <= float(conditional_distance(mu, nu).square()) * (1 + 1e-6)


@given(seed=sizes["seed"], m=width)
def test_translates_and_dilations_attain_the_bound(seed, m):
    mu = family(seed, 3, m, 2)
    shift = torch.tensor([1.5, -0.5], dtype=torch.float64)
    for nu in (mu + shift, 1.7 * mu):
        sliced = 2 * sliced_distance(mu, nu, plane()).squared
        torch.testing.assert_close(sliced, conditional_distance(mu, nu).square(), rtol=1e-6, atol=0)


@given(**sizes, m=width, m2=width, runs=st.sampled_from([(), (2,), (2, 1)]))
def test_batched_equals_POT_layer_by_layer(seed, layers, p, m, m2, runs):
    mu, nu = family(seed, layers, m, p, runs), family(seed + 1, layers, m2, p, runs)
    theta = directions(7, p, generator(seed))
    sliced = sliced_distance(mu, nu, theta)
    assert sliced.by_direction.shape == (*runs, 7)
    flat = zip(mu.reshape(-1, m, p), nu.reshape(-1, m2, p), strict=True)
    looped = [
        ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), projections=theta.T.numpy()) ** 2
        for a, b in flat
    ]
    expected = torch.tensor(looped, dtype=torch.float64).reshape(*runs, layers).mean(-1)
    torch.testing.assert_close(sliced.squared, expected, rtol=1e-9, atol=1e-12)


def test_standard_error_is_the_spread_of_the_estimate():
    mu, nu = family(0, width=10), family(1, width=10)
    estimates = [sliced_distance(mu, nu, directions(64, 2, generator(s))) for s in range(200)]
    spread = torch.stack([e.squared for e in estimates]).std()
    typical = torch.stack([e.standard_error for e in estimates]).mean()
    assert float(spread / typical) == pytest.approx(1.0, abs=0.15)
    exact = sliced_distance(mu, nu, plane()).squared
    covered = [abs(float(e.squared - exact)) < 2 * float(e.standard_error) for e in estimates]
    assert sum(covered) > 0.9 * len(covered)


def test_precision_follows_the_families():
    mu, nu = family(0).float(), family(1).float()
    assert sliced_distance(mu, nu, plane(8)).squared.dtype == torch.float32


def test_a_different_number_of_layers_is_refused_with_both_shapes(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError) as caught:
        sliced_distance(family(0, layers=3), family(1, layers=5), plane(8))
    assert "(3, 4, 2)" in str(caught.value) and "(5, 4, 2)" in str(caught.value)


def test_equal_measures_have_distance_zero():
    mu = family(0)
    assert float(sliced_distance(mu, mu.flip(-2), plane(16)).squared) < 1e-28
    assert float(layer_distances(mu, mu.flip(-2)).max()) == 0.0
