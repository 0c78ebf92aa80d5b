"""What every distance refuses, at every scale it takes, and a solver that is not believed."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotflow.transport import simplex
from cotflow.transport.entropic import entropic_distance
from cotflow.transport.exact import (
    conditional_distance,
    labelled_distance,
    layer_distances,
    product_distance,
)
from cotflow.transport.geodesics import geodesic
from cotflow.transport.layers import root_of_squares
from cotflow.transport.sliced import sliced_distance
from problems import family, sizes, width

NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def without_jaxtyping(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def sliced(mu, nu):
    return sliced_distance(mu, nu, torch.eye(mu.shape[-1], dtype=torch.float64)).squared


def entropic(mu, nu):
    return entropic_distance(mu, nu, 1.0).value


DISTANCES = [
    conditional_distance,
    layer_distances,
    labelled_distance,
    product_distance,
    geodesic,
    sliced,
    entropic,
]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_atoms_that_are_no_numbers_are_refused_at_once(distance, bad):
    broken = family(0)
    broken[1, 2, 0] = bad
    for pair in ((broken, family(1)), (family(1), broken)):
        with pytest.raises(ValueError, match=r"expected finite atoms, received 1 .* among 24"):
            distance(*pair)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.complex128, torch.int64, torch.bool])
def test_atoms_of_another_kind_are_refused(distance, dtype):
    with pytest.raises(ValueError, match="expected real floating-point atoms, received"):
        distance(family(0).to(dtype), family(1))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 0, 2), (3, 4, 0)])
def test_families_without_layers_atoms_or_dimension_are_refused(distance, shape):
    empty = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"at least one of each, received shape"):
        distance(empty, empty)


@pytest.mark.parametrize("distance", DISTANCES)
def test_families_on_two_devices_or_without_numbers_are_refused(distance):
    here, nowhere = family(0), family(1).to("meta")
    for pair in ((here, nowhere), (nowhere, here), (nowhere, nowhere)):
        with pytest.raises(ValueError, match=r"expected two families of numbers on one device, re"):
            distance(*pair)


@pytest.mark.parametrize("distance", DISTANCES)
def test_families_of_two_precisions_are_compared_in_the_finer_one(distance):
    mu, nu = family(0).float(), family(1)
    found, expected = distance(mu, nu), distance(mu.double(), nu)
    if distance is geodesic:
        found, expected = found.at(0.3), expected.at(0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_product_distances_are_those_of_one_run():
    with pytest.raises(ValueError, match=r"two families \(L, m, p\)"):
        product_distance(family(0, runs=(2,)), family(1, runs=(2,)))


@pytest.mark.parametrize("others", [1, 3])
def test_particle_j_goes_to_particle_j_and_there_are_as_many(others):
    with pytest.raises(ValueError, match=r"received \(3, 4, 2\) and \(3, 1, 2\)|\(3, 3, 2\)"):
        labelled_distance(family(0), family(1, width=others))


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ([0.25, 0.25, 0.25, NAN], "expected finite masses, received [13]"),
        ([0.25, 0.25, 0.25, INF], "expected finite masses, received [13]"),
        ([0.75, 0.75, -0.25, -0.25], r"expected masses ≥ 0, received -0\.25"),
        ([0.0, 0.0, 0.0, 0.0], "of sum 1 in every layer, received a layer of sum 0"),
        ([0.5, 0.5, 0.5, 0.5], "received a layer of sum 2"),
        ([0.25, 0.25, 0.25, 0.2500001], r"received a layer of sum 1\.0000001"),
        ([1e308, 1e308, 0.0, 0.0], "received a layer of sum inf"),
        ([0.5, 0.5], r"expected masses of shape \(3, 4\).* received \(3, 2\)"),
    ],
)
def test_masses_that_are_none_are_refused(layer, sentence):
    mass = torch.tensor(layer, dtype=torch.float64).expand(3, -1)
    fine = torch.full((3, 4), 0.25, dtype=torch.float64)
    for masses in ((mass, fine), (fine, mass)):
        for distance in (conditional_distance, layer_distances):
            with pytest.raises(ValueError, match=sentence):
                distance(family(0), family(1), masses)


def test_masses_of_single_precision_and_of_zero_are_masses():
    mass = torch.tensor([0.1, 0.2, 0.7, 0.0]).expand(3, 4)
    fine = torch.full((3, 7), 1 / 7)
    double = [m.double() / m.double().sum(-1, keepdim=True) for m in (mass, fine)]
    pair = family(0), family(1, width=7)
    found, expected = (conditional_distance(*pair, masses) for masses in ((mass, fine), double))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


# -------------------------------------------------------------------------------------- scale


@given(**sizes, m=width, m2=width, k=st.integers(-1000, 1000))
def test_distances_are_homogeneous_to_the_bit_in_powers_of_two(seed, layers, p, m, m2, k):
    mu, nu = family(seed, layers, m, p), family(seed + 1, layers, m2, p)
    scale = 2.0**k
    expected = conditional_distance(mu, nu)
    rtol = 0 if m == m2 else 1e-12  # the simplex may pivot otherwise
    torch.testing.assert_close(
        conditional_distance(scale * mu, scale * nu) / scale, expected, rtol=rtol, atol=0
    )
    flipped = mu.flip(0)
    assert torch.equal(
        labelled_distance(scale * mu, scale * flipped), scale * labelled_distance(mu, flipped)
    )


@given(
    seed=sizes["seed"], exponent=st.floats(-150, 150), m=st.integers(2, 30), m2=st.integers(2, 30)
)
def test_distances_are_homogeneous_over_many_powers_of_ten(seed, exponent, m, m2):
    mu, nu, scale = family(seed, 2, m, 2), family(seed + 1, 2, m2, 2), 10.0**exponent
    for distance in (conditional_distance, lambda *pair: geodesic(*pair).action.sqrt()):
        torch.testing.assert_close(
            distance(scale * mu, scale * nu) / scale, distance(mu, nu), rtol=1e-12, atol=0
        )


@given(seed=sizes["seed"], shift=st.sampled_from([0.0, 1.0, 1e3, -1e6]), m2=width)
def test_a_common_translation_and_a_permutation_change_nothing(seed, shift, m2):
    mu, nu = family(seed, 2, 5, 2), family(seed + 1, 2, m2, 2)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        conditional_distance(mu[:, order] + shift, nu + shift),
        conditional_distance(mu, nu), rtol=1e-9, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize("scale", [1e-7, 1e-8, 1e-9, 1e9, 1e-160, 1e160])
def test_twenty_atoms_and_thirty_are_as_far_apart_at_every_scale(scale):
    mu, nu = family(0, width=20), family(1, width=30)
    expected = float(conditional_distance(mu, nu))
    assert float(conditional_distance(scale * mu, scale * nu)) / scale == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("far", [1e3, 1e5, 1e7, 1e9])
def test_a_matched_outlier_does_not_spoil_the_rest(far):
    """2 of 22 atoms and 3 of 33 at one far place: d² is 10/11 of what it is without them."""
    mu, nu = family(0, width=20), family(1, width=30)
    with_far = [
        torch.cat([f, torch.full((3, f.shape[1] // 10, 2), far, dtype=torch.float64)], 1)
        for f in (mu, nu)
    ]
    expected = math.sqrt(10 / 11) * float(conditional_distance(mu, nu))
    assert float(conditional_distance(*with_far)) == pytest.approx(expected, rel=1e-9)
    path = geodesic(*with_far)
    assert float(path.action.sqrt()) == pytest.approx(expected, rel=1e-9)


def test_a_weighted_outlier_does_not_either():
    mu, nu = family(0, width=6), family(1, width=9)
    masses = [torch.full((3, f.shape[1]), 1 / f.shape[1], dtype=torch.float64) for f in (mu, nu)]
    far = torch.full((3, 1, 2), 1e7, dtype=torch.float64)
    tenth = torch.full((3, 1), 0.1, dtype=torch.float64)
    found = conditional_distance(
        torch.cat([mu, far], 1),
        torch.cat([nu, far], 1),
        tuple(torch.cat([0.9 * mass, tenth], 1) for mass in masses),
    )
    expected = math.sqrt(0.9) * float(conditional_distance(mu, nu))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_a_distance_beyond_the_range_of_numbers_is_refused():
    far = torch.full((1, 2, 1), 1.7e308, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"within the range of numbers, received atoms up to 1\.7"):
        conditional_distance(far, -far)
    with pytest.raises(ValueError, match="within the range of float32"):
        labelled_distance(far.float().nan_to_num(posinf=3e38), -far.float().nan_to_num(posinf=3e38))
    with pytest.raises(ValueError, match="within the range of float32"):
        near = torch.full((1, 2, 1), 1e30, dtype=torch.float32)
        sliced_distance(near, -near, torch.ones(1, 1, dtype=torch.float32))
    assert float(conditional_distance(far, 0.5 * far)) == pytest.approx(0.85e308)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_labelled_distance_uses_the_whole_range_of_its_precision(dtype):
    limits = torch.finfo(dtype)
    for size in (limits.tiny, limits.max / 4):
        mu = torch.full((2, 3, 1), size, dtype=dtype)
        assert float(labelled_distance(mu, -mu)) == pytest.approx(2 * size, rel=2 * limits.eps)
    assert float(labelled_distance(mu, mu)) == 0.0


def test_roots_of_squares_have_their_gradient():
    values = family(0)[0].requires_grad_()
    root_of_squares(values, (-2, -1), 1).backward()
    torch.testing.assert_close(values.grad, (values / values.norm()).detach())


# ------------------------------------------------------------------------------------- solver


def rigged(monkeypatch, **changes):
    """POT's solver with a part of its answer replaced."""
    import ot

    solve = ot.emd

    def emd(*args, **options):
        plan, log = solve(*args, **options)
        return changes.get("plan", lambda p: p)(plan), log | changes.get("log", {})

    monkeypatch.setattr(ot, "emd", emd)


def test_a_solver_that_gives_up_is_an_error(monkeypatch):
    monkeypatch.setattr(simplex, "ITERATIONS", 1)
    with pytest.raises(RuntimeError, match=r"network simplex: .* numItermax"):
        conditional_distance(family(0, width=20), family(1, width=30))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: 0.0 * p, "a plan with the given masses"),
        (lambda p: p * np.nan, "a plan with the given masses"),
        (lambda p: np.outer(p.sum(1), p.sum(0)) / p.sum(), "the dual proves"),
    ],
)
def test_a_plan_that_is_none_or_not_the_best_is_an_error(monkeypatch, change, sentence):
    rigged(monkeypatch, plan=change)
    with pytest.raises(RuntimeError, match=f"network simplex: .*{sentence}"):
        conditional_distance(family(0, width=4), family(1, width=6))


# ----------------------------------------------------------------------------------- entropic


def test_an_epsilon_below_the_resolution_of_the_costs_is_refused_with_the_least_one():
    mu, nu = family(0, width=2).float(), family(1, width=1).float()
    with pytest.raises(
        ValueError, match=r"expected epsilon ≥ [\d.e-]+, .* float32 .* 1e-09"
    ) as told:
        entropic_distance(mu, nu, 1e-9)
    least = float(str(told.value).split("epsilon ≥ ")[1].split(",")[0])
    assert 1e-3 < least < 1.0
    entropic_distance(mu, nu, 2 * least)
    entropic_distance(mu.double(), nu.double(), least)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, NAN, 1.0, INF])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(ValueError, match="expected 0 < tolerance < 1"):
        entropic_distance(family(0), family(1), 1.0, tolerance=tolerance)


@pytest.mark.parametrize("iterations", [0, -1, 1.5, NAN, "7", None])
def test_iterations_are_a_whole_number(iterations):
    with pytest.raises(ValueError, match="expected max_iterations ≥ 1, received"):
        entropic_distance(family(0), family(1), 1.0, max_iterations=iterations)


@pytest.mark.parametrize("wrong", ["1", None, [1.0], True])
def test_what_is_no_number_is_none(wrong):
    with pytest.raises(ValueError, match="expected a finite epsilon > 0, received"):
        entropic_distance(family(0), family(1), wrong)
    with pytest.raises(ValueError, match="expected 0 < tolerance < 1, received"):
        entropic_distance(family(0), family(1), 1.0, tolerance=wrong)


@given(
    seed=sizes["seed"],
    m=st.integers(1, 4),
    m2=st.integers(1, 4),
    factor=st.floats(1, 1e4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    tolerance=st.sampled_from([1e-3, 1e-5]),
)
def test_no_value_is_below_the_exact_one_by_more_than_the_tolerance(
    seed, m, m2, factor, dtype, tolerance
):
    """For every ε that is taken, wherever the iterations end: W₂² − tolerance·max C."""
    mu, nu = family(seed, 1, m, 2).to(dtype), family(seed + 1, 1, m2, 2).to(dtype)
    largest = max(
        float((a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1).max())
        for a, b in ((mu, nu), (mu, mu), (nu, nu))
    )
    epsilon = 1.01 * factor * torch.finfo(dtype).eps * largest / (4 * tolerance)
    try:
        found = entropic_distance(mu, nu, epsilon, tolerance=tolerance, max_iterations=300)
    except RuntimeError as unfinished:
        assert "a marginal is off by" in str(unfinished)
        return
    slack = largest * (tolerance + 16 * torch.finfo(dtype).eps)
    squared = layer_distances(mu, nu).square()
    assert bool((found.value >= squared - slack).all())
    assert bool((found.transport >= squared - slack).all())


@given(seed=sizes["seed"], k=st.integers(-200, 200))
def test_entropic_values_are_homogeneous(seed, k):
    mu, nu, scale = family(seed), family(seed + 1), 2.0**k
    one, other = (
        entropic_distance(mu, nu, 4.0),
        entropic_distance(scale * mu, scale * nu, 4.0 ** (k + 1)),
    )
    torch.testing.assert_close(other.value / scale**2, one.value, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------- sliced


@pytest.mark.parametrize(
    ("theta", "sentence"),
    [
        (torch.ones(3, 1), r"shape \(J, 2\), J ≥ 1, received \(3, 1\)"),
        (torch.ones(0, 2), r"received \(0, 2\)"),
        (torch.eye(2, dtype=torch.int64), "of int64"),
        (torch.ones(3, 2), r"unit vectors, received one of length 1\.41"),
        (torch.full((3, 2), NAN), "unit vectors, received one of length nan"),
    ],
)
def test_directions_that_are_none_are_refused(theta, sentence):
    with pytest.raises(ValueError, match=sentence):
        sliced_distance(family(0), family(1), theta)
