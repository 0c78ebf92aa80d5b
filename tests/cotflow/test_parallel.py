"""Depth in parallel: equal to the sequential sweep, within its certificate, or not taken."""

import dataclasses
import math

import pytest
import torch

from cotflow import (
    GELU,
    IDENTITY,
    RELU,
    TANH,
    ResidualNet,
    Sizes,
    Weights,
    gradient,
    gradient_flow,
    independent,
    marion_net,
    published,
)
from cotflow.adjoint import card, parallel, segments
from cotflow.adjoint.gradient import evaluated
from cotflow.adjoint.parallel import Parallel, coarse, schatten
from cotflow.flows.checkpoint import Checkpoint
from problems import random_problem

ENGINES = {
    "torch": Parallel(),
    "triton": Parallel(layers=card.kernels),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
every_engine = pytest.mark.parametrize("engine", ENGINES)


def chosen(name, **options):
    if name == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
    return dataclasses.replace(ENGINES[name], **options)


def smooth(depth, dtype=torch.float64, samples=6, size=0.15):
    """The published net with V_k = V(k/L), an honest distance from zero."""
    e = published("figure 1", depth, 0, dtype=dtype)
    s = torch.linspace(0, 1, depth, dtype=dtype)[:, None, None]
    g = torch.Generator().manual_seed(1)
    a, b = (torch.randn(16, 32, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    weights = dataclasses.replace(
        e.weights, V=size * (a * (2 * s).cos() + b * (3 * s).sin()), W=e.weights.W * (1 + 0.3 * s)
    )
    return e.net, weights, e.x[:samples], e.y[:samples]


def rough(depth, dtype=torch.float64):
    sizes = Sizes(depth=depth, width=32, state=16, inputs=16, outputs=16)
    g = torch.Generator().manual_seed(2)
    weights = independent(sizes, g, dtype=dtype)
    V = torch.randn(weights.V.shape, generator=g, dtype=dtype)
    e = published("figure 1", depth, 0, dtype=dtype)
    return e.net, dataclasses.replace(weights, V=V), e.x[:6], e.y[:6]


def errors(found, exact, net, weights):
    """Measured: of states, adjoints, and of ∂ℓ in the norm of the slope, all relative."""

    def largest(name):
        a, b = getattr(found, name), getattr(exact, name)
        gap = (a - b).norm(dim=-1).amax(-2)
        return float((gap / a.norm(dim=-1).amax(-2)).max())

    rates, gap, size = net.rates(weights), 0.0, 0.0
    for name in found.velocity.keys() & {"V", "W", "b"}:
        value = found.velocity[name]
        gap += float((value - exact.velocity[name]).square().sum()) / rates[name]
        size += float(value.square().sum()) / rates[name]
    return largest("states"), largest("adjoints"), math.sqrt(gap / size)


@every_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [3, 10])
def test_it_is_the_sequential_sweep_to_rounding(engine, dtype, depth):
    net, weights, x, y = smooth(depth, dtype)
    if engine == "triton":
        weights, x, y = (v.to(device=DEVICE) for v in (weights, x, y))
    exact = gradient(net, weights, x, y, backend="plain")
    found = gradient(net, weights, x, y, backend=chosen(engine))
    assert found.depth.forward > 0 and found.depth.gap <= 1
    assert max(errors(found, exact, net, weights)) < 200 * torch.finfo(dtype).eps


def test_a_deep_net_takes_few_sweeps_and_a_rough_one_more():
    net, weights, x, y = smooth(400, size=0.05)
    few = gradient(net, weights, x, y, backend=Parallel(tolerance=1e-6, accepted=math.inf)).depth
    net, weights, x, y = rough(400)
    many = gradient(net, weights, x, y, backend=Parallel(tolerance=1e-6, accepted=math.inf)).depth
    assert 0 < few.forward <= 4
    assert many.forward == 0 or many.forward > few.forward


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("activation", [GELU, TANH], ids=lambda a: a.name)
def test_the_certificate_is_never_too_small(tolerance, activation):
    for problem in (smooth(60), smooth(60, size=0.4), rough(60)):
        net, weights, x, y = problem
        net = dataclasses.replace(net, activation=activation)
        exact = gradient(net, weights, x, y, backend="plain")
        engine = Parallel(tolerance=tolerance, accepted=math.inf)
        found = gradient(net, weights, x, y, backend=engine)
        bounds = found.depth.states, found.depth.adjoints, found.depth.partials
        for measured, bound in zip(errors(found, exact, net, weights), bounds, strict=True):
            assert measured <= bound + 1e-14


def test_the_certificate_is_nearly_reached():
    """In a positive scalar net near 0 all gaps have one sign, and grow by 1 + V/L a layer."""
    depth, length = 256, 16
    s = torch.linspace(0, 1, depth, dtype=torch.float64).reshape(-1, 1, 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    net = ResidualNet(TANH, "none", "none", trained=("V",))
    weights, h0 = Weights(one, 0.5 + s, one.expand(depth, 1, 1), one), 1e-3 * one
    exact = net.hidden_states(weights, h0)
    found = next(parallel.states_by_sweeps(net, weights, h0, length))
    assert 1.0 <= float(found.error) / float((found.values[0] - exact).abs().max()) < 1.02

    fine = card.layers(net, weights, h0)
    small = parallel.coarse_layers(card.layers, fine, net, weights, h0, length)
    size = parallel.Norms.of(fine, net, weights, length)
    p, states = one.reshape(1, 1, 1, 1), exact.unsqueeze(0)
    found = next(parallel.backward_sweeps(fine, small, size, p, states, length))
    _, end = fine.backward(p, states, 0, depth, depth)
    assert 1.0 <= float(found.error) / float((found.end - end[:, 0]).abs()) < 1.02


def test_the_certificate_counts_what_rotations_add():
    """Layers I + aJ are no larger to first order, and their one gap grows by (1 + a²)^½ a layer."""
    eye = torch.eye(2, dtype=torch.float64)
    V = torch.tensor([[0.0, -8.0], [8.0, 0.0]], dtype=torch.float64).expand(16, 2, 2)
    net = ResidualNet(IDENTITY, "none", "none", trained=("V",))
    weights = Weights(eye, V, eye.expand(16, 2, 2), eye)
    exact = net.hidden_states(weights, eye[:1])
    found = next(parallel.states_by_sweeps(net, weights, eye[:1], 8))
    assert 1.0 <= float(found.error) / float((found.values[0] - exact).norm(dim=-1).max()) < 1.6


def test_the_certificate_tells_one_layer_from_another():
    """With a segment left out of the coarse net, gaps stay and are seen."""
    net, weights, x, y = smooth(36)
    engine = Parallel(tolerance=1e-10, accepted=math.inf, sweeps=1)
    assert gradient(net, weights, x, y, backend=engine).depth.forward == 0


def test_bias_is_covered():
    weights, x, y = random_problem(runs=(2,), depth=30, bias=True)
    net = marion_net(TANH, trained=("V", "W", "b"))
    exact = gradient(net, weights, x, y, backend="plain")
    found = gradient(net, weights, x, y, backend=Parallel(accepted=math.inf, tolerance=1e-3))
    measured = errors(found, exact, net, weights)
    assert found.depth.forward > 0
    assert measured[0] <= found.depth.states and measured[1] <= found.depth.adjoints
    assert measured[2] <= found.depth.partials


@pytest.mark.parametrize("length", [1, 5, 20, 64])
def test_every_length_of_segments_will_do(length):
    net, weights, x, y = smooth(20)
    exact = gradient(net, weights, x, y, backend="plain")
    found = gradient(net, weights, x, y, backend=Parallel(length=length, sweeps=30))
    assert (found.depth.forward > 0) == (length < 20)
    assert max(errors(found, exact, net, weights)) < 1e-13


def test_where_the_slope_jumps_and_under_checkpointing_it_is_sequential():
    net, weights, x, y = smooth(20)
    net = dataclasses.replace(net, activation=RELU)
    found = gradient(net, weights, x, y, backend=Parallel())
    exact = gradient(net, weights, x, y, backend="plain")
    assert found.depth.forward == 0
    assert torch.allclose(found.velocity["V"], exact.velocity["V"], rtol=1e-12, atol=1e-13)
    kept = gradient(net, weights, x, y, backend=Parallel(), segment=7)
    assert kept.states is None and kept.depth.forward == 0
    assert torch.allclose(kept.velocity["V"], exact.velocity["V"], rtol=1e-12, atol=1e-13)


def test_a_net_that_explodes_is_left_to_the_sequential_sweep():
    net, weights, x, y = smooth(20)
    weights = dataclasses.replace(weights, V=1e200 * weights.V)
    assert evaluated(net, weights, x, y, backend=Parallel()).depth.forward == 0


def test_the_coarse_net_has_means_and_sums():
    weights, _, _ = random_problem(depth=7)
    small = coarse(weights, 3)
    assert torch.allclose(small.V[0], weights.V[:3].sum(0))
    assert torch.allclose(small.V[2], weights.V[6])
    assert torch.allclose(small.W[1], weights.W[3:6].mean(0))
    assert torch.allclose(small.W[2], weights.W[6]) and torch.allclose(small.b[2], weights.b[6])


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150])
def test_the_norm_of_order_eight_lies_above_the_spectral_norm(scale):
    value = scale * torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0)).double()
    exact = torch.linalg.matrix_norm(value, 2)
    found = schatten(value)
    assert bool((found >= exact).all()) and bool((found <= 4**0.125 * exact).all())
    assert float(schatten(torch.zeros(3, 3))) == 0.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"length": 0}, "length: expected at least 1 layer, received 0"),
        ({"sweeps": -1}, "sweeps: expected at least 1, received -1"),
        ({"tolerance": -1.0}, "tolerance: expected a number > 0, received -1.0"),
        ({"accepted": math.nan}, "accepted: expected a number > 0, received nan"),
    ],
)
def test_options_are_checked(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Parallel(**options)


def test_batched_layers_are_the_layers():
    weights, x, y = random_problem(runs=(2,), depth=10)
    for segment in (None, 1, 3, 10):
        exact = gradient(marion_net(), weights, x, y, backend="plain")
        h0 = torch.matmul(x, weights.A.mT)
        factors = dict.fromkeys(("V", "W"), -10.0)
        layers = segments.Batched(marion_net(), weights)
        found = segments.sweep(layers, marion_net(), weights, h0, y, factors, segment)
        for name in factors:
            assert torch.allclose(found.partials[name], exact.velocity[name], rtol=1e-12)


def test_a_gap_is_counted(monkeypatch):
    """The certificate speaks of the gaps: with some hidden from it, it would be too small."""
    net, weights, x, y = smooth(49)
    exact = gradient(net, weights, x, y, backend="plain")
    last_of = parallel.last_of

    def blind(*arguments):
        found = last_of(*arguments)
        return dataclasses.replace(found, error=0 * found.error)

    monkeypatch.setattr(parallel, "last_of", blind)
    engine = Parallel(tolerance=1e-3, accepted=math.inf)
    found = gradient(net, weights, x, y, backend=engine)
    assert errors(found, exact, net, weights)[0] > found.depth.states


def test_a_flow_takes_it_and_a_checkpoint_remembers(tmp_path):
    net, weights, x, y = smooth(16, size=0.05)
    options = {"step": 0.01, "horizon": 0.04, "every": 2}
    exact = gradient_flow(net, weights, x, y, **options)
    path = tmp_path / "run.pt"
    found = gradient_flow(
        net, weights, x, y, backend=Parallel(), checkpoint=Checkpoint(path), **options
    )
    assert torch.allclose(found.observed["loss"], exact.observed["loss"], rtol=1e-13)
    with pytest.raises(ValueError, match="the backend"):
        gradient_flow(net, weights, x, y, checkpoint=Checkpoint(path), **options)


@pytest.mark.parametrize("place", ["last", "first"])
@pytest.mark.parametrize("growth", [10.0, 100.0, 1000.0])
def test_a_gap_is_measured_by_the_values_where_it_is(place, growth):
    """Values that grow elsewhere would make every gap look like a rounding."""
    net, weights, x, y = smooth(100, torch.float32, size=0.03)
    V = weights.V.clone()
    V[slice(-10, None) if place == "last" else slice(10)] *= growth
    weights = dataclasses.replace(weights, V=V)
    double = weights.to(dtype=torch.float64), x.double(), y.double()
    exact = gradient(net, *double, backend="plain")
    plain = errors(gradient(net, weights, x, y, backend="plain"), exact, net, weights)
    found = errors(gradient(net, weights, x, y, backend=Parallel()), exact, net, weights)
    for mine, sequential in zip(found, plain, strict=True):
        assert mine < 60 * sequential


def test_what_the_bound_does_not_speak_of_is_not_accepted_by_it():
    net, weights, x, y = smooth(36)
    engine = Parallel(tolerance=1e-3, accepted=math.inf)
    assert gradient(net, weights, x, y, backend=engine).depth.forward > 0
    net = dataclasses.replace(net, trained=("A", "V", "W"))
    assert gradient(net, weights, x, y, backend=engine).depth.forward == 0


def test_small_numbers_do_not_vanish_from_the_certificate():
    net, weights, x, y = smooth(49, torch.float32)
    weights = dataclasses.replace(weights, B=1e-10 * weights.B)
    double = weights.to(dtype=torch.float64), x.double(), 1e-10 * y.double()
    exact = gradient(net, *double, backend="plain")
    engine = Parallel(tolerance=1e-2, accepted=math.inf)
    found = gradient(net, weights, x, 1e-10 * y, backend=engine)
    measured = errors(found, exact, net, weights)
    bounds = found.depth.states, found.depth.adjoints, found.depth.partials
    assert all(m <= b + 1e-6 for m, b in zip(measured, bounds, strict=True))
    assert found.depth.partials > 0


def test_the_adjoints_bound_is_relative_to_what_was_computed():
    """V = 0 in the lower half: the gaps of the upper half arrive there as they are."""
    net, weights, x, y = smooth(36, size=0.5)
    V = weights.V.clone()
    V[:18] = 0
    weights = dataclasses.replace(weights, V=V)
    exact = gradient(net, weights, x, y, backend="plain")
    engine = Parallel(tolerance=0.9, accepted=math.inf)
    found = gradient(net, weights, x, y, backend=engine)
    assert found.depth.forward > 0
    assert errors(found, exact, net, weights)[1] <= found.depth.adjoints * (1 + 1e-12)


def test_a_sample_at_rest_and_one_that_is_fitted_are_no_obstacle():
    net, weights, x, y = smooth(25)
    x = torch.cat((x, torch.zeros_like(x[:1])))
    fitted = gradient(net, weights, x, torch.zeros_like(x), backend="plain").states[-1]
    y = torch.cat((y, torch.zeros_like(y[:1])))
    y[1] = fitted[1]
    assert gradient(net, weights, x, y, backend=Parallel()).depth.forward > 0


def joined(*pairs):
    for count, (gap, error) in enumerate(pairs, 1):
        values = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        rest = torch.full((1, 1), error, dtype=torch.float64)
        yield parallel.Joined(values, values[:, 0], rest, gap, count)


def test_gaps_of_a_few_roundings_may_stay_while_their_sum_falls():
    # As in float32 at depth 65536, where every sweep moves the roundings along.
    falling = [(4.5, 1.5e-2), (3.9, 3e-3), (3.9, 2e-4), (0.9, 2e-5)]
    assert parallel.last_of(joined(*falling), None, 12).sweep == 4
    assert parallel.last_of(joined((4.5, 1.5e-2), (3.9, 1.4e-2), (0.9, 2e-5)), None, 12) is None
    assert parallel.last_of(joined(*falling), None, 3) is None
