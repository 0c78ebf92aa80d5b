"""Conditional optimal transport: metric axioms, exact values, relations between the distances."""

import math
from itertools import permutations

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from cotflow.network.weights import Weights
from cotflow.transport.exact import (
    conditional_distance,
    labelled_distance,
    layer_distances,
    particles,
    product_distance,
)
from problems import family, sizes, width


@given(**sizes, m=width)
def test_distance_is_symmetric_and_zero_to_itself(seed, layers, p, m):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m, p)
    assert float(conditional_distance(mu, mu)) == 0.0
    assert float(conditional_distance(mu, nu)) > 0.0
    torch.testing.assert_close(conditional_distance(mu, nu), conditional_distance(nu, mu))


@given(**sizes, widths=st.tuples(width, width, width))
def test_triangle_inequality(seed, layers, p, widths):
    a, b, c = (family(seed + j, layers, m, p) for j, m in enumerate(widths))
    direct = float(conditional_distance(a, c))
    detour = float(conditional_distance(a, b)) + float(conditional_distance(b, c))
    assert direct <= detour * (1 + 1e-12)


@given(**sizes, m=width)
def test_permuting_particles_inside_a_layer_changes_nothing(seed, layers, p, m):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m, p)
    g = torch.Generator().manual_seed(seed)
    permuted = torch.stack([layer[torch.randperm(m, generator=g)] for layer in mu])
    assert float(conditional_distance(mu, permuted)) < 1e-10
    torch.testing.assert_close(
        conditional_distance(permuted, nu), conditional_distance(mu, nu), rtol=1e-10, atol=0
    )


@given(**sizes, m=st.integers(1, 5))
def test_equals_the_best_of_all_permutations(seed, layers, p, m):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m, p)
    best = [
        min(float((a[list(order)] - b).square().sum(-1).mean()) for order in permutations(range(m)))
        for a, b in zip(mu, nu, strict=True)
    ]
    expected = torch.tensor(best, dtype=torch.float64)
    torch.testing.assert_close(layer_distances(mu, nu), expected.sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        conditional_distance(mu, nu), expected.mean().sqrt(), rtol=1e-12, atol=0
    )


@given(**sizes, m=width)
def test_product_distance_is_below_conditional_below_labelled(seed, layers, p, m):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m, p)
    d = float(conditional_distance(mu, nu))
    assert float(product_distance(mu, nu)) <= d * (1 + 1e-12)
    assert d <= float(labelled_distance(mu, nu)) * (1 + 1e-12)


def test_the_three_distances_are_different():
    """Relabelling atoms is free for d, and exchanging whole layers is cheap for W₂ only."""
    mu = torch.tensor([[[0.0], [4.0]], [[8.0], [12.0]]], dtype=torch.float64)
    nu = torch.tensor([[[12.0], [8.0]], [[4.0], [0.0]]], dtype=torch.float64)
    assert float(labelled_distance(mu, nu)) == pytest.approx(math.sqrt(80))
    assert float(conditional_distance(mu, nu)) == pytest.approx(8.0)
    assert float(product_distance(mu, nu)) == pytest.approx(0.5)


@given(**sizes, m=st.integers(1, 4), copies=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_unequal_widths_equal_duplicated_atoms(seed, layers, p, m, copies):
    """m·c₁ atoms against m·c₂: the general solver and the assignment with c₁c₂ copies agree."""
    assume(copies[0] != copies[1])
    mu, nu = family(seed, layers, m * copies[0], p), family(seed + 1, layers, m * copies[1], p)
    mu_wide = mu.repeat_interleave(copies[1], dim=-2)
    nu_wide = nu.repeat_interleave(copies[0], dim=-2)
    torch.testing.assert_close(
        conditional_distance(mu, nu), conditional_distance(mu_wide, nu_wide), rtol=1e-9, atol=0
    )


@given(**sizes, m=width, copies=st.integers(2, 4))
def test_duplicating_atoms_does_not_move_the_measure(seed, layers, p, m, copies):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m, p)
    # The square of the distance is zero to rounding, the distance to its root.
    assert float(conditional_distance(mu, mu.repeat(1, copies, 1))) < 1e-7
    duplicated = mu.repeat(1, copies, 1), nu.repeat_interleave(copies, dim=-2)
    torch.testing.assert_close(
        conditional_distance(*duplicated), conditional_distance(mu, nu), rtol=1e-10, atol=0
    )


@given(seed=st.integers(0, 2**20), m=st.integers(1, 6))
def test_sorting_in_dimension_one_equals_the_assignment(seed, m):
    """A constant second coordinate sends the same atoms through the assignment solver."""
    mu, nu = family(seed, 2, m, 1), family(seed + 1, 2, m, 1)
    planar = [torch.cat([a, torch.ones_like(a)], dim=-1) for a in (mu, nu)]
    torch.testing.assert_close(
        conditional_distance(mu, nu), conditional_distance(*planar), rtol=1e-12, atol=0
    )


@given(seed=st.integers(0, 2**20), shift=st.floats(-3, 3), scale=st.floats(0.1, 3))
def test_translations_and_dilations_have_their_closed_forms(seed, shift, scale):
    """W₂² = |shift|² for a translation and (scale − 1)² E|ω|² for a dilation: gradient maps."""
    mu = family(seed, 3, 5, 2)
    translated = mu + torch.tensor([shift, 0.0], dtype=torch.float64)
    assert float(conditional_distance(mu, translated)) == pytest.approx(abs(shift), abs=1e-9)
    expected = abs(scale - 1) * float(mu.square().sum(-1).mean().sqrt())
    assert float(conditional_distance(mu, scale * mu)) == pytest.approx(expected, abs=1e-9)


def test_runs_are_independent_families():
    mu, nu = family(0, runs=(2, 3)), family(1, runs=(2, 3))
    together = conditional_distance(mu, nu)
    assert together.shape == (2, 3) and layer_distances(mu, nu).shape == (2, 3, 3)
    for i in range(2):
        for j in range(3):
            assert float(together[i, j]) == float(conditional_distance(mu[i, j], nu[i, j]))
            torch.testing.assert_close(
                labelled_distance(mu, nu)[i, j], labelled_distance(mu[i, j], nu[i, j])
            )


def oscillating(n, layers):
    """Leb ⊗ δ_{sin(2πns)}, one atom a layer at the midpoint s = (k − ½)/L."""
    s = (torch.arange(layers, dtype=torch.float64) + 0.5) / layers
    return torch.sin(2 * math.pi * n * s).reshape(layers, 1, 1)


def test_oscillating_layers_are_far_apart_although_their_product_laws_converge():
    """d(μ_n, μ_m) = 1 for n ≠ m although W₂(μ_n, Leb ⊗ arcsine law) ≤ 1/(√6 n).

    The bound couples s with an independent s′ in the same period and leaves ω where it is.
    """
    layers = 256
    families = {n: oscillating(n, layers) for n in (1, 2, 4, 8)}
    for n, mu in families.items():
        for m, nu in families.items():
            assert float(conditional_distance(mu, nu)) == pytest.approx(float(n != m), abs=1e-12)
    quantiles = torch.sin(math.pi * ((torch.arange(16, dtype=torch.float64) + 0.5) / 16 - 0.5))
    limit = quantiles.reshape(1, 16, 1)
    for n, mu in families.items():
        to_limit = float(product_distance(mu, limit.expand(16, 16, 1)))
        assert 0.01 < to_limit < 1 / (math.sqrt(6) * n)
        away = float(conditional_distance(mu, limit.expand(layers, 16, 1)))
        assert away == pytest.approx(1.0, abs=0.01)


def test_product_distance_between_different_depths():
    """One atom at height 0 in every layer: only the layers' positions are left."""
    coarse = torch.zeros(1, 1, 1, dtype=torch.float64)
    fine = torch.zeros(4, 1, 1, dtype=torch.float64)
    s = np.array([1, 3, 5, 7]) / 8
    assert float(product_distance(coarse, fine)) == pytest.approx(np.sqrt(np.mean((s - 0.5) ** 2)))


@given(seed=st.integers(0, 2**20), m=st.integers(1, 6), m2=st.integers(1, 6))
def test_dominates_the_first_wasserstein_distance(seed, m, m2):
    """W₁ ≤ W₂, with W₁ from an independent implementation."""
    mu, nu = family(seed, 1, m, 1), family(seed + 1, 1, m2, 1)
    first = wasserstein_distance(mu.flatten().numpy(), nu.flatten().numpy())
    assert first <= float(conditional_distance(mu, nu)) * (1 + 1e-12)


def test_particles_are_columns_of_V_with_rows_of_W_and_biases():
    g = torch.Generator().manual_seed(0)
    shapes = {"A": (3, 2), "V": (4, 3, 5), "W": (4, 5, 3), "B": (2, 3), "b": (4, 5)}
    weights = Weights(**{k: torch.randn(s, generator=g) for k, s in shapes.items()})
    atoms = particles(weights)
    assert atoms.shape == (4, 5, 7)
    expected = torch.cat([weights.V[2][:, 1], weights.W[2][1], weights.b[2, 1].reshape(1)])
    assert torch.equal(atoms[2, 1], expected)


@pytest.mark.parametrize("distance", [conditional_distance, layer_distances, labelled_distance])
@pytest.mark.parametrize("shape", [(4, 4, 2), (3, 4, 3), (1, 3, 4, 2)])
def test_shapes_that_do_not_fit_are_named(monkeypatch, distance, shape):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError) as caught:
        distance(family(0), torch.zeros(shape))
    assert "(3, 4, 2)" in str(caught.value) and str(shape) in str(caught.value)


def test_masses_are_those_of_repeated_atoms():
    mu, nu = family(0, width=2), family(1, width=4)
    masses = torch.tensor([0.25, 0.75], dtype=torch.float64).expand(3, 2)
    uniform = torch.full((3, 4), 0.25, dtype=torch.float64)
    repeated = mu[:, [0, 1, 1, 1]]
    torch.testing.assert_close(
        conditional_distance(mu, nu, (masses, uniform)), conditional_distance(repeated, nu)
    )


def test_product_distance_refuses_another_particle_dimension(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError) as caught:
        product_distance(family(0, p=2), family(0, layers=2, p=3))
    assert "(3, 4, 2)" in str(caught.value) and "(2, 4, 3)" in str(caught.value)


def test_a_different_number_of_layers_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError) as caught:
        conditional_distance(family(0, layers=3), family(1, layers=5))
    assert str(caught.value) == (
        "conditional distance: expected two families with the same runs, layers and particle "
        "dimension, received shapes (3, 4, 2) and (5, 4, 2)"
    )


def test_midpoint_layers_tell_frequencies_apart_up_to_half_the_depth():
    """d = 1 between n and m below S/2 exactly; n and S − n are the same network."""
    for n in range(1, 8):
        for m in range(1, n):
            d = float(conditional_distance(oscillating(n, 16), oscillating(m, 16)))
            assert d == pytest.approx(1.0, abs=1e-12)
        assert float(conditional_distance(oscillating(n, 16), oscillating(16 - n, 16))) < 1e-12
