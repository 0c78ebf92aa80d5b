"""Entropic distances: an independent solver, bounds, debiasing, closed form, batches."""

import math

import jaxtyping
import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotflow.transport.entropic import entropic_distance
from cotflow.transport.exact import layer_distances
from problems import family

TIGHT = {"tolerance": 1e-9}


@given(seed=st.integers(0, 2**20), m=st.integers(1, 6), m2=st.integers(1, 6))
@settings(max_examples=15)
def test_batched_equals_POT_layer_by_layer(seed, m, m2):
    epsilon = 1.5
    mu, nu = family(seed, 2, m, 2, (2,)), family(seed + 1, 2, m2, 2, (2,))
    batched = entropic_distance(mu, nu, epsilon, **TIGHT)
    for index in np.ndindex(2, 2):
        a, b = np.full(m, 1 / m), np.full(m2, 1 / m2)
        cost = ot.dist(mu[index].numpy(), nu[index].numpy())
        plan = ot.sinkhorn(
            a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-11, numItermax=50_000
        )
        entropy = float((plan * np.log(plan / np.outer(a, b))).sum())
        transport = float((plan * cost).sum())
        assert float(batched.transport[index]) == pytest.approx(transport, rel=1e-6)
        assert float(batched.value[index]) == pytest.approx(transport + epsilon * entropy, rel=1e-6)


@given(seed=st.integers(0, 2**20), m=st.integers(1, 8), epsilon=st.floats(0.5, 5))
def test_values_are_bracketed(seed, m, epsilon):
    """W₂² ≤ ⟨C, π_ε⟩ ≤ OT_ε ≤ W₂² + ε log m."""
    mu, nu = family(seed, 2, m, 3), family(seed + 1, 2, m, 3)
    squared = layer_distances(mu, nu).square()
    e = entropic_distance(mu, nu, epsilon, tolerance=1e-8)
    slack = 1e-5
    assert bool((squared <= e.transport + slack).all())
    assert bool((e.transport <= e.value + slack).all())
    assert bool((e.value <= squared + epsilon * math.log(m) + slack).all())


@pytest.mark.parametrize("epsilon", [0.8, 2.0, 10.0])
def test_debiased_value_of_translates_is_exact_and_of_equal_measures_is_zero(epsilon):
    mu = family(0, width=8)
    shift = torch.tensor([2.0, -1.0], dtype=torch.float64)
    same = entropic_distance(mu, mu.flip(-2), epsilon, **TIGHT)
    assert float(same.divergence.abs().max()) < 1e-7
    assert float(same.value.min()) > 0
    moved = entropic_distance(mu, mu + shift, epsilon, **TIGHT)
    torch.testing.assert_close(
        moved.divergence, torch.full((3,), 5.0, dtype=torch.float64), rtol=1e-7, atol=0
    )


def test_normal_laws_have_their_closed_form():
    """OT_ε of N(0,a²) and N(0,b²) (Janati et al. 2020), with quantiles for the laws."""
    a, b, epsilon = 1.0, 0.6, 0.8
    tau = epsilon / 2
    root = math.sqrt(4 * a * a * b * b + tau * tau)
    closed = a * a + b * b - root + tau * math.log(root + tau) + tau * (1 - math.log(2 * tau))
    plan_cost = a * a + b * b - root + tau
    quantiles = torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
    mu, nu = (scale * quantiles.reshape(1, -1, 1) for scale in (a, b))
    e = entropic_distance(mu, nu, epsilon)
    assert float(e.value[0]) == pytest.approx(closed, abs=0.005)
    assert float(e.transport[0]) == pytest.approx(plan_cost, abs=0.005)


def test_iterations_grow_as_epsilon_falls():
    mu, nu = family(0, width=8), family(1, width=8)
    counts = [entropic_distance(mu, nu, epsilon).iterations for epsilon in (4.0, 1.0, 0.25)]
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_too_few_iterations_are_an_error_that_tells_the_marginal():
    with pytest.raises(RuntimeError, match=r"a marginal is off by .* after 2 iterations"):
        entropic_distance(family(0), family(1), 0.1, max_iterations=2)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_an_epsilon_that_is_none_is_named(epsilon):
    with pytest.raises(ValueError, match=f"finite epsilon > 0, received {epsilon}"):
        entropic_distance(family(0), family(1), epsilon)


def test_a_different_number_of_layers_is_refused_with_both_shapes(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError) as caught:
        entropic_distance(family(0, layers=3), family(1, layers=5), 1.0)
    assert "(3, 4, 2)" in str(caught.value) and "(5, 4, 2)" in str(caught.value)
