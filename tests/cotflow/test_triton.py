"""Triton's kernels: on a card, or by Triton's own interpreter, which runs the same source."""

import dataclasses
import warnings

import mpmath
import pytest
import torch

from cotflow import gradient, marion_net, mean_field_net
from cotflow.adjoint import card
from cotflow.network.activations import COS, GELU, IDENTITY, RELU, TANH
from problems import random_problem

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")
kernels = pytest.importorskip("cotflow.adjoint.triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ALL = ("A", "V", "W", "b", "B")


def relative(found, exact):
    wrong = sum(float((found[k].double() - v.double()).square().sum()) for k, v in exact.items())
    return (wrong / sum(float(v.double().square().sum()) for v in exact.values())) ** 0.5


def both(net, weights, x, y, segment=None):
    """The gradient by Triton, and by the plain loop in double precision."""
    double = weights.to(dtype=torch.float64), x.double(), y.double()
    exact = gradient(net, *double, backend="plain")
    return gradient(net, weights, x, y, backend="triton", segment=segment), exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [GELU, TANH, RELU, IDENTITY], ids=lambda a: a.name)
def test_the_gradient_is_that_of_the_plain_loop(activation, dtype):
    weights, x, y = random_problem(runs=(2,), depth=3, dtype=dtype, device=DEVICE, n=9)
    net = marion_net(activation, trained=ALL)
    found, exact = both(net, weights, x, y)
    limit = 40 * torch.finfo(dtype).eps
    assert relative(found.velocity, exact.velocity) < limit
    for name in ("loss", "slope_squared", "states", "adjoints"):
        value, right = getattr(found, name), getattr(exact, name)
        assert value.shape == right.shape and value.dtype == dtype
        assert float((value - right).norm() / right.norm()) < limit


@pytest.mark.parametrize(
    "sizes",
    [
        {"n": 1, "q": 1, "m": 1, "depth": 1, "d": 1, "dy": 1},
        {"n": 8, "q": 16, "m": 16, "depth": 2},
        {"n": 17, "q": 17, "m": 33, "depth": 2},
        {"n": 3, "q": 2, "m": 130, "depth": 2},
    ],
    ids=["ones", "whole tiles", "one over", "several tiles of features"],
)
def test_every_size_fits(sizes):
    weights, x, y = random_problem(device=DEVICE, **sizes)
    found, exact = both(mean_field_net(TANH), weights, x, y)
    assert relative(found.velocity, exact.velocity) < 1e-14


@pytest.mark.parametrize("trained", [("V",), ("W",), ("b",), ("A", "B")], ids="".join)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_only_what_is_trained_gets_a_gradient(trained, bias):
    weights, x, y = random_problem(bias=bias, device=DEVICE, depth=2)
    found, exact = both(marion_net(trained=(*trained, "A")), weights, x, y)
    assert found.velocity.keys() == exact.velocity.keys()
    assert relative(found.velocity, exact.velocity) < 1e-14


@pytest.mark.parametrize("segment", [1, 2, 3, 4, 9])
def test_checkpointing_gives_the_same_bits(segment):
    weights, x, y = random_problem(runs=(2,), depth=4, device=DEVICE)
    whole = gradient(marion_net(), weights, x, y, backend="triton")
    kept = gradient(marion_net(), weights, x, y, backend="triton", segment=segment)
    assert kept.states is None
    for name, value in whole.velocity.items():
        assert torch.equal(kept.velocity[name], value), name


@pytest.mark.parametrize("scaling", ["sqrt", "mean", "none"])
def test_scalings_exponents_and_rates_are_obeyed(scaling):
    weights, x, y = random_problem(device=DEVICE, depth=3)
    net = dataclasses.replace(
        marion_net(GELU),
        width_scaling=scaling, input_scaling="none", depth_exponent=0.5, loss_factor=0.3,
        metric="particle", speed={"W": 2.0},
    )  # fmt: skip
    found, exact = both(net, weights, x, y)
    assert relative(found.velocity, exact.velocity) < 1e-14


def test_shared_weights_and_runs_of_data():
    weights, x, y = random_problem(device=DEVICE, depth=2)
    x, y = torch.stack((x, -x, 2 * x)), torch.stack((y, y, -y))
    found, exact = both(marion_net(), weights, x, y)
    assert found.velocity["V"].shape == (3, *weights.V.shape)
    assert relative(found.velocity, exact.velocity) < 1e-14


def test_a_run_does_not_depend_on_its_company():
    weights, x, y = random_problem(runs=(3,), device=DEVICE, depth=2)
    together = gradient(marion_net(), weights, x, y, backend="triton")
    alone = gradient(marion_net(), weights.run(1), x[1], y[1], backend="triton")
    for name, value in alone.velocity.items():
        assert torch.equal(together.velocity[name][1], value), name


def test_a_result_repeats_bit_for_bit():
    weights, x, y = random_problem(device=DEVICE, dtype=torch.float32, n=40, depth=3)
    first, second = (gradient(marion_net(), weights, x, y, backend="triton") for _ in range(2))
    assert all(torch.equal(first.velocity[k], second.velocity[k]) for k in first.velocity)


def test_what_the_kernels_do_not_cover_is_said_in_one_sentence():
    weights, x, y = random_problem(device=DEVICE)
    with pytest.raises(ValueError, match=r"backend 'triton': .*, not cos$"):
        gradient(marion_net(COS), weights, x, y, backend="triton")
    wide = random_problem(q=200, device=DEVICE)
    with pytest.raises(ValueError, match="a state of at most 128, not of 200"):
        gradient(marion_net(), *wide, backend="triton")


def test_without_a_card_there_are_none(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    weights, x, y = random_problem()
    with pytest.raises(ValueError, match="they need a CUDA device, and the tensors are on cpu"):
        gradient(marion_net(), weights, x, y, backend="triton")


def test_without_triton_a_card_takes_the_plain_step(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    weights, x, _ = random_problem()
    assert "pip install triton" in card.obstacle(marion_net(), weights, x)


def test_an_old_card_takes_the_plain_step(monkeypatch):
    class OnCard(torch.Tensor):
        device = torch.device("cuda", 0)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    weights, x, _ = random_problem()
    why = card.obstacle(marion_net(), weights, x.as_subclass(OnCard))
    assert why == "they need a card of compute capability 8.0, and an old card has 7.5"


def test_a_card_that_is_missing_is_named():
    weights, _, _ = random_problem()
    with pytest.raises(ValueError, match="weights: expected a device that is here, received"):
        weights.to(device="cuda:99")


def test_a_full_card_says_what_would_fit(monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("cotflow.adjoint.plain.sweep", full)
    weights, x, y = random_problem()
    with pytest.raises(torch.OutOfMemoryError, match=r"depth 4, width 5, 6 samples .* segment=c"):
        gradient(marion_net(), weights, x, y, backend="plain")


def test_on_a_card_triton_is_the_way():
    if DEVICE != "cuda":
        pytest.skip("no CUDA device here")
    weights, x, y = random_problem(device=DEVICE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auto = gradient(marion_net(), weights, x, y)
    chosen = gradient(marion_net(), weights, x, y, backend="triton")
    assert all(torch.equal(auto.velocity[k], v) for k, v in chosen.velocity.items())


@triton.jit
def _each(z, value, slope, KIND: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    at = tl.load(z + i)
    tl.store(value + i, kernels._value(at, KIND))
    tl.store(slope + i, kernels._slope(at, KIND))


@pytest.mark.parametrize("kind", [0, 1], ids=["gelu", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_functions_are_those_of_the_table(kind, dtype):
    """Within two units in the last place more than the table's errors: a card divides so."""
    size = torch.logspace(-12, 1.0, 1000, dtype=torch.float64)
    z = torch.cat((-size, torch.zeros(1, dtype=torch.float64), size)).to(dtype)
    z = torch.nn.functional.pad(z, (0, 2048 - len(z))).to(DEVICE)
    value, slope = torch.empty_like(z), torch.empty_like(z)
    _each[(1,)](z, value, slope, kind, len(z))
    unit = torch.finfo(dtype).eps
    for found, (exact, terms) in zip((value, slope), exactly(kind, z.double().cpu()), strict=True):
        assert float(((found.double().cpu() - exact).abs() / (unit * (terms + unit))).max()) < 10


def exactly(kind, z):
    """σ and σ′ at all z, and the sizes of the terms that they are sums of."""
    with mpmath.workprec(120):
        for terms in TERMS[kind]:
            found = [[float(t) for t in terms(mpmath.mpf(v))] for v in z.tolist()]
            table = torch.tensor(found, dtype=torch.float64)
            yield table.sum(1), table.abs().sum(1)


TERMS = [
    (lambda z: [z * mpmath.ncdf(z)], lambda z: [mpmath.ncdf(z), z * mpmath.npdf(z)]),
    (lambda z: [mpmath.tanh(z)], lambda z: [mpmath.sech(z) ** 2]),
]
