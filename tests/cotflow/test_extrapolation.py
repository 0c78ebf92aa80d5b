"""Richardson extrapolation on series whose limit is known."""

import numpy as np
import pytest

from cotflow.measure.rates import richardson


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
