"""Gaps between layers and norms: against their formulas written out entry by entry."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from cotflow.measure.observables import gaps, largest_gap, largest_norm, squared_gaps, step_ratio
from cotflow.network.weights import Weights


def random_values(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def weights_of_depth(depth):
    V, W = random_values(depth, 2, 3, seed=0), random_values(depth, 3, 2, seed=1)
    eye = torch.eye(2, dtype=torch.float64)
    return Weights(10 * eye, V, W, eye)


def test_gaps_are_frobenius_norms_of_successive_differences():
    weights = weights_of_depth(4)
    dV, dW = (
        [float((value[k + 1] - value[k]).square().sum()) for k in range(3)]
        for value in (weights.V, weights.W)
    )
    np.testing.assert_allclose(gaps(weights.V), np.sqrt(dV), rtol=1e-14)
    assert float(squared_gaps(weights.V)) == pytest.approx(sum(dV))
    assert float(largest_gap(weights)) == pytest.approx((np.sqrt(dV) + np.sqrt(dW)).max())
    assert float(largest_gap(weights_of_depth(1))) == 0.0


def test_largest_norm_is_over_embeddings_and_layers():
    weights = weights_of_depth(4)
    assert float(largest_norm(weights)) == pytest.approx(math.sqrt(200))
    small = Weights(weights.A / 1e3, weights.V, weights.W, weights.B)
    layers = [float(v.norm() + w.norm()) for v, w in zip(weights.V, weights.W, strict=True)]
    assert float(largest_norm(small)) == pytest.approx(max(layers))


def test_step_ratio_tells_smooth_from_independent_layers():
    independent = step_ratio(random_values(2000, 4, 4))
    assert float(independent) == pytest.approx(math.sqrt(2), rel=0.02)
    ratios = []
    for depth in (64, 128):
        s = torch.linspace(0, 1, depth, dtype=torch.float64).reshape(-1, 1, 1)
        ratios.append(float(step_ratio(torch.sin(3 * s))))
    assert ratios[0] / ratios[1] == pytest.approx(2, rel=0.03)


def test_step_ratio_is_blind_to_shift_and_scale():
    values = random_values(7, 3, 2)
    expected = float(step_ratio(values))
    assert float(step_ratio(5 - 0.01 * values)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 8, 50])
def test_step_ratio_attains_the_ends_of_its_range_and_its_value_on_a_line(depth):
    k = torch.arange(depth, dtype=torch.float64) + 0.5
    slow, fast = (torch.cos(math.pi * j * k / depth) for j in (1, depth - 1))
    angle = math.pi / (2 * depth)
    assert float(step_ratio(slow.reshape(-1, 1, 1))) == pytest.approx(2 * math.sin(angle))
    assert float(step_ratio(fast.reshape(-1, 1, 1))) == pytest.approx(2 * math.cos(angle))
    line = math.sqrt(12 / (depth * (depth + 1)))
    assert float(step_ratio(k.reshape(-1, 1, 1))) == pytest.approx(line)


def test_step_ratio_of_a_random_walk():
    for depth in (6, 24):
        walk = random_values(depth, 200, 200).cumsum(0)
        assert float(step_ratio(walk)) == pytest.approx(math.sqrt(6 / (depth + 1)), rel=0.02)


def test_step_ratio_squared_is_two_on_average_over_all_orders():
    values = torch.cumsum(random_values(5, 2, 3), 0)
    squares = [float(step_ratio(values[list(order)])) ** 2 for order in permutations(range(5))]
    assert sum(squares) / len(squares) == pytest.approx(2, rel=1e-12)


def test_runs_keep_their_axis():
    one = weights_of_depth(4)
    three = one.map(lambda v: torch.stack([v, 2 * v, -v]))
    for observable in (largest_gap, largest_norm):
        expected = float(observable(one)) * np.array([1, 2, 1])
        np.testing.assert_allclose(observable(three), expected, rtol=1e-13)
    np.testing.assert_allclose(step_ratio(three.V), [float(step_ratio(one.V))] * 3, rtol=1e-13)
