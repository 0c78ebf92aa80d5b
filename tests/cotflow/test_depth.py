"""Weights as functions of the depth variable: interpolation, common refinements, distances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotflow.limits.depth import distance_to_reference, interpolate, linear_weights, overlap

NODES = ("ends", "midpoints", "starts")
unit = st.floats(0.0, 1.0)


def random_values(depth, seed=0, runs=(), shape=(2, 3)):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*runs, depth, *shape, generator=g, dtype=torch.float64)


def node(k, depth, nodes):
    return {"ends": k / max(depth - 1, 1), "midpoints": (k + 0.5) / depth, "starts": k / depth}[
        nodes
    ]


@given(depth=st.integers(1, 40), s=unit, nodes=st.sampled_from(NODES))
def test_interpolation_never_extrapolates(depth, s, nodes):
    left, right, theta = linear_weights(depth, s, nodes)
    assert 0 <= left <= right <= min(left + 1, depth - 1)
    assert 0.0 <= theta <= 1.0
    values = random_values(depth)
    at = interpolate(values, s, nodes)
    low, high = values.amin(0), values.amax(0)
    assert bool(((at >= low - 1e-12) & (at <= high + 1e-12)).all())


@pytest.mark.parametrize("depth", [3, 5, 10])
def test_one_layer_too_low_would_extrapolate_between_the_nodes(depth):
    """k = int(tL − 1), the fault of a released code, gives (−½, 3/2) in the second interval."""

    def trap(t):
        """Z(t) = (1 − tL + k) Z_k + (tL − k) Z_{k+1} with k = int(tL − 1)."""
        k = int(t * depth - 1)
        return k, 1 - t * depth + k, t * depth - k

    t = 1.5 / depth
    assert trap(t) == pytest.approx((0, -0.5, 1.5))
    assert linear_weights(depth, t, "starts") == pytest.approx((1, 2, 0.5))
    values = random_values(depth)
    extrapolated = -0.5 * values[0] + 1.5 * values[1]
    for nodes in NODES:
        assert float((interpolate(values, t, nodes) - extrapolated).norm()) > 0.1
    assert torch.equal(interpolate(values, t, "starts"), torch.lerp(values[1], values[2], 0.5))


@given(depth=st.integers(2, 40), s=unit, nodes=st.sampled_from(NODES))
def test_interpolation_is_exact_on_affine_functions(depth, s, nodes):
    at_nodes = torch.tensor([node(k, depth, nodes) for k in range(depth)], dtype=torch.float64)
    values = 2.0 - 3.0 * at_nodes.reshape(-1, 1, 1)
    inside = min(max(s, float(at_nodes[0])), float(at_nodes[-1]))
    assert float(interpolate(values, s, nodes)) == pytest.approx(2.0 - 3.0 * inside, abs=1e-12)


@given(depth=st.integers(1, 40), nodes=st.sampled_from(NODES))
def test_interpolation_returns_the_layers_at_their_nodes(depth, nodes):
    values = random_values(depth)
    for k in range(depth):
        torch.testing.assert_close(interpolate(values, node(k, depth, nodes), nodes), values[k])


def test_interpolation_keeps_the_run_axes():
    values = random_values(4, runs=(2,))
    assert torch.equal(interpolate(values, 0.3)[1], interpolate(values[1], 0.3))


@pytest.mark.parametrize("s", [-1e-9, 1.0 + 1e-9, math.nan])
def test_depth_variable_outside_the_unit_interval_is_refused(s):
    with pytest.raises(ValueError, match="expected 0 ≤ s ≤ 1, received"):
        linear_weights(5, s)


@given(depth=st.integers(1, 30), reference=st.integers(1, 30))
def test_overlap_lengths_sum_to_one(depth, reference):
    pieces = overlap(depth, reference)
    assert float(pieces.length.sum()) == pytest.approx(1.0, abs=1e-13)
    assert bool((pieces.length[:-1] > 0).all())
    assert set(pieces.first.tolist()) == set(range(depth))
    assert set(pieces.second.tolist()) == set(range(reference))


def step_function(values, numerator, denominator):
    """Z_{⌊(L−1)s⌋+1} at s = numerator/denominator, in integers; layer k is index k − 1."""
    return values[((len(values) - 1) * numerator) // denominator]


@given(depth=st.integers(1, 9), reference=st.integers(1, 9), seed=st.integers(0, 2**20))
def test_distance_equals_a_fine_grid(depth, reference, seed):
    """Midpoints of a grid that contains every breakpoint integrate step functions exactly."""
    values, other = random_values(depth, seed), random_values(reference, seed + 1)
    cells = math.lcm(max(depth - 1, 1), max(reference - 1, 1))
    squared = np.array(
        [
            float(
                (step_function(values, j, 2 * cells) - step_function(other, j, 2 * cells))
                .square()
                .sum()
            )
            for j in range(2 * cells + 1)
        ]
    )
    result = distance_to_reference(values, other)
    assert float(result.l2) == pytest.approx(math.sqrt(squared[1::2].mean()), rel=1e-12)
    assert float(result.sup) == pytest.approx(math.sqrt(squared.max()), rel=1e-12)


@given(depth=st.integers(1, 20), reference=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_mean_square_is_below_the_supremum(depth, reference, seed):
    values, other = random_values(depth, seed), random_values(reference, seed + 1)
    there, back = distance_to_reference(values, other), distance_to_reference(other, values)
    assert float(there.l2) <= float(there.sup) * (1 + 1e-12)
    torch.testing.assert_close(there.l2, back.l2)
    torch.testing.assert_close(there.sup, back.sup)


def test_distance_to_itself_is_zero():
    values = random_values(7)
    result = distance_to_reference(values, values)
    assert float(result.l2) == float(result.sup) == 0.0


def test_supremum_sees_the_last_layer_alone():
    """Layer L is met at the single point s = 1: no part of the integral, but of the supremum."""
    values, other = torch.zeros(4, 1, 1), torch.zeros(4, 1, 1)
    other[-1] = 3.0
    result = distance_to_reference(values, other)
    assert (float(result.l2), float(result.sup)) == (0.0, 3.0)


def test_depth_one_is_constant_in_s():
    values, other = random_values(1), random_values(3, seed=1)
    result = distance_to_reference(values, other)
    each = (values - other).square().sum((-2, -1))
    assert float(result.l2) == pytest.approx(math.sqrt(float(each[:2].mean())))
    assert float(result.sup) == pytest.approx(math.sqrt(float(each.max())))
    for nodes in NODES:
        assert torch.equal(interpolate(values, 0.7, nodes), values[0])


def test_batched_runs_equal_the_loop(device):
    values = random_values(4, runs=(3,)).to(device)
    other = random_values(9, seed=1, runs=(3,)).to(device)
    together = distance_to_reference(values, other)
    for r in range(3):
        alone = distance_to_reference(values[r], other[r])
        torch.testing.assert_close(together.l2[r], alone.l2)
        torch.testing.assert_close(together.sup[r], alone.sup)
