"""Outward rounding: computed numbers made into bounds on the exact ones, u = 2⁻⁵³."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

from cotflow.network.numbers import real, shown

UNIT = 2.0**-53
# Below it products of a few numbers underflow, which the roundings here leave out.
LEAST = 1e-280
Reals = float | np.ndarray
# A bound that is beyond the range of numbers is infinite, and a bound.
BEYOND = np.errstate(over="ignore", invalid="ignore")
Value = TypeVar("Value", float, np.ndarray, Tensor, Reals)


def radii(radius: Reals) -> np.ndarray:
    """Radii R ≥ 0 as an array.

    Raises
    ------
    ValueError : something else was received.
    """
    try:
        found = np.asarray(radius)
        found = np.asarray(found, dtype=float) if found.dtype.kind in "iuf" else np.array(-1.0)
    except (TypeError, ValueError, RuntimeError):
        found = np.array(-1.0)
    if not bool(((found >= 0.0) & (found < np.inf)).all()):
        raise ValueError(f"ball: expected finite radii R ≥ 0, received {shown(radius)}")
    return found


def one_radius(radius: object) -> float:
    """The same for a single one."""
    return real(radius, "ball: expected a finite radius R ≥ 0", lambda r: 0.0 <= r < np.inf)


def gamma(operations: int) -> float:
    """γ_k = ku/(1 − ku): |computed − exact| ≤ γ_k Σ|a_i b_i| for a sum of at most k products,
    in any order and with or without fused operations. Underflow is left out."""
    return operations * UNIT / (1.0 - operations * UNIT)


def up(value: Value, operations: int = 0) -> Value:
    """An upper bound on a number ≥ 0 that was computed from numbers ≥ 0 by sums, products,
    quotients and square roots: at most ``operations`` terms a sum and 64 roundings besides."""
    return value * (1.0 + 2.0 * gamma(operations + 64))


def down(value: Value, operations: int = 0) -> Value:
    """The lower bound that belongs to :func:`up`."""
    return value * (1.0 - 2.0 * gamma(operations + 64))
