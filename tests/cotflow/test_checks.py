"""What is no network, no weights, no law, no radius …: one sentence, before anything is done."""

import math
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch

import cotflow
from cotflow import certificates, neural_ode
from cotflow.certificates import rounding
from cotflow.certificates.initial import InitialBall
from cotflow.flows.chebyshev import MOST, Spectrum
from cotflow.flows.fingerprint import fingerprint
from cotflow.flows.velocity import DivergenceError, NotFiniteError, VelocityField
from cotflow.measure.rates import loglog_slope
from cotflow.network.activations import COS, RELU, TANH, activation
from cotflow.network.checks import MOST as ENTRIES
from cotflow.network.initial import Sizes
from cotflow.network.residual import ResidualNet, marion_net, mean_field_net
from cotflow.network.weights import Weights
from problems import ALL, family, problem

W, X, Y = problem(depth=2, q=3, m=4, d=2, dy=2, n=5)
BARE = replace(W, b=None)
MU = family(1)
SIZES = Sizes(2, 4, 3, 2, 2)
HUGE = 10**30
INF, NAN = math.inf, math.nan
BALL = InitialBall(3, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0)
S = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def as_users_see_it(monkeypatch):
    """Without the annotations' own checks, which only the tests run."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def seeded():
    return torch.Generator().manual_seed(0)


def changed(**parts):
    return lambda: replace(W, **parts)


REFUSED = {
    # Weights
    "a list": (changed(V=W.V.tolist()), "torch tensor for V, received builtins.list"),
    "nothing": (changed(A=None), "torch tensor for A, received builtins.NoneType"),
    "sparse": (changed(b=W.b.to_sparse()), "for b in strided memory, received one of layout"),
    "two precisions": (changed(W=W.W.float()), "as in V, for the numbers in W, received float32"),
    "two devices": (changed(B=W.B.to("meta")), "for the numbers in B, received float64 on meta"),
    "two runs": (changed(B=W.B.expand(2, 2, 3)), "all weights with the same runs"),
    # Networks
    "no activation": (
        lambda: ResidualNet("tanh"),
        "activation such as GELU, received builtins.str",
    ),
    "another name": (lambda: activation(["tanh"]), r"one of gelu, .* received \['tanh'\]"),
    "a scaling": (
        lambda: marion_net(width_scaling="width"),
        "width_scaling among sqrt, mean, none",
    ),
    "no scaling": (lambda: marion_net(input_scaling=None), "input_scaling among .* received None"),
    "a metric": (lambda: marion_net(metric="euclid"), "metric among layer, particle"),
    "a letter": (lambda: marion_net(trained=5), "trained by names among .* received builtins.int"),
    "no parameter": (lambda: marion_net(trained=()), "expected names among A, V, W, b, B"),
    "a speed": (lambda: marion_net(speed={"W": 0.0}), r"finite speed > 0, received 0\.0"),
    "no speed": (lambda: marion_net(speed={"W": NAN}), "finite speed > 0, received nan"),
    "a loss": (lambda: marion_net(loss_factor=-1.0), "finite loss_factor > 0"),
    "an exponent": (lambda: marion_net(depth_exponent=1e300), "depth_exponent from −10 to 10"),
    "integers": (
        lambda: TANH(torch.ones(2, dtype=torch.int64)),
        "real numbers, received torch.int64",
    ),
    "a number": (lambda: TANH(2.0), "activation: expected a torch tensor, received builtins.float"),
    "another precision": (lambda: marion_net()(W, X.float()), "received torch.float32 on cpu"),
    "another shape": (lambda: marion_net()(W, X[:, :1]), r"x \(\*runs, n, 2\).*x \(5, 1\)"),
    "fewer targets": (lambda: marion_net().loss(W, X, Y[:1]), r"received .*y \(1, 2\)"),
    "no targets": (lambda: marion_net().loss(W, X, None), "torch tensor for y"),
    "other runs": (
        lambda: marion_net().hidden_states(
            W.map(lambda t: t.expand(2, *t.shape)), X.expand(3, 5, 2)
        ),
        "runs that fit together",
    ),
    # Laws and draws
    "half a layer": (lambda: Sizes(2.5, 4, 3, 2, 2), r"sizes: expected depth ≥ 1, received 2\.5"),
    "a word": (lambda: Sizes(2, "4", 3, 2, 2), "sizes: expected width ≥ 1, received '4'"),
    "no sizes": (lambda: cotflow.tied((2, 4), seeded()), "expected sizes as cotflow.Sizes"),
    "no generator": (
        lambda: cotflow.smooth(SIZES, 0),
        "expected a torch.Generator, received .*int",
    ),
    "whole numbers": (
        lambda: cotflow.independent(SIZES, seeded(), dtype=torch.int64),
        "dtype of real floating-point numbers, received torch.int64",
    ),
    "a run": (lambda: cotflow.tied(SIZES, seeded(), runs=3), "runs as a tuple of whole numbers"),
    "less than a run": (lambda: cotflow.tied(SIZES, seeded(), runs=(-1,)), "≥ 0, received -1"),
    "more than there is": (
        lambda: cotflow.independent(Sizes(HUGE, 4, 3, 2, 2), seeded()),
        "a shape that memory can hold",
    ),
    "a long path": (lambda: cotflow.smooth(SIZES, seeded(), lengthscale=INF), "lengthscale > 0"),
    "figures": (lambda: cotflow.published(["figure 1"], 2, 0), "expected one of .* received"),
    "no seed": (lambda: cotflow.published("figure 1", 2, []), "several of them, received none"),
    "a seed": (lambda: cotflow.published("figure 1", 2, HUGE), "a seed from −2⁶³ to 2⁶⁴ − 1"),
    "a device": (
        lambda: cotflow.published("figure 1", 2, 0, device="tpu"),
        "a device that is here, received 'tpu'",
    ),
    # What is read off
    "no weights": (lambda: cotflow.largest_gap(W.V), "largest gap: expected cotflow.Weights"),
    "a large gap": (
        lambda: cotflow.largest_gap(W.map(lambda t: 1e300 * t)),
        "squares are within the range of float64, received gaps up to inf",
    ),
    "ragged rows": (lambda: loglog_slope([1, 2], [[1, 2], [3]]), "expected rows of real numbers"),
    "no confidence": (lambda: loglog_slope([1, 2], [1, 2], "0.9"), "0 < confidence < 1, received"),
    "a steep line": (
        lambda: loglog_slope([1, 2], [1, 1e300]).fitted([1e9]),
        "fitted line: expected finite numbers",
    ),
    # Gradients and flows
    "a backend": (
        lambda: cotflow.gradient(marion_net(), W, X, Y, backend=["plain"]),
        "backend: exp",
    ),
    "no network": (lambda: cotflow.gradient(None, W, X, Y), "network such as cotflow.marion_net"),
    "out of range": (
        lambda: cotflow.gradient(marion_net(), W.map(lambda t: 1e200 * t), X, Y),
        "a loss and a squared slope within the range of float64, received",
    ),
    "no numbers": (
        lambda: cotflow.gradient(marion_net(RELU), W, NAN * X, Y, backend="plain"),
        "a loss and a squared slope within the range of float64, received nan",
    ),
    "data": (
        lambda: cotflow.flow(marion_net(), W, X.numpy(), Y, step=0.1, horizon=1.0),
        "flow: expected a torch tensor for x, received numpy.ndarray",
    ),
    "a step out of range": (
        lambda: cotflow.flow(
            marion_net(), W.to(dtype=torch.float32), X.float(), Y.float(), step=1e300, horizon=1.0
        ),
        "times within the range of float32",
    ),
    "a clip of nothing": (
        lambda: list(
            cotflow.flow(marion_net(), W, X, Y, step=0.1, horizon=1.0, clip=lambda move: None)
        ),
        "tensors of the names and shapes it was given, received None",
    ),
    "too many stages": (lambda: replace(cotflow.RKC2, stages=HUGE), f"at most {MOST} stages"),
    "a path of numbers": (lambda: cotflow.Checkpoint(3), "the path of a file, received .*int"),
    # Distances
    "lists of atoms": (lambda: cotflow.conditional_distance(MU.tolist(), MU), "as torch tensors"),
    "sparse atoms": (lambda: cotflow.labelled_distance(MU, MU.to_sparse()), "in strided memory"),
    "one mass": (lambda: cotflow.conditional_distance(MU, MU, MU), "masses as two torch tensors"),
    "listed masses": (
        lambda: cotflow.conditional_distance(MU, MU, ([1.0], [1.0])),
        "masses as two torch tensors, received builtins.list",
    ),
    # Neural ODEs
    "no state": (lambda: neural_ode.integrate(lambda s, h: h, [1.0], S), "torch tensor for h0"),
    "no function": (lambda: neural_ode.integrate(1.0, X, S), "expected a function f of s"),
    "another side": (
        lambda: neural_ode.integrate(lambda s, h: h[0], X, S),
        r"right-hand side of shape \(5, 2\), received Tensor of shape \(2,\)",
    ),
    "one jump twice": (
        lambda: neural_ode.integrate(lambda s, h: h, X, S, jumps=[0.5, 0.5]),
        "jumps between 0 and 1, each once",
    ),
    "no jumps": (lambda: neural_ode.integrate(lambda s, h: h, X, S, jumps=0.5), "received 0.5"),
    "a wider state": (
        lambda: neural_ode.solve(marion_net(), *neural_ode.weight_functions(BARE), X, S),
        r"expected V\(s\) \(\*runs, 2, m\) and W\(s\)",
    ),
    # Certificates
    "a plain list": (lambda: certificates.least_eigenvalue([[1.0]]), "as a torch tensor"),
    "one axis": (lambda: certificates.least_eigenvalue(torch.ones(2)), r"shape \(2,\)"),
    "no square": (lambda: certificates.least_eigenvalue(torch.ones(2, 3)), "square matrices"),
    "beyond range": (
        lambda: certificates.least_feature_eigenvalue(INF * torch.ones(1, 2).double()),
        "expected finite numbers",
    ),
    "squares": (
        lambda: certificates.least_feature_eigenvalue(5e299 * torch.ones(1, 1).double()),
        "numbers whose squares are within range",
    ),
    "an error": (
        lambda: certificates.least_feature_eigenvalue(torch.ones(1, 2), -1.0),
        "an error ≥ 0",
    ),
    "large weights": (
        lambda: certificates.layer_stretch(W.map(lambda t: 1e300 * t)),
        "finite numbers up to 1e[+]60 in A",
    ),
    "runs of a ball": (
        lambda: certificates.initial_ball(
            mean_field_net(COS), W.map(lambda t: t.expand(2, *t.shape)), X
        ),
        "the weights of one run",
    ),
    "a radius": (lambda: BALL.root("1"), "radii R ≥ 0, received '1'"),
    "an obstacle": (lambda: BALL.obstacle(torch.ones(2)), "radius R ≥ 0, received Tensor"),
    "a small radius": (lambda: BALL.stretch(-1.0), "radii R ≥ 0, received -1.0"),
    "a law of layers": (
        lambda: certificates.gaussian_cos(W, seeded(), layers=["tied"]),
        "layers: expected tied or independent",
    ),
    "a wide law": (
        lambda: certificates.kernel_gaussian_cos(X, tau=1e200),
        "expected 0 ≤ tau ≤ 1e150",
    ),
    "countless features": (
        lambda: certificates.features_needed(1e-300, 3, 0.1),
        "a number of features that can be counted",
    ),
    "constants": (
        lambda: certificates.initial_certificate(
            mean_field_net(COS), replace(W, V=0 * W.V), X, Y, constants=["sharp"]
        ),
        "constants: expected sharp or explicit",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_none_is_told_in_one_sentence(name):
    call, sentence = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_torch_are_sizes_seeds_and_options():
    sizes = Sizes(np.int64(2), torch.tensor(4), 3, np.float64(2.0), 2)
    assert sizes == SIZES and type(sizes.width) is int
    assert marion_net(speed={"W": np.float64(2.0)}) == marion_net(speed={"W": 2.0})
    assert marion_net(loss_factor=torch.tensor(0.5)) == marion_net(loss_factor=0.5)
    expected = cotflow.published("figure 1", 2, [0, 3])
    for seeds in (np.array([0, 3]), torch.tensor([0, 3]), (np.int64(0), 3)):
        found = cotflow.published("figure 1", np.int64(2), seeds)
        assert torch.equal(found.weights.W, expected.weights.W) and torch.equal(found.y, expected.y)
    law = cotflow.tied(SIZES, seeded(), runs=(np.int64(2),))
    assert law.runs == (2,)


def test_what_fits_is_as_it_was():
    assert Weights(*(getattr(W, name) for name in ("A", "V", "W", "B"))).b is None
    found = marion_net()(W.map(lambda t: t.expand(3, *t.shape)), X)
    assert torch.equal(found[0], marion_net()(W, X))
    assert math.prod((2**31, 2**31 - 1)) < ENTRIES


@pytest.mark.parametrize("ball", [BALL])
def test_a_ball_beyond_range_is_a_bound_that_says_nothing(ball):
    for radius in (1e200, np.array([1e200, 1e300])):
        assert np.all(ball.root(radius) == 0.0) and np.all(np.isinf(ball.stretch(radius)))
    assert "≤ 0" in ball.obstacle(1e200) and rounding.one_radius(torch.tensor(2)) == 2.0


def test_a_stiff_step_is_refused_and_not_begun():
    weights, x, y = (W.map(lambda t: 1e5 * t), X, Y)
    with pytest.raises(DivergenceError, match=f"asks for more than {MOST} stages"):
        cotflow.gradient_flow(
            marion_net(trained=ALL), weights, x, y, method=cotflow.RKC2, step=0.25, horizon=0.5
        )
    for radius in (1e30, INF, NAN):
        with pytest.raises(NotFiniteError, match="spectral radius"):
            cotflow.RKC2.stages_for(0.25, Spectrum(radius, {}))
    assert cotflow.RKC2.stages_for(1.0, Spectrum(1e7, {})) == 1 + int(math.sqrt(1.0 + 1.54e7))
    assert cotflow.RKC2.longest(Spectrum(1.0, {}), 1e-2, torch.float64) < MOST**2


def test_an_estimate_of_an_error_that_is_no_number_ends_the_flow(monkeypatch):
    true = VelocityField.norm

    def lost(field, at, move):
        return true(field, at, move) * (1.0 if move is at.tensors() else INF)

    monkeypatch.setattr(VelocityField, "norm", lost)
    with pytest.raises(DivergenceError, match="the estimated error of the step is inf"):
        cotflow.gradient_flow(marion_net(), W, X, Y, step=0.1, horizon=0.5)


def test_one_number_is_the_same_setting_wherever_it_lies_in_memory():
    apart = torch.ones(1, 2, dtype=torch.float64)[:, ::2]
    assert apart.stride() == (2, 2)
    assert fingerprint(apart) == fingerprint(torch.ones(1, 1, dtype=torch.float64))
