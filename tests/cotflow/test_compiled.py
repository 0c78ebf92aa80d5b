"""The compiled step: equal to the plain one, independent of threads, and absent without harm."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotflow.adjoint import compiled
from cotflow.adjoint.gradient import gradient
from cotflow.network import memory
from cotflow.network.activations import ACTIVATIONS, TANH
from cotflow.network.residual import ResidualNet, marion_net
from problems import ALL, random_problem, with_compiler

# A few sizes only, because each asks the compiler: whole registers, less than one, odd ones.
SIZES = [(16, 32), (3, 2), (20, 37)]


def largest_difference(one, other):
    """Largest entry of the differences of all results, relative to the largest entry."""
    pairs = [(one.velocity[k], other.velocity[k]) for k in other.velocity]
    pairs += [(getattr(one, k), getattr(other, k)) for k in ("states", "adjoints", "slope_squared")]
    return max(float((a - b).abs().max() / (b.abs().max() + 1e-30)) for a, b in pairs)


@with_compiler
@settings(max_examples=80)
@given(
    name=st.sampled_from([a.name for a in compiled.COVERED]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    size=st.sampled_from(SIZES),
    scalings=st.sampled_from([("sqrt", "sqrt", 1.0), ("mean", "none", 0.5), ("none", "none", 1.0)]),
    metric=st.sampled_from(["layer", "particle"]),
    trained=st.sampled_from([ALL, ("V", "W"), ("V",), ("W", "b")]),
    runs=st.sampled_from([(), (3,), (2, 2)]),
    depth=st.integers(1, 6),
    n=st.sampled_from([1, 7, 50]),
    bias=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_compiled_equals_plain_to_rounding(
    name, dtype, size, scalings, metric, trained, runs, depth, n, bias, seed
):
    q, m = size
    weights, x, y = random_problem(
        seed, runs, depth, q=q, m=m, d=min(q, 4), n=n, bias=bias, dtype=dtype
    )
    if trained == ("W", "b") and not bias:
        trained = ("W",)
    net = ResidualNet(ACTIVATIONS[name], *scalings, trained=trained, metric=metric)
    fast, plain = (gradient(net, weights, x, y, backend=b) for b in ("compiled", "plain"))
    assert set(fast.velocity) == set(plain.velocity)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    assert largest_difference(fast, plain) < tolerance
    assert float((fast.loss / plain.loss - 1).abs().max()) < tolerance


@with_compiler
@settings(max_examples=40)
@given(
    depth=st.integers(1, 12),
    segment=st.integers(1, 14),
    runs=st.sampled_from([(), (3,)]),
    threads=st.sampled_from([1, 2]),
    backend=st.sampled_from(["plain", "compiled"]),
    seed=st.integers(0, 2**20),
)
def test_checkpointing_over_depth_changes_memory_alone(
    depth, segment, runs, threads, backend, seed
):
    weights, x, y = random_problem(seed, runs, depth, q=3, m=2, d=3, n=7, bias=True)
    net, before = ResidualNet(TANH, trained=ALL), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = gradient(net, weights, x, y, backend=backend)
        kept = gradient(net, weights, x, y, backend=backend, segment=segment)
    finally:
        torch.set_num_threads(before)
    assert kept.states is None and kept.adjoints is None
    for name, value in whole.velocity.items():
        torch.testing.assert_close(kept.velocity[name], value, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(kept.slope_squared, whole.slope_squared, rtol=1e-13, atol=0)


def test_memory_comes_back_to_its_next_user_and_is_never_shared():
    like = torch.empty(1)
    first = memory.empty((300, 300), like)
    place, view = first.data_ptr(), first[7:9]
    del first
    assert memory.empty((300, 300), like).data_ptr() != place
    view.fill_(3.0)
    assert bool((view == 3.0).all())
    del view
    assert place in {memory.empty((300, 300), like).data_ptr() for _ in range(memory.KEPT)}


@with_compiler
def test_the_result_does_not_depend_on_the_number_of_threads():
    weights, x, y = random_problem(4, (2,), depth=5, q=16, m=32, n=50)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradient(marion_net(), weights, x, y, backend="compiled"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in results[0].velocity.items():
            if name in ("V", "W"):
                assert torch.equal(value, other.velocity[name])
        assert torch.equal(results[0].states, other.states)


@with_compiler
def test_weights_shared_by_runs_and_data_shared_by_runs():
    weights, _, _ = random_problem(1, depth=3, q=16, m=32)
    _, x, y = random_problem(2, (3,), q=16)
    shared = gradient(marion_net(), weights, x, y, backend="compiled")
    plain = gradient(marion_net(), weights, x, y, backend="plain")
    assert largest_difference(shared, plain) < 1e-12


@with_compiler
def test_results_survive_the_next_step():
    """Scratch memory is reused between steps; what a step returned must not change."""
    weights, x, y = random_problem(1, depth=4, q=16, m=32, n=50)
    first = gradient(marion_net(), weights, x, y, backend="compiled")
    kept = {name: value.clone() for name, value in first.velocity.items()}
    states, adjoints = first.states.clone(), first.adjoints.clone()
    other, x2, y2 = random_problem(9, depth=4, q=16, m=32, n=50)
    gradient(marion_net(), other, x2, y2, backend="compiled")
    assert torch.equal(first.states, states) and torch.equal(first.adjoints, adjoints)
    assert all(torch.equal(first.velocity[name], value) for name, value in kept.items())


@with_compiler
def test_auto_takes_the_kernel_only_when_there_is_enough_work():
    net = marion_net()
    small, x, _ = random_problem(depth=2)
    large, X, _ = random_problem(depth=64, q=16, m=32, n=50, bias=False)
    assert not compiled.available(net, small, x)
    assert compiled.available(net, large, X)


def test_what_the_kernel_does_not_cover_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    weights, x, y = random_problem(depth=2, bias=False)
    other = replace(TANH, name="scaled tanh")
    with pytest.raises(ValueError, match=r"received torch\.float64 on cpu with scaled tanh"):
        gradient(marion_net(other), weights, x, y, backend="compiled")
    expected = r"expected auto, plain, compiled, triton or .* received 'fast'"
    with pytest.raises(ValueError, match=expected):
        gradient(marion_net(), weights, x, y, backend="fast")
