"""How many random features keep half of the kernel's least eigenvalue (matrix Chernoff)."""

from __future__ import annotations

import math

from cotflow.network.numbers import real, shown, whole

# e^{−δ}/(1 − δ)^{1−δ} at δ = ½ is e^{−(1 − ln 2)/2}.
EXPONENT = (1.0 - math.log(2.0)) / 2.0


def _required(eigenvalue: float, points: int) -> tuple[float, int]:
    """Both in plain numbers."""
    wanted = "0 < eigenvalue ≤ 1 (for |σ| ≤ 1 no kernel has a larger least one) and points ≥ 1"
    return (
        real(eigenvalue, f"features: expected {wanted}", lambda value: 0.0 < value <= 1.0),
        whole(points, f"features: expected {wanted}", 1),
    )


def chernoff_probability(features: int, eigenvalue: float, points: int) -> float:
    """P(λ_min(K_M) ≥ λ₀/2) ≥ 1 − N exp(−((1 − ln 2)/2) Mλ₀/N), the right-hand side, at least 0.

    M independent features of a law whose kernel has λ_min(K) = λ₀ on N points, |σ| ≤ 1. For
    features that differ from layer to layer, M counts those of all layers, and K_M is K̄.

    Source: matrix Chernoff bound (Tropp 2012) at deviation ½.
    """
    eigenvalue, points = _required(eigenvalue, points)
    features = whole(features, "features: expected at least 1", 1, 2**62)
    failure = points * math.exp(-EXPONENT * features * eigenvalue / points)
    return max(0.0, 1.0 - failure * (1.0 + 1e-12))


def features_needed(eigenvalue: float, points: int, failure: float) -> int:
    """The least M with N exp(−((1 − ln 2)/2) Mλ₀/N) ≤ failure: M ≥ 6.52 (N/λ₀) log(N/failure)."""
    eigenvalue, points = _required(eigenvalue, points)
    failure = real(failure, "features: expected 0 < failure < 1", lambda value: 0.0 < value < 1.0)
    try:
        needed = points * math.log(points / failure) / (EXPONENT * eigenvalue)
    except (OverflowError, ZeroDivisionError):
        needed = math.inf
    if needed > 2**62:
        raise ValueError(
            "features: expected a number of features that can be counted, received eigenvalue "
            f"{eigenvalue:.3g} and {shown(points)} points"
        )
    return math.ceil(needed * (1.0 + 1e-12))
