"""How many random features keep half of the kernel's least eigenvalue (matrix Chernoff)."""

from __future__ import annotations

import math

# e^{−δ}/(1 − δ)^{1−δ} at δ = ½ is e^{−(1 − ln 2)/2}.
EXPONENT = (1.0 - math.log(2.0)) / 2.0


def _require(eigenvalue: float, points: int) -> None:
    if not 0.0 < eigenvalue <= 1.0 or points < 1:
        raise ValueError(
            "features: expected 0 < eigenvalue ≤ 1 (for |σ| ≤ 1 no kernel has a larger least one) "
            f"and points ≥ 1, received {eigenvalue} and {points}"
        )


def chernoff_probability(features: int, eigenvalue: float, points: int) -> float:
    """P(λ_min(K_M) ≥ λ₀/2) ≥ 1 − N exp(−((1 − ln 2)/2) Mλ₀/N), the right-hand side, at least 0.

    M independent features of a law whose kernel has λ_min(K) = λ₀ on N points, |σ| ≤ 1. For
    features that differ from layer to layer, M counts those of all layers, and K_M is K̄.

    Source: matrix Chernoff bound (Tropp 2012) at deviation ½.
    """
    _require(eigenvalue, points)
    if features < 1:
        raise ValueError(f"features: expected at least 1, received {features}")
    failure = points * math.exp(-EXPONENT * features * eigenvalue / points)
    return max(0.0, 1.0 - failure * (1.0 + 1e-12))


def features_needed(eigenvalue: float, points: int, failure: float) -> int:
    """The least M with N exp(−((1 − ln 2)/2) Mλ₀/N) ≤ failure: M ≥ 6.52 (N/λ₀) log(N/failure)."""
    _require(eigenvalue, points)
    if not 0.0 < failure < 1.0:
        raise ValueError(f"features: expected 0 < failure < 1, received {failure}")
    needed = points * math.log(points / failure) / (EXPONENT * eigenvalue)
    return math.ceil(needed * (1.0 + 1e-12))
