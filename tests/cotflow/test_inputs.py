"""The door of the gradient: both engines give the same answer, or the same sentence."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad

from cotflow.adjoint import compiled
from cotflow.adjoint.gradient import evaluated, gradient
from cotflow.network import memory
from cotflow.network.activations import ACTIVATIONS, COVERED, TANH
from cotflow.network.residual import ResidualNet, marion_net
from cotflow.network.weights import Weights
from problems import ALL, MISSING, random_problem

BACKENDS = ["plain", *(["compiled"] if MISSING is None else []), "auto"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def as_users_see_it(monkeypatch):
    """Without the annotations' own checks, which only the tests run."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def large(runs=(), dtype=torch.float64):
    """A problem for which the kernel is chosen."""
    return random_problem(3, runs, depth=32, q=16, m=32, d=16, dy=4, n=50, bias=False, dtype=dtype)


def same(one, other):
    """Whether two gradients agree to rounding; on the meta device in shapes."""
    pairs = [(one.loss, other.loss), (one.slope_squared, other.slope_squared)]
    pairs += [(one.velocity[name], value) for name, value in other.velocity.items()]
    for a, b in pairs:
        assert a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        if not a.is_meta:
            scale = float(b.abs().max()) + 1e-30
            tolerance = {torch.float64: 1e-11, torch.float32: 1e-4}.get(b.dtype, 0.2)
            assert float((a - b).abs().max()) <= tolerance * scale


@every_backend
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w, x, y: (w, x, y.long()), "expected y of x's dtype .* received torch.int64"),
        (lambda w, x, y: (w, x, y > 0), "received torch.bool"),
        (lambda w, x, y: (w, x, y.float()), "received torch.float32"),
        (lambda w, x, y: (w, x.float(), y), "expected y of x's dtype and device, torch.float32"),
        (lambda w, x, y: (w.to(dtype=torch.complex128), x * 1j, y * 1j), "real .*complex128"),
        (lambda w, x, y: (w, x.long(), y), "real floating-point dtype, received torch.int64"),
        (lambda w, x, y: (w, x, y[:, :1]), r"d′\).*received .*y \(50, 1\)"),
        (lambda w, x, y: (w, x, y[:40]), r"received .*y \(40, 4\)"),
        (lambda w, x, y: (w, x, y[:1]), r"received .*y \(1, 4\)"),
        (lambda w, x, y: (w, x, y[:, 0]), r"received .*y \(50,\)"),
        (lambda w, x, y: (w, x[:, :3], y), r"received x \(50, 3\)"),
        (lambda w, x, y: (w, x[0], y), r"received x \(16,\)"),
        (lambda w, x, y: (w, x[:0], y[:0]), "expected at least one .*received x"),
        (lambda w, x, y: (w, x.expand(0, -1, -1), y), "expected at least one"),
        (lambda w, x, y: (w, x, y.expand(0, -1, -1)), "expected at least one"),
        (lambda w, x, y: (replace(w, V=w.V[:0], W=w.W[:0]), x, y), "expected at least one"),
        (lambda w, x, y: (w, x.expand(3, -1, -1), y.expand(2, -1, -1)), "with the same runs"),
        (lambda w, x, y: (w, x, y.to("meta")), "received torch.float64 on meta"),
        (lambda w, x, y: (w.to(device="meta"), x, y), "A of x's .*on meta"),
        (lambda w, x, y: (w, x, y.to_sparse()), "strided"),
        (lambda w, x, y: (w, x, y.numpy()), "torch tensor for y, received numpy.ndarray"),
        (lambda w, x, y: (w, x.tolist(), y), "torch tensor for x, received builtins.list"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(backend, change, sentence):
    weights, x, y = change(*large())
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        gradient(marion_net(), weights, x, y, backend=backend)
    assert str(caught.value).startswith("gradient: ") and "\n" not in str(caught.value)


@every_backend
def test_runs_are_given_or_left_out_and_not_stretched(backend):
    net = marion_net()
    weights, x, y = large(runs=(3,))
    one, x1, y1 = large()
    for w, a, b in ((weights, x1, y1), (one, x, y1), (one, x1, y), (weights, x1, y), (one, x, y)):
        whole = gradient(net, w, a, b, backend=backend)
        for k in range(3):
            parts = (w.run(k) if w.runs else w, *(t[k] if t.ndim > 2 else t for t in (a, b)))
            alone = gradient(net, *parts, backend=backend)
            torch.testing.assert_close(whole.loss[k], alone.loss, rtol=1e-12, atol=0)
            torch.testing.assert_close(whole.velocity["A"][k], alone.velocity["A"])
            torch.testing.assert_close(whole.velocity["V"][k], alone.velocity["V"])
    for w, a, b in ((weights, x[:1], y), (weights, x, y[:1]), (weights.run(0), x[:2], y)):
        with pytest.raises(ValueError, match="x and y with the runs or without"):
            gradient(net, w, a, b, backend=backend)
    with pytest.raises(ValueError, match="all weights with the same runs"):
        gradient(net, replace(weights, A=weights.A[0]), x, y, backend=backend)


@pytest.mark.parametrize("segment", [0, -1, 1.5, 2.0, "2"])
def test_a_segment_is_a_whole_number_of_layers(segment):
    with pytest.raises(ValueError, match="at least 1 layer, a whole number, received"):
        gradient(marion_net(), *large(), segment=segment)


@every_backend
def test_numbers_of_numpy_and_torch_are_segments(backend):
    net, problem = marion_net(), large()
    expected = gradient(net, *problem, backend=backend, segment=4)
    for segment in (np.int64(4), torch.tensor(4)):
        found = gradient(net, *problem, backend=backend, segment=segment)
        assert torch.equal(found.velocity["V"], expected.velocity["V"])


def noted(value):
    """The same numbers, their sign only noted down."""
    return torch._neg_view(-value)


VIEWS = {
    "as it is": lambda t: t,
    "transposed": lambda t: t.mT.contiguous().mT,
    "every other": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "reversed twice": lambda t: t.flip(-1).flip(-1),
    "negated twice": noted,
    "off by one": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "parameter": lambda t: torch.nn.Parameter(t.detach().clone()),
    "of autograd": lambda t: t.detach().clone().requires_grad_() * 1.0,
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.complex128]


def outcome(backend, *arguments, **options):
    """A gradient, or the kind and the sentence of a refusal."""
    try:
        return gradient(*arguments, backend=backend, **options)
    except (ValueError, TypeError) as error:
        return type(error), str(error)


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_both_engines_give_the_same_answer_or_the_same_refusal(data):
    draw = data.draw
    q, m = draw(st.sampled_from([(3, 2), (16, 32)]))
    runs, dtype = draw(st.sampled_from([(), (2,), (2, 2)])), draw(st.sampled_from(DTYPES[:3]))
    size = {"depth": draw(st.integers(1, 3)), "n": draw(st.sampled_from([1, 2, 33]))}
    weights, x, y = random_problem(draw(st.integers(0, 99)), runs, q=q, m=m, **size)
    named = {**weights.tensors(), "x": x, "y": y}
    if draw(st.booleans()):
        del named["b"]
    named = {name: value.to(dtype) for name, value in named.items()}
    device = draw(st.sampled_from(["cpu", "cpu", "cpu", "meta"]))
    named = {name: value.to(device) for name, value in named.items()}
    for name in named:
        named[name] = VIEWS[draw(st.sampled_from(sorted(VIEWS)))](named[name])
    wrong = draw(
        st.sampled_from(["none", "none", "dtype", "shape", "device", "empty", "data runs"])
    )
    name = draw(st.sampled_from(sorted(named)))
    if wrong == "dtype":
        named[name] = named[name].to(draw(st.sampled_from(DTYPES)))
    elif wrong == "device":
        named[name] = named[name].to("meta")
    elif wrong in ("shape", "empty"):
        axis = draw(st.integers(0, named[name].ndim - 1))
        kept = 0 if wrong == "empty" else draw(st.integers(1, named[name].shape[axis]))
        named[name] = named[name].narrow(axis, 0, kept)
    elif wrong == "data runs":
        x, y = (named[k][(0,) * draw(st.integers(0, len(runs)))] for k in ("x", "y"))
        named |= {"x": x, "y": y}
    x, y = named.pop("x"), named.pop("y")
    try:
        weights = Weights(**named)
    except ValueError:
        return
    sigma = draw(st.sampled_from(["tanh", "relu"]))
    net = ResidualNet(ACTIVATIONS[sigma], trained=ALL)
    segment = draw(st.sampled_from([None, 1, 2]))
    plain = outcome("plain", net, weights, x, y, segment=segment)
    for backend in BACKENDS[1:]:
        found = outcome(backend, net, weights, x, y, segment=segment)
        if isinstance(plain, tuple):
            assert found == plain and plain[1].startswith("gradient: ")
        elif backend == "compiled" and (x.is_meta or dtype == torch.bfloat16):
            assert found[0] is ValueError and "backend 'compiled'" in found[1]
        else:
            same(found, plain)


@every_backend
def test_ambient_modes_of_torch_do_not_matter(backend):
    net, (weights, x, y) = marion_net(), large(dtype=torch.float32)
    expected = gradient(net, weights, x, y, backend=backend)
    float64, before = torch.float64, torch.get_default_dtype()
    modes = {
        "a device": lambda: torch.device("meta"),
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "inference": torch.inference_mode,
        "no gradients": torch.no_grad,
    }
    found = {}
    for name, mode in modes.items():
        with mode():
            found[name] = gradient(net, weights, x, y, backend=backend)
            moved = weights.plus(found[name].velocity, 0.1)
        assert torch.equal(moved.V, weights.plus(expected.velocity, 0.1).V), name
    try:
        torch.set_default_dtype(float64)
        found["float64"] = gradient(net, weights, x, y, backend=backend)
    finally:
        torch.set_default_dtype(before)
    for name, result in found.items():
        assert torch.equal(result.loss, expected.loss), name
        assert torch.equal(result.slope_squared, expected.slope_squared), name
        for key, value in expected.velocity.items():
            assert torch.equal(result.velocity[key], value), (name, key)


@every_backend
def test_what_a_transform_of_torch_has_wrapped_is_refused_in_one_sentence(backend):
    net, (weights, x, y) = marion_net(), large()

    def loss(value):
        return gradient(net, weights, value, y, backend=backend).loss

    def tangent(value):
        with forward_ad.dual_level():
            return loss(forward_ad.make_dual(value, torch.ones_like(value)))

    ones = torch.ones_like(x)
    for wrapped in (
        tangent,
        torch.func.grad(loss),
        torch.func.functionalize(loss),
        lambda value: torch.vmap(loss)(value.expand(2, -1, -1)),
        lambda value: torch.func.jvp(loss, (value,), (ones,)),
    ):
        with pytest.raises(TypeError, match=r"^gradient: expected plain tensors, received x under"):
            wrapped(x)
    assert torch.equal(torch.vmap(lambda other: loss(x) + 0 * other)(y[0])[0], loss(x))


@every_backend
def test_a_mode_of_torch_sees_what_the_plain_engine_does_or_is_told_of_it(backend):
    net, (weights, x, y) = marion_net(), large()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for known in (lambda value: value, mode.from_tensor):
            arguments = weights.map(known), known(x), known(y)
            if backend == "compiled":
                with pytest.raises(ValueError, match=r"^backend 'compiled': expected plain"):
                    gradient(net, *arguments, backend=backend)
            else:
                found = gradient(net, *arguments, backend=backend)
                assert isinstance(found.loss, FakeTensor)
                assert found.velocity["V"].shape == weights.V.shape


@every_backend
def test_memory_is_of_the_tensor_and_not_of_the_ambient_device(backend, monkeypatch):
    monkeypatch.setattr(memory, "_free", type(memory._free)(maxlen=memory.KEPT))
    with torch.device("meta"):
        block = memory.empty((300, 300), torch.ones(1, device="cpu"))
    block.fill_(2.0)
    assert block.device.type == "cpu" and float(block.sum()) == 180000.0


def sent(value):
    """The value as another process would receive it."""
    here, there = Pipe()
    with here, there, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(here.send, value)
        received = there.recv()
        sending.result()
    return received


@every_backend
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("twin", [copy.deepcopy, sent])
def test_a_copy_of_a_network_is_the_same_network_on_the_same_engine(backend, name, twin):
    net, (weights, x, y) = marion_net(ACTIVATIONS[name], speed={"W": 2.0}), large()
    other = twin(net)
    assert other == net
    assert compiled.available(other, weights, x) == compiled.available(net, weights, x)
    if backend == "compiled" and not compiled.supports(net, weights, x):
        return
    one = gradient(net, weights, x, y, backend=backend)
    two = gradient(other, twin(weights), twin(x), twin(y), backend=backend)
    assert all(torch.equal(value, two.velocity[key]) for key, value in one.velocity.items())
    assert torch.equal(one.loss, two.loss) and torch.equal(one.states, two.states)


def test_what_a_gradient_gave_can_be_copied():
    weights, x, y = large()
    found = gradient(marion_net(), weights, x, y)
    for twin in (copy.deepcopy(found), sent(found)):
        assert torch.equal(twin.velocity["V"], found.velocity["V"])
        assert torch.equal(twin.states, found.states)


def test_an_activation_that_only_looks_alike_is_not_taken_for_the_kernels_own():
    weights, x, _ = large()
    doubled = replace(TANH, value=ACTIVATIONS["cos"].value)
    assert not compiled.supports(marion_net(doubled), weights, x)


@pytest.mark.parametrize(
    ("name", "value"), [("V", torch.ones(2, 3)), ("A", torch.ones(())), ("B", torch.ones(3))]
)
def test_weights_with_too_few_axes_are_named(name, value):
    weights, _, _ = random_problem(bias=False)
    with pytest.raises(ValueError, match=f"weights: .*{name}"):
        replace(weights, **{name: value})


@every_backend
@pytest.mark.parametrize("activation", COVERED, ids=lambda a: a.name)
def test_what_is_no_number_stays_none_on_every_backend(backend, activation):
    weights, x, y = random_problem(depth=2)
    weights.b[0, 0] = math.nan
    found = evaluated(marion_net(activation), weights, x, y, backend=backend)
    assert not math.isfinite(float(found.loss))
