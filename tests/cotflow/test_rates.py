"""Exponents, their intervals, and limits: exact on series whose rate or limit is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cotflow.measure.rates import loglog_slope, mean_interval, richardson, span

x = np.array([2.0, 4.0, 8.0, 16.0, 64.0])


@given(
    slope=st.floats(-4, 4),
    intercept=st.floats(-5, 5),
    seeds=st.integers(1, 5),
    scale=st.floats(0, 1),
)
def test_slope_is_exact_on_power_laws(slope, intercept, seeds, scale):
    """Every seed has its own constant and the same exponent: the interval is a point."""
    constants = intercept + scale * np.arange(seeds)
    fit = loglog_slope(x, np.exp(constants)[:, None] * x**slope)
    assert fit.slope == pytest.approx(slope, abs=1e-10)
    assert fit.intercept == pytest.approx(constants.mean(), abs=1e-9)
    assert fit.low <= fit.slope <= fit.high
    assert fit.high - fit.low < 1e-6
    np.testing.assert_allclose(fit.slopes, slope, atol=1e-10)
    np.testing.assert_allclose(fit.fitted(x), np.exp(constants.mean()) * x**slope, rtol=1e-8)


@pytest.mark.parametrize("confidence, lowest, highest", [(0.95, 0.92, 0.98), (0.5, 0.46, 0.54)])
@pytest.mark.parametrize("seeds", [1, 4])
def test_interval_covers_the_exponent_as_often_as_it_says(seeds, confidence, lowest, highest):
    rng = np.random.default_rng(0)
    draws, slope, hits, widths = 2000, -0.5, 0, []
    for _ in range(draws):
        noise = 0.3 * rng.standard_normal((seeds, x.size))
        fit = loglog_slope(x, np.exp(1.0 + noise) * x**slope, confidence)
        hits += fit.low <= slope <= fit.high
        widths.append(fit.high - fit.low)
    assert lowest <= hits / draws <= highest
    assert min(widths) > 0


def test_mean_interval_covers_as_often_as_it_says():
    values = np.random.default_rng(1).standard_normal((2000, 5)) + 3.0
    intervals = [mean_interval(row) for row in values]
    assert 0.92 <= np.mean([low <= 3.0 <= high for _, low, high in intervals]) <= 0.98
    for row, (mean, low, high) in zip(values, intervals, strict=True):
        assert mean == pytest.approx(row.mean())
        assert mean - low == pytest.approx(high - mean)


def test_slope_over_seeds_is_the_mean_of_the_seeds_slopes():
    y = np.stack([x**-1.0, 3 * x**-2.0, 5 * x**-1.5])
    fit = loglog_slope(x, y)
    np.testing.assert_allclose(fit.slopes, [-1, -2, -1.5])
    assert (fit.slope, fit.low, fit.high) == pytest.approx(mean_interval([-1, -2, -1.5]))
    assert fit.interval == "95% over 3 seeds"
    assert fit.measured() == {
        "measured": fit.slope,
        "low": fit.low,
        "high": fit.high,
        "interval": fit.interval,
    }


def test_single_seed_takes_its_interval_from_the_residuals():
    y = x**-1.0 * np.exp([0.1, -0.1, 0.1, -0.1, 0.1])
    one, matrix = loglog_slope(x, y), loglog_slope(x, y[None])
    assert (one.slope, one.low, one.high) == (matrix.slope, matrix.low, matrix.high)
    assert one.low < one.slope < one.high and math.isfinite(one.high)
    assert one.interval == "95%, residuals of one fit"
    wider = loglog_slope(x, y, confidence=0.99)
    assert wider.low < one.low and one.high < wider.high


def test_agrees_with_an_independent_regression():
    y = x**-1.0 * np.random.default_rng(2).uniform(0.5, 2.0, x.size)
    expected = stats.linregress(np.log(x), np.log(y))
    fit = loglog_slope(x, y)
    assert (fit.slope, fit.intercept) == pytest.approx((expected.slope, expected.intercept))
    half = stats.t.ppf(0.975, x.size - 2) * expected.stderr
    assert (fit.low, fit.high) == pytest.approx((fit.slope - half, fit.slope + half))


def test_constant_data_have_slope_zero_exactly():
    fit = loglog_slope(x, np.ones_like(x))
    assert (fit.slope, fit.low, fit.high) == (0.0, 0.0, 0.0)


def test_two_points_of_one_seed_leave_the_interval_open():
    fit = loglog_slope([1.0, 2.0], [1.0, 0.25])
    assert fit.slope == pytest.approx(-2)
    assert (fit.low, fit.high) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    "abscissae, ordinates, message",
    [
        ([1.0], [1.0], r"at least 2 points .* received \(1,\) and \(1, 1\)"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"received \(2,\) and \(1, 3\)"),
        ([[1.0, 2.0]], [1.0, 2.0], r"received \(1, 2\) and \(1, 2\)"),
        ([0.3, 0.3, 0.3], [1.0, 3.0, 2.0], "at least 2 different x, received 0.3 alone"),
        ([1.0, 2.0], [1.0, 0.0], "expected positive finite numbers"),
        ([1.0, 2.0], [1.0, math.nan], "expected positive finite numbers"),
        ([0.0, 2.0], [1.0, 1.0], "expected positive finite numbers"),
        ([1.0, math.inf], [1.0, 1.0], "expected positive finite numbers"),
        ([1.0, 2.0], np.ones((0, 2)), r"received \(2,\) and \(0, 2\)"),
        ([], [], r"at least 2 points .* received \(0,\) and \(1, 0\)"),
        ([1e300, np.nextafter(1e300, 2e300)], [1.0, 2.0], "at least 2 different x"),
        ([1.0, 2.0], [1.0, 2.0j], "expected real numbers, received complex128"),
        ([1.0, 2.0], ["a", "b"], "expected real numbers, received <U1"),
    ],
)
def test_bad_points_give_one_sentence(abscissae, ordinates, message):
    with pytest.raises(ValueError, match=f"^slope: .*{message}"):
        loglog_slope(abscissae, ordinates)


def test_an_interval_needs_two_values():
    with pytest.raises(ValueError, match="expected at least 2 values, received 1"):
        mean_interval([1.0])


def test_an_interval_is_over_one_row():
    with pytest.raises(ValueError, match=r"expected one row of values, received shape \(2, 3\)"):
        mean_interval(np.ones((2, 3)))


def test_polynomials_in_one_over_depth_are_extrapolated_exactly():
    inverse = 1.0 / np.array([5.0, 10.0, 20.0, 40.0])
    values = np.stack([3.0 - inverse + 2.0 * inverse**2 + 7.0 * inverse**3, 1.0 + inverse], -1)
    limit, error = richardson(values)
    assert limit == pytest.approx([3.0, 1.0], abs=1e-12)
    assert error[1] < 1e-12


def test_compound_interest_tends_to_the_exponential_within_its_error_estimate():
    depths = np.array([8.0, 16.0, 32.0, 64.0])
    limit, error = richardson((1.0 + 1.0 / depths) ** depths)
    assert abs(limit - np.e) < error < 1e-4


def test_one_depth_is_refused():
    with pytest.raises(ValueError, match="at least 2 depths, received 1"):
        richardson([1.0])


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_a_span_is_all_values(make):
    values = [2.0, 0.5, 0.5]
    found = {point: span(make(values), "three", point=point) for point in ("max", "mean", "min")}
    assert [fields.pop("measured") for fields in found.values()] == [2.0, 1.0, 0.5]
    for fields in found.values():
        assert fields == {"low": 0.5, "high": 2.0, "interval": "range over three"}


def test_a_slope_and_a_span_fill_the_same_fields():
    assert loglog_slope(x, x).measured().keys() == span(x, "points").keys()


SUMMARIES = {
    "interval": mean_interval,
    "extrapolation": richardson,
    "span": lambda values: span(values, "three"),
}


@pytest.mark.parametrize("what", SUMMARIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused(what, bad):
    with pytest.raises(
        ValueError, match=f"^{what}: expected finite numbers, received 1 .* among 3"
    ):
        SUMMARIES[what]([1.0, bad, 2.0])
    with pytest.raises(ValueError, match=f"^{what}: expected real numbers, received complex128"):
        SUMMARIES[what]([1.0, 2.0j, 2.0])


@pytest.mark.parametrize("what", SUMMARIES)
def test_no_values_are_refused(what):
    with pytest.raises(ValueError, match=f"^{what}: expected at least .* received 0"):
        SUMMARIES[what]([])


def test_a_span_of_tensors_is_checked_as_well():
    for bad in (torch.tensor([1.0, math.nan]), torch.tensor([])):
        with pytest.raises(ValueError, match=r"^span: expected"):
            span(bad, "two")
    assert span([3.0], "one")["low"] == span([3.0], "one")["high"] == 3.0


def test_an_interval_is_over_values_in_a_row():
    with pytest.raises(ValueError, match=r"one row of values, received shape \(2, 2\)"):
        mean_interval([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95.0, math.nan])
def test_a_confidence_that_is_none_is_refused(confidence):
    for ask in (lambda c: mean_interval([1.0, 2.0], c), lambda c: loglog_slope(x, x, c)):
        with pytest.raises(ValueError, match=f"expected 0 < confidence < 1, received {confidence}"):
            ask(confidence)


@given(
    exponent=st.floats(-100, 100),
    values=st.lists(st.floats(0.1, 10.0), min_size=5, max_size=5),
    seed=st.integers(0, 100),
)
def test_slopes_do_not_depend_on_units_or_order(exponent, values, seed):
    order = np.random.default_rng(seed).permutation(5)
    fit, unit = loglog_slope(x, values), 10.0**exponent
    other = loglog_slope(unit * x[order], unit * np.array(values)[order])
    assert (other.slope, other.low, other.high) == pytest.approx(
        (fit.slope, fit.low, fit.high), rel=1e-9, abs=1e-9
    )
