"""Richardson extrapolation: the limit of values whose error is a power series in 1/L."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def richardson(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """v(L) = v + c_1/L + c_2/L² + …  at L, 2L, 4L, … gives v, and an estimate of its error.

    Column j of the tableau is (2^j v_{i+1} − v_i)/(2^j − 1) of the one before. The estimate is the
    difference between its last entry and the best one of the column before: an estimate, not a
    bound, and on the cautious side as long as the series behaves.

    Parameters
    ----------
    values : (depths, ...), every depth twice the one before.
    """
    column = np.asarray(values, dtype=float)
    if len(column) < 2:
        raise ValueError(f"extrapolation: expected at least 2 depths, received {len(column)}")
    for order in range(1, len(column)):
        before, gain = column[-1], 2.0**order
        column = (gain * column[1:] - column[:-1]) / (gain - 1.0)
    return np.asarray(column[-1]), np.asarray(np.abs(column[-1] - before))
