"""Hermite coefficients η_r(σ) = E[σ(ξ) ψ_r(ξ)], ξ ~ N(0, 1), ψ_r = He_r/√r! orthonormal."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch

from cotflow.network.activations import Activation
from cotflow.network.numbers import whole

# Beyond this |z| the Gaussian density is below 1e-55.
CUT = 16.0


@dataclass(frozen=True)
class HermiteSeries:
    """σ = Σ_r η_r ψ_r in L² of the standard Gaussian law.

    Attributes
    ----------
    values : (degree+1,), η_0, …, η_degree.
    error : largest change of a coefficient when the quadrature takes half as many nodes.
    """

    values: np.ndarray
    error: float


def hermite_coefficients(activation: Activation, degree: int, nodes: int = 256) -> HermiteSeries:
    """η_0..η_degree by Gauss–Legendre quadrature against the density, on [−16, 0] and [0, 16].

    The half-lines are separate, so that a kink or a jump at 0 (ReLU) costs nothing: errors are
    near rounding for activations smooth on either side. Plain Gauss–Hermite quadrature agrees for
    smooth σ, and is off by 1e-3 at 100 nodes for ReLU.

    Parameters
    ----------
    nodes : on each half-line.
    """
    expected = "Hermite coefficients: expected degree ≥ 0 and nodes ≥ 2"
    degree, nodes = whole(degree, expected, 0), whole(nodes, expected, 2)
    values = _quadrature(activation, degree, nodes)
    coarse = _quadrature(activation, degree, max(nodes // 2, 1))
    return HermiteSeries(values, float(np.abs(values - coarse).max()))


@functools.cache
def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(nodes)


def _quadrature(activation: Activation, degree: int, nodes: int) -> np.ndarray:
    points, weights = _legendre(nodes)
    half = 0.5 * CUT * (points + 1.0)
    z = np.concatenate([-half[::-1], half])
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    mass = 0.5 * CUT * np.concatenate([weights[::-1], weights]) * density
    integrand = mass * activation(torch.from_numpy(z)).numpy()
    values, last, now = [], np.zeros_like(z), np.ones_like(z)
    for r in range(degree + 1):
        values.append(float(integrand @ now))
        last, now = now, (z * now - math.sqrt(r) * last) / math.sqrt(r + 1)
    return np.array(values)
