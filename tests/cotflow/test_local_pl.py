"""The constants of [M] Prop. 5 and Thm 6, and the local PL bound around a start with V = 0."""

import math
from dataclasses import replace

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotflow.adjoint.gradient import gradient
from cotflow.bounds.local_pl import (
    FEATURE_EXPONENT,
    feature_failure,
    least_feature_singular_values,
    pl_constant,
    proposition_5,
    proposition_8,
    start_constant,
    start_norms,
    theorem_6,
)
from cotflow.bounds.pl_search import into_ball, smallest_pl
from cotflow.flows.flow import gradient_flow
from cotflow.network.activations import COS, GELU, RELU, TANH
from cotflow.network.initial import Sizes, independent, tied
from cotflow.network.published import gaussian_data
from cotflow.network.residual import marion_net, mean_field_net


def problem(seed, n, d, dy, m, depth, activation=TANH, law=tied, **options):
    g = torch.Generator().manual_seed(seed)
    weights = law(Sizes(depth, m, d + dy, d, dy), g)
    x, y = gaussian_data(n, d, dy, g)
    x = x * math.sqrt(d + dy) / x.norm(dim=-1, keepdim=True)
    return marion_net(activation, **options), weights, x, y


def test_constants_of_proposition_5_for_tanh():
    five = proposition_5(TANH, 3, -0.1484371908, 50, 16)
    assert five.c1 == pytest.approx(1.3303e7, rel=1e-4)
    assert five.c2 == pytest.approx(1.4589e4, rel=1e-4)
    assert five.width == pytest.approx(6.65e8, rel=1e-3)
    assert five.depth == pytest.approx(4.13e5, rel=1e-3)
    assert five.radius == five.c3 / math.sqrt(800)
    assert five.constant / five.stated == pytest.approx(math.sqrt(16))


def test_probability_parts_of_proposition_5():
    five = proposition_5(TANH, 3, 0.1484, 50, 16)
    parts = five.failure(10**9, 16)
    assert parts["norm of W"] == 0.0
    assert parts["features"] < 1e-3
    assert parts["coherence of the data"] > 1  # void at the published sizes
    assert five.failure(10**9, 2000)["coherence of the data"] < 1e-6
    assert feature_failure(5, 10**6, 0.3, GELU.bound) == 5


def test_printed_chernoff_exponent_is_below_the_true_one():
    assert 3 / 64 < 9 / 128 < FEATURE_EXPONENT < 0.101


def test_constants_of_theorem_6_in_high_precision():
    five, m = proposition_5(TANH, 3, 0.1484, 50, 16), 400.0
    found = theorem_6(five, 1.0, m)
    mpmath.mp.dps = 60
    q, n, M = 16, 50, mpmath.mpf(five.radius)
    c, W = 1 / mpmath.sqrt(m * q), mpmath.sqrt(2 * q * m) + M
    for kind, K1, value in (
        (True, c * M * W, found.kind_log10_C),
        (False, c * W**2 / 4, found.log10_log10_C),
    ):
        K = max(K1, c * W * mpmath.e**K1 * (1 + M) * 4)
        C = mpmath.mpf(five.c3) ** 2 * mpmath.mpf(five.c4) ** 2 / (64 * n**4 * q**3)
        C /= ((1 + M) * max(K, 4)) ** 2
        log10 = mpmath.log10(C) - 2 * K / mpmath.log(10)
        assert value == pytest.approx(float(log10 if kind else mpmath.log10(-log10)), rel=1e-9)
    assert theorem_6(five, 1.0, five.width).kind_log10_C < -39


def test_theorem_6_is_proposition_8_at_the_constants_of_proposition_5():
    five = proposition_5(TANH, 3, 0.1484, 50, 16)
    six = theorem_6(five, 1.0, 400.0)
    loss = proposition_8(five.stated, five.radius, six.kind_K, 1.0, 1.0, 4.0)
    assert math.log10(loss) == pytest.approx(six.kind_log10_C, rel=1e-12)


def test_proposition_8_asks_more_than_the_trap():
    net, start, x, _ = problem(0, 3, 4, 2, 32, 3)
    norms = start_norms(net, start, x)
    best = norms.best()
    K = norms.derivatives(best.radius)
    size = float(x.norm(dim=-1).max())
    loss = proposition_8(best.constant, best.radius, K, 1.0, 1.0, size)
    assert 0 < loss < best.largest_loss / 4


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    n=st.integers(1, 4),
    d=st.integers(1, 3),
    dy=st.integers(1, 2),
    m=st.integers(1, 40),
    depth=st.integers(1, 4),
    activation=st.sampled_from([TANH, GELU, RELU]),
    law=st.sampled_from([tied, independent]),
    trained=st.sampled_from([("A", "V", "W", "B"), ("V", "W"), ("V",)]),
    factor=st.sampled_from([0.5, 1.0]),
    part=st.floats(0.05, 3.0),
    scale=st.floats(-4.0, 1.0),
)
def test_no_network_of_the_ball_is_below_the_bound_or_above_the_speed(
    seed, n, d, dy, m, depth, activation, law, trained, factor, part, scale
):
    options = {"trained": trained, "loss_factor": factor}
    net, start, x, y = problem(seed, n, d, dy, m, depth, activation, law, **options)
    y = 10.0**scale * y
    norms = start_norms(net, start, x)
    bound = norms.bound(part * max(norms.best().radius, 1e-4))
    g = torch.Generator().manual_seed(seed)
    for _ in range(4):
        noise = {
            k: torch.randn(v.shape, generator=g, dtype=v.dtype) for k, v in start.tensors().items()
        }
        at = gradient(net, into_ball(start.plus(noise, 1.0), start, bound.radius, onto=True), x, y)
        assert float(at.slope_squared) >= bound.constant * float(at.loss) * (1 - 1e-9)
        speeds = {k: v.norm(dim=(-2, -1)) for k, v in at.velocity.items()}
        layers = speeds.get("V", 0.0) + speeds.get("W", torch.zeros(()))
        fastest = max(float(layers.max()), *(float(speeds[k]) for k in "AB" if k in speeds), 0.0)
        assert fastest <= bound.speed * float(at.loss.sqrt()) * (1 + 1e-9)


def test_a_hostile_search_stays_above_the_bound():
    net, start, x, y = problem(0, 3, 4, 2, 32, 3)
    norms = start_norms(net, start, x)
    g = torch.Generator().manual_seed(0)
    best = norms.best()
    for M in (best.radius, 3 * best.radius):
        bound = norms.bound(M)
        for size in (1.0, 0.1 * math.sqrt(best.largest_loss)):
            found = smallest_pl(net, start, x, size * y, M, g, draws=10, rounds=20)
            assert bound.constant <= found.ratio <= found.drawn <= found.centre


def test_search_returns_a_point_of_the_ball_with_its_ratio():
    net, start, x, y = problem(1, 4, 3, 2, 12, 3)
    found = smallest_pl(net, start, x, y, 0.2, torch.Generator().manual_seed(0), draws=8)
    at = gradient(net, found.weights, x, y)
    assert float(pl_constant(at)) == pytest.approx(found.ratio, rel=1e-9)
    assert found.ratio < 0.9 * found.centre
    moved = {
        k: (v - getattr(start, k)).norm(dim=(-2, -1)) for k, v in found.weights.tensors().items()
    }
    assert float((moved["V"] + moved["W"]).max()) <= 0.2 * (1 + 1e-12)
    assert float(moved["A"]) <= 0.2 * (1 + 1e-12) and float(moved["B"]) <= 0.2 * (1 + 1e-12)


def test_start_constant_is_attained_by_the_worst_targets():
    net, start, x, _ = problem(2, 6, 4, 2, 24, 3)
    features = net.activation(x @ start.A.mT @ start.W[0].mT / math.sqrt(6))
    kernel = features @ features.mT / 24 + 2 * x @ x.mT
    vectors = torch.linalg.eigh(kernel)[1]
    constant = float(start_constant(net, start, x))
    ratios = []
    for j in range(6):
        y = vectors[:, j : j + 1] @ torch.tensor([[0.6, -0.8]], dtype=torch.float64)
        ratios.append(float(pl_constant(gradient(net, start, x, y))))
    assert min(ratios) == pytest.approx(constant, rel=1e-10)
    assert ratios[0] == min(ratios)


def test_start_constant_without_overparameterization_is_zero():
    net, start, x, _ = problem(3, 12, 3, 2, 8, 2)
    assert float(start_constant(net, start, x)) < 1e-12
    assert not least_feature_singular_values(net, start, x).any()
    assert start_norms(net, start, x).best().largest_loss == 0.0


def test_a_flow_from_admitted_targets_keeps_every_promise():
    net, start, x, y = problem(4, 3, 4, 2, 32, 4)
    best = start_norms(net, start, x).best()
    y = y * math.sqrt(0.9 * best.largest_loss / float(y.square().sum(-1).mean()))

    def moved(s):
        norms = {
            k: (v - getattr(start, k)).norm(dim=(-2, -1)) for k, v in s.weights.tensors().items()
        }
        return torch.stack([norms["A"], (norms["V"] + norms["W"]).max(), norms["B"]]).max()

    record = gradient_flow(
        net, start, x, y, horizon=5.0, tolerance=1e-12, times=[0.0, 1.0, 2.0, 5.0],
        observe={"moved": moved, "pl": lambda s: pl_constant(s.gradient)},
    )  # fmt: skip
    assert float(record.observed["moved"].max()) < best.radius
    assert float(record.observed["pl"].min()) > best.constant
    decay = record.observed["loss"] * torch.exp(best.constant * record.times)
    assert float(decay.max()) <= float(decay[0]) * (1 + 1e-6)


def test_networks_outside_the_bound_are_refused():
    net, start, x, _ = problem(5, 3, 2, 1, 4, 2)
    for other, weights in (
        (marion_net(COS), start),
        (mean_field_net(TANH), start),
        (net, replace(start, V=torch.ones_like(start.V))),
    ):
        with pytest.raises(ValueError, match="expected a start with V = 0"):
            start_norms(other, weights, x)
    with pytest.raises(ValueError, match="order ≥ 2 with a coefficient ≠ 0"):
        proposition_5(TANH, 2, 0.0, 5, 4)
