"""A net run at another depth: places of the layers, errors of both rules, the leading term."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cotflow.bounds.layer_maps import secants
from cotflow.limits.neural_ode import integrate
from cotflow.limits.refinement import (
    acceleration,
    hidden_states,
    layer_at,
    leading_difference,
    refine,
)
from cotflow.measure.rates import loglog_slope
from cotflow.network.tensors import Tensors

RULES = ("constant", "linear")
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Pair(Tensors):
    V: Tensor
    W: Tensor


def residual(layer, h):
    return torch.tanh(h @ layer.W.mT) @ layer.V.mT / 3


def layered(layers):
    return lambda k, h: residual(layers.map(lambda v: v[k]), h)


def run(layers, h0):
    return hidden_states(layered(layers), len(layers.V), h0)


def rough(depth, seed=0):
    return Pair(draw(depth, 3, 4, seed=seed), draw(depth, 4, 3, seed=seed + 1))


def smooth(depth):
    s = torch.arange(depth, dtype=torch.float64).reshape(-1, 1, 1) / depth
    V, W = draw(3, 4, seed=2), draw(4, 3, seed=3)
    return Pair(torch.cos(2 * s) * V, W + s * draw(4, 3, seed=4))


H0 = draw(5, 3, seed=9)


@given(depth=st.integers(1, 12), other=st.integers(1, 40), rule=st.sampled_from(RULES))
def test_refined_layers_are_the_function_at_their_starts(depth, other, rule):
    values = draw(depth, 2)
    refined = refine(values, other, rule)
    for j in range(other):
        if rule == "constant":
            assert torch.equal(refined[j], values[j * depth // other])
            assert torch.equal(refined[j], layer_at(values, j / other, rule))
        else:
            torch.testing.assert_close(refined[j], layer_at(values, j / other, rule))


def test_nodes_belong_to_the_layer_that_starts_there():
    """15/22 · 22 is below 15 in floating point."""
    for depth in range(1, 60):
        values = torch.arange(depth, dtype=torch.float64)
        found = [float(layer_at(values, k / depth, "constant")) for k in range(depth)]
        assert found == values.tolist()


@given(depth=st.integers(1, 12), factor=st.integers(1, 6), rule=st.sampled_from(RULES))
def test_given_layers_stay_to_the_bit_at_multiples_of_the_depth(depth, factor, rule):
    values = draw(depth, 2, 3)
    assert torch.equal(refine(values, factor * depth, rule)[::factor], values)
    deep = draw(factor * depth, 2, 3)
    assert torch.equal(refine(deep, depth, rule), deep[::factor])


@given(depth=st.integers(1, 30), other=st.integers(1, 90), rule=st.sampled_from(RULES))
def test_refinement_never_extrapolates(depth, other, rule):
    """k = int(sL − 1) rounds towards zero and would give weights (−½, 3/2) before a node."""
    refined = refine(torch.arange(depth, dtype=torch.float64), other, rule)
    assert float(refined[0]) == 0.0
    assert bool((refined.diff() >= 0).all())
    assert float(refined[-1]) <= depth - 1


def test_halfway_layers_are_means_and_the_last_is_held():
    values = torch.tensor([1.0, 3.0, 7.0])
    assert refine(values, 6).tolist() == [1.0, 2.0, 3.0, 5.0, 7.0, 7.0]
    assert refine(values, 6, "constant").tolist() == [1.0, 1.0, 3.0, 3.0, 7.0, 7.0]
    assert float(layer_at(values, 1.0)) == float(layer_at(values, 1.0, "constant")) == 7.0


@pytest.mark.parametrize("rule", RULES)
def test_any_axis_may_be_that_of_depth(rule):
    values = draw(2, 4, 3)
    for dim in (1, -2):
        assert torch.equal(refine(values, 7, rule, dim)[1], refine(values[1], 7, rule))
        assert torch.equal(layer_at(values, 0.4, rule, dim)[1], layer_at(values[1], 0.4, rule))


def test_a_net_without_layers_is_refused():
    with pytest.raises(ValueError, match="expected a depth ≥ 1, received 0"):
        refine(draw(3), 0)


def lipschitz(layers):
    """A bound of each layer's Lipschitz constant."""
    norm = torch.linalg.matrix_norm
    return norm(layers.V, 2) * norm(layers.W, 2) / 3


@pytest.mark.parametrize("factor", [2, 3, 8])
@pytest.mark.parametrize("depth", [1, 4, 16])
def test_constant_refinement_of_rough_weights_stays_below_its_bound(depth, factor):
    for seed in range(5):
        layers = rough(depth, seed=10 * seed)
        states = run(layers, H0)
        fine = run(layers.map(lambda v: refine(v, factor * depth, "constant")), H0)
        error = (fine[::factor] - states).norm(dim=-1)
        speed = depth * (states[1:] - states[:-1]).norm(dim=-1).amax(0)
        rate = float(lipschitz(layers).mean())
        bound = (1 - 1 / factor) * math.expm1(rate) * speed / (2 * depth)
        assert bool((error <= bound * (1 + 1e-12)).all())


@pytest.mark.parametrize("depth", [1, 4, 16])
def test_bound_of_halved_steps_holds_with_secants_from_the_given_states(depth):
    for seed in range(5):
        layers = rough(depth, seed=10 * seed)
        states = run(layers, H0)
        fine = run(layers.map(lambda v: refine(v, 2 * depth, "constant")), H0)
        f, start = layered(layers), states[:-1]
        rates = secants(f, start, fine[1::2]).fmax(secants(f, start, fine[:-1:2])).mean(0)
        speed = depth * (states[1:] - states[:-1]).norm(dim=-1).amax(0)
        bound = torch.expm1(rates) * speed / (4 * depth)
        assert bool(((fine[::2] - states).norm(dim=-1) <= bound * (1 + 1e-12)).all())


def test_bound_of_constant_refinement_is_sharp_for_small_rates():
    """f(h) = λh: the difference over the bound tends to 1 as λ → 0, at every factor."""
    rate, depth = 1e-4, 4
    coarse = (1 + rate / depth) ** depth
    for factor in (2, 4):
        fine = (1 + rate / (factor * depth)) ** (factor * depth)
        speed = rate * (1 + rate / depth) ** (depth - 1)
        bound = (1 - 1 / factor) * math.expm1(rate) * speed / (2 * depth)
        assert (fine - coarse) / bound == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("factor", [2, 4])
def test_leading_difference_leaves_a_remainder_of_second_order(factor):
    depths, remainders = [16, 32, 64, 128], []
    for depth in depths:
        layers = smooth(depth)
        states = run(layers, H0)
        fine = run(layers.map(lambda v, d=depth: refine(v, factor * d, "constant")), H0)
        leading = (1 - 1 / factor) * leading_difference(layered(layers), states)[-1]
        remainders.append(float((fine[-1] - states[-1] - leading).norm()))
    assert loglog_slope(depths, remainders).slope == pytest.approx(-2, abs=0.1)


def test_linear_refinement_converges_for_smooth_weights_only():
    def slope(layers_of):
        depths, errors = [32, 64, 128, 256], []
        for depth in depths:
            layers = layers_of(depth)
            fine = run(layers.map(lambda v, d=depth: refine(v, 2 * d)), H0)
            errors.append(float((fine[-1] - run(layers, H0)[-1]).norm()))
        return loglog_slope(depths, errors).slope

    def relabelled(depth):
        layers, g = smooth(depth), torch.Generator().manual_seed(0)
        orders = [torch.randperm(4, generator=g) for _ in range(depth)]
        V = torch.stack([v[:, o] for v, o in zip(layers.V, orders, strict=True)])
        W = torch.stack([w[o] for w, o in zip(layers.W, orders, strict=True)])
        torch.testing.assert_close(run(Pair(V, W), H0), run(layers, H0))
        return Pair(V, W)

    def rough_where_linear(depth):
        return Pair(draw(depth, 3, 4, seed=depth), smooth(depth).W)

    assert slope(smooth) == pytest.approx(-1, abs=0.1)
    assert slope(rough_where_linear) < -0.8
    assert slope(relabelled) > -0.3


@pytest.mark.parametrize("depth", [1, 5, 32])
def test_alternating_signs_end_at_a_third_of_the_exponent(depth):
    a, h = 1.5, torch.ones(1, dtype=torch.float64)
    v = (-1.0) ** torch.arange(depth, dtype=torch.float64)
    end = integrate(lambda s, x: a * layer_at(v, s) ** 2 * x, h, ENDS).states[-1]
    assert float(end) == pytest.approx(math.exp(a * (1 / 3 + 2 / (3 * depth))), rel=1e-5)


def test_acceleration_is_the_second_derivative_of_the_solution():
    layers = smooth(2)
    layer, slope = (
        layers.map(lambda v: v[0]),
        layers.map(lambda v: 2 * (v[1] - v[0])),
    )

    def f(s, h):
        return residual(layers.map(lambda v: layer_at(v, s)), h)

    step = 1e-3
    times = torch.tensor([0.2 - step, 0.2, 0.2 + step], dtype=torch.float64)
    start = torch.cat([torch.zeros(1, dtype=torch.float64), times])
    x = integrate(f, H0, start, tolerance=1e-12).states[1:]
    at = layer.map(lambda a, b: a + 0.2 * b, slope)
    second = (x[0] - 2 * x[1] + x[2]) / step**2
    torch.testing.assert_close(
        acceleration(residual, at, slope, x[1]), second, rtol=1e-4, atol=1e-5
    )
