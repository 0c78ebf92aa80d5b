"""Optimal plans between weighted atoms by POT's network simplex, whose word is not taken for it."""

from __future__ import annotations

import math
import warnings

import numpy as np

# The plan's cost is optimal to this share, by its own dual; else it is solved anew.
ACCURATE = 1e-9
# Beyond this share the plan is refused.
ACCEPTED = 1e-6
ITERATIONS = 10_000_000
EPSILON = 2.0**-52


def optimal_plan(
    cost: np.ndarray, masses: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """argmin ⟨C, γ⟩ over the plans γ between masses of equal sum; without them, uniform ones.

    The simplex compares costs at the scale of the largest one. Where its dual values leave a gap,
    it solves again with costs cut at 4 m m2 ⟨C, γ⟩: a plan of multiples of 1/(m m2) that uses
    larger ones is worse than γ. Of two plans the cheaper one stands.

    Raises
    ------
    RuntimeError : the marginals are off, or the dual proves no more than a part of the cost.
    """
    m, m2 = cost.shape
    uniform = np.full(m, 1.0 / m), np.full(m2, 1.0 / m2)
    plan, proven = _solve(cost, *(masses or uniform))
    value = float((plan * cost).sum())
    if value - proven <= ACCURATE * value:
        return plan
    # Uniform masses as integers, so that no rounded rest has to travel far.
    units = np.full(m, float(m2)), np.full(m2, float(m))
    exact = masses is None
    return _refined(cost, plan, masses or units, 0.0 if exact else float(cost.max()))


def _refined(
    cost: np.ndarray, plan: np.ndarray, masses: tuple[np.ndarray, np.ndarray], way: float
) -> np.ndarray:
    """The same plan, or one that is cheaper by more than rounding, with the large costs cut.

    ``way`` is how far, in cost, a rounded rest of the masses may have to travel.
    """
    value, proven, total = float((plan * cost).sum()), 0.0, float(masses[0].sum())
    largest, before = float(cost.max()), math.inf
    while value > 0.0 and value - proven > ACCURATE * value and value < 0.5 * before:
        largest = min(4.0 * cost.size * value, largest)
        scale = 2.0 ** -math.frexp(largest)[1]
        # What is proven of a cut problem is proven of the whole one.
        found, bound = _solve(np.minimum(cost, largest) * scale, *masses)
        now = float((found * cost).sum()) / total
        before, proven = value, max(proven, bound / (scale * total))
        if now < (1.0 - ACCURATE) * value:
            plan, value = found / total, now
    if value - proven > ACCEPTED * value + 64.0 * EPSILON * max(largest, way):
        raise RuntimeError(
            f"network simplex: expected an optimal plan, received one of cost {value:.6g} where "
            f"the dual proves {proven:.6g} alone"
        )
    return plan


def _solve(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """(γ, Σ_i u_i a_i + Σ_j v_j b_j − max(u + v − C)₊ Σa), the dual's proof less its rounding."""
    from ot import emd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the result code says the same
        plan: np.ndarray
        plan, log = emd(a, b, cost, numItermax=ITERATIONS, log=True)
    b = b * a.sum() / b.sum()  # as the solver does: the sums may differ by their rounding
    if log["warning"] is not None:
        raise RuntimeError(f"network simplex: expected an optimal plan, received {log['warning']}")
    off = max(np.abs(plan.sum(1) - a).max(), np.abs(plan.sum(0) - b).max())
    if not (off <= 1e-9 * a.sum() and plan.min() >= 0.0):
        raise RuntimeError(
            f"network simplex: expected a plan with the given masses, received one off by {off:.1e}"
        )
    u, v = log["u"], log["v"]
    excess = max(float((u[:, None] + v[None, :] - cost).max()), 0.0)
    rounding = cost.size**0.5 * EPSILON * float(np.abs(u) @ a + np.abs(v) @ b)
    return plan, float(u @ a + v @ b) - excess * float(a.sum()) - rounding
