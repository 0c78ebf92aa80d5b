"""Hermite coefficients against closed forms and against an independent quadrature."""

import math

import numpy as np
import pytest
import torch

from cotflow.bounds.hermite import hermite_coefficients
from cotflow.network.activations import COS, GELU, IDENTITY, RELU, TANH


def closed_form(name, degree):
    """η_r; for r ≥ 2 integration by parts turns σ″ into η_r = E[σ″ He_{r−2}]/√r!."""
    he = [np.polynomial.hermite_e.HermiteE.basis(k) for k in range(degree + 1)]
    factorial = [math.factorial(r) for r in range(degree + 1)]
    if name == "cos":
        return [
            (0.0 if r % 2 else (-1.0) ** (r // 2)) * math.exp(-0.5) / math.sqrt(factorial[r])
            for r in range(degree + 1)
        ]
    if name == "identity":
        return [float(r == 1) for r in range(degree + 1)]
    top = {"relu": 1 / math.sqrt(2 * math.pi), "gelu": 1 / (2 * math.sqrt(math.pi))}[name]
    values = [top, 0.5]
    for r in range(2, degree + 1):
        if name == "relu":
            inside = he[r - 2](0.0) / math.sqrt(2 * math.pi)
        else:
            # σ″ = (2 − z²)·density; density² is a Gaussian of variance ½.
            polynomial = (he[r - 2] * np.polynomial.hermite_e.HermiteE([1.0, 0.0, -1.0])).convert(
                kind=np.polynomial.Polynomial
            )
            moment = [
                0.0 if k % 2 else math.prod(range(1, k, 2)) / 2 ** (k // 2) for k in range(40)
            ]
            inside = sum(c * moment[k] for k, c in enumerate(polynomial.coef))
            inside /= 2 * math.sqrt(math.pi)
        values.append(inside / math.sqrt(factorial[r]))
    return values


@pytest.mark.parametrize("activation", [RELU, GELU, COS, IDENTITY], ids=lambda a: a.name)
def test_closed_forms(activation):
    found = hermite_coefficients(activation, 12)
    np.testing.assert_allclose(found.values, closed_form(activation.name, 12), atol=2e-13)
    assert found.error < 1e-12


def test_tanh_agrees_with_gauss_hermite_quadrature():
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    expected = [
        (weights * np.tanh(nodes)) @ np.polynomial.hermite_e.HermiteE.basis(r)(nodes)
        / math.sqrt(2 * math.pi * math.factorial(r))
        for r in range(8)
    ]  # fmt: skip
    found = hermite_coefficients(TANH, 7)
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
    assert round(found.values[3], 4) == -0.1484


def test_parseval():
    """Σ η_r² = E[σ(N)²], for cos (1 + e^{−2})/2."""
    found = hermite_coefficients(COS, 30)
    assert found.values @ found.values == pytest.approx((1 + math.exp(-2)) / 2, abs=1e-13)


def test_error_tells_a_coarse_quadrature():
    assert hermite_coefficients(TANH, 3, nodes=8).error > 1e-4


def test_kernel_of_random_features_is_the_power_series():
    """E[σ(⟨w,x⟩)σ(⟨w,x′⟩)] = Σ_r η_r² ⟨x,x′⟩^r for unit vectors; checked for ReLU's arc-cosine."""
    eta = hermite_coefficients(RELU, 120).values
    rho = torch.tensor([-0.6, 0.0, 0.3, 0.7], dtype=torch.float64)
    series = (torch.from_numpy(eta) ** 2 * rho[:, None] ** torch.arange(121)).sum(-1)
    angle = torch.arccos(rho)
    exact = (angle.sin() + (math.pi - angle) * rho) / (2 * math.pi)
    torch.testing.assert_close(series, exact, rtol=0, atol=1e-6)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="degree ≥ 0 and nodes ≥ 2"):
        hermite_coefficients(TANH, -1)
