"""Extreme eigenvalues and singular values with proven bounds, whatever the eigensolver did.

A solver's vectors are only a guess V at an orthonormal basis. The matrix is carried into that
basis by products, whose rounding is bounded, and what is left off the diagonal bounds the rest.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.certificates.rounding import down, gamma, up
from cotflow.network.checks import require_values
from cotflow.network.numbers import real, shown


def _frobenius(matrix: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(matrix)
    return up(norm, matrix.shape[-1] * matrix.shape[-2])


def _departure(basis: Float[Tensor, "*runs m n"]) -> Float[Tensor, "*runs"]:
    """ε ≥ ‖VᵀV − I‖₂, so that every singular value of V has its square in [1 − ε, 1 + ε]."""
    m, n = basis.shape[-2:]
    identity = torch.eye(n, dtype=basis.dtype, device=basis.device)
    rounding = gamma(m + 1) * (_frobenius(basis) ** 2 + n)
    return up(_frobenius(basis.mT @ basis - identity) + rounding)


def _diagonal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal, and ‖rest‖_F."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    return diagonal, _frobenius(matrix - torch.diag_embed(diagonal))


def _double(matrix: Tensor, what: str) -> Tensor:
    require_values(matrix, f"{what}: expected matrices as a torch tensor")
    if matrix.ndim < 2 or not matrix.numel() or not matrix.is_floating_point():
        raise ValueError(
            f"{what}: expected real floating-point matrices with entries, received "
            f"{str(matrix.dtype).removeprefix('torch.')} of shape {tuple(matrix.shape)}"
        )
    matrix = matrix.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(matrix).all()):
        wrong = int((~torch.isfinite(matrix)).sum())
        raise ValueError(f"{what}: expected finite numbers, received {wrong} that are not")
    return matrix


def eigenvalue_bounds(
    gram: Float[Tensor, "*runs n n"],
) -> tuple[Float[Tensor, "*runs"], Float[Tensor, "*runs"]]:
    """(low, high) with low ≤ λ_min and λ_max ≤ high for the symmetric matrix G as it is stored.

    With B = VᵀGV and E its rounding (Ostrowski): λ_min(G)‖V‖² ≥ λ_min(B) where that is ≥ 0, and
    λ_min(B) ≥ min_i B_ii − ‖B − diag B‖_F − ‖E‖. Where nothing positive can be shown, low is a
    bound of the form −‖·‖ all the same.
    """
    gram = _double(gram, "eigenvalues")
    n = gram.shape[-1]
    if gram.shape[-2] != n:
        raise ValueError(
            f"eigenvalues: expected square matrices, received shape {tuple(gram.shape)}"
        )
    if not torch.equal(gram, gram.mT):
        raise ValueError(
            "eigenvalues: expected a symmetric matrix, received one that differs from its "
            f"transpose by up to {float((gram - gram.mT).abs().max()):.3g}"
        )
    basis = torch.linalg.eigh(gram).eigenvectors
    image = gram @ basis
    diagonal, rest = _diagonal(basis.mT @ image)
    departure = _departure(basis)
    stretch = (1.0 + departure).sqrt()
    rounding = _frobenius(gram) * _frobenius(basis) * stretch + _frobenius(basis) * _frobenius(
        image
    )
    rest = up(rest + gamma(n) * rounding)
    low, high = diagonal.amin(-1) - rest, diagonal.amax(-1) + rest
    shrink, grow = 1.0 / up(1.0 + departure), up(1.0 / (1.0 - departure))
    return (
        torch.where(low >= 0, down(low) * shrink, low * grow),
        torch.where(high >= 0, up(high) * grow, high * shrink),
    )


def least_eigenvalue(gram: Float[Tensor, "*runs n n"]) -> Float[Tensor, "*runs"]:
    """A lower bound on λ_min(G) ≥ 0 of a positive semidefinite matrix, 0 where none is proven.

    It falls short of λ_min by about n²u‖G‖: for kernels with tiny eigenvalues take the factor,
    :func:`least_feature_eigenvalue`, which squares the eigenvalues that can be resolved.
    """
    low, high = eigenvalue_bounds(gram)
    if bool((low < -1e-6 * high.abs()).any()):
        raise ValueError(
            "least eigenvalue: expected a positive semidefinite matrix, received one with an "
            f"eigenvalue near {float(low.min()):.3g}"
        )
    return _in_range(low.clamp_min(0.0), "least eigenvalue")


def _in_range(bound: Tensor, what: str) -> Tensor:
    """A lower bound that no overflow has had a part in."""
    if not bool(torch.isfinite(bound).all()):
        raise ValueError(
            f"{what}: expected numbers whose squares are within range, received larger ones"
        )
    return bound


def least_singular_value(
    matrix: Float[Tensor, "*runs n m"], error: Float[Tensor, "*runs"] | float = 0.0
) -> Float[Tensor, "*runs"]:
    """A lower bound on min_{|c|=1} |Φᵀc| for every Φ with ‖Φ − given‖_F ≤ error; 0 if n > m.

    With B = UᵀΦV: σ_n(Φ) ≥ σ_n(B)/(‖U‖‖V‖) and σ_n(B) ≥ min_i|B_ii| − ‖B − diag B‖_F − ‖E‖.
    """
    matrix = _double(matrix, "singular values")
    n, m = matrix.shape[-2:]
    if n > m:
        return matrix.new_zeros(matrix.shape[:-2])
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    right = right.mT
    image = matrix @ right
    diagonal, rest = _diagonal(left.mT @ image)
    stretch = ((1.0 + _departure(left)) * (1.0 + _departure(right))).sqrt()
    rounding = gamma(m) * _frobenius(matrix) * _frobenius(right) * stretch
    rounding = up(rounding + gamma(n) * _frobenius(left) * _frobenius(image))
    low = diagonal.abs().amin(-1) - up(rest + rounding)
    low = down(low.clamp_min(0.0)) / up(stretch)
    return (down(low) - up(_error(error, low))).clamp_min(0.0)


def _error(error: object, like: Tensor) -> Tensor:
    """‖Φ − given‖_F for each run, as a tensor."""
    expected = "singular values: expected an error ≥ 0, one for all runs or one a run"
    if not isinstance(error, Tensor):
        return like.new_tensor(real(error, expected, lambda e: 0.0 <= e <= math.inf))
    require_values(error, expected)
    if error.shape not in ((), like.shape) or not bool((error >= 0.0).all()):
        raise ValueError(f"{expected}, received {shown(error)}")
    return error.detach().to(like)


def least_feature_eigenvalue(
    features: Float[Tensor, "*runs n m"], error: Float[Tensor, "*runs"] | float = 0.0
) -> Float[Tensor, "*runs"]:
    """A lower bound on λ_min(ΦΦᵀ/m) = σ_min(Φ)²/m, the features Φ known up to ‖·‖_F ≤ error."""
    found = down(least_singular_value(features, error).square() / features.shape[-1])
    return _in_range(found, "features")


def operator_norm(matrix: Float[Tensor, "*runs n m"]) -> Float[Tensor, "*runs"]:
    """An upper bound on ‖X‖₂ = λ_max(XᵀX)^{1/2}."""
    matrix = _double(matrix, "operator norm")
    if matrix.shape[-1] > matrix.shape[-2]:
        matrix = matrix.mT
    gram = matrix.mT @ matrix
    _, high = eigenvalue_bounds((gram + gram.mT) / 2)
    rounding = gamma(matrix.shape[-2] + 2) * _frobenius(matrix) ** 2
    return up((high.clamp_min(0.0) + up(rounding)).sqrt())
