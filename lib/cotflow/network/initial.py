"""Initial laws of the weights, drawn with a ``torch.Generator``; V = 0 unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.checks import require_dtype, require_kind, shape_of
from cotflow.network.numbers import positive, real, whole
from cotflow.network.weights import Weights


@dataclass(frozen=True)
class Sizes:
    """d inputs, q hidden coordinates, m features a layer, d′ outputs, L layers.

    >>> from cotflow import Sizes
    >>> Sizes(depth=6, width=8, state=5, inputs=3, outputs=2).depth
    6
    """

    depth: int
    width: int
    state: int
    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        for name, value in dict(vars(self)).items():
            number = whole(value, f"sizes: expected {name} ≥ 1", 1)
            object.__setattr__(self, name, number)
        if self.state < max(self.inputs, self.outputs):
            raise ValueError(
                f"sizes: expected a state dimension ≥ max(inputs, outputs) = "
                f"{max(self.inputs, self.outputs)}, received {self.state}"
            )


def embeddings(sizes: Sizes, like: Tensor) -> tuple[Tensor, Tensor]:
    """A = (I_d; 0) ∈ R^{q×d} and B = (0, I_{d′}) ∈ R^{d′×q} ([M] §3); both I if q = d = d′."""
    A = torch.eye(sizes.state, sizes.inputs, dtype=like.dtype, device=like.device)
    B = torch.eye(sizes.outputs, dtype=like.dtype, device=like.device)
    B = torch.nn.functional.pad(B, (sizes.state - sizes.outputs, 0))
    return A, B


def zero_output(sizes: Sizes, W: Float[Tensor, "*runs L m q"], b: Tensor | None = None) -> Weights:
    runs = W.shape[:-3]
    A, B = embeddings(sizes, W)
    return Weights(
        A=A.expand(*runs, *A.shape),
        V=torch.zeros_like(W).mT.contiguous(),
        W=W,
        B=B.expand(*runs, *B.shape),
        b=b,
    )


def _require_law(what: str, sizes: object, generator: object, dtype: object) -> None:
    require_kind(sizes, Sizes, f"{what}: expected sizes as cotflow.Sizes(…)")
    require_kind(generator, torch.Generator, f"{what}: expected a torch.Generator")
    require_dtype(dtype, what)


def tied(
    sizes: Sizes,
    generator: torch.Generator,
    *,
    runs: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
) -> Weights:
    """V_k = 0 and W_k = W for every k, W ~ N(0,1)^{m×q} ([M] §3). The draw ignores the depth,
    so that nets of different depths share W when their generators share a seed.

    >>> import torch
    >>> from cotflow import Sizes, tied
    >>> sizes = Sizes(depth=6, width=8, state=5, inputs=3, outputs=2)
    >>> W = tied(sizes, torch.Generator(), runs=(10,)).W
    >>> W.shape, torch.equal(W[:, 0], W[:, 1])
    (torch.Size([10, 6, 8, 5]), True)
    """
    _require_law("tied law", sizes, generator, dtype)
    *runs_, depth, m, q = shape_of("tied law", runs, sizes.depth, sizes.width, sizes.state)
    W = torch.randn(*runs_, 1, m, q, generator=generator, dtype=dtype, device=generator.device)
    return zero_output(sizes, W.expand(*runs_, depth, -1, -1).contiguous())


def independent(
    sizes: Sizes,
    generator: torch.Generator,
    *,
    runs: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
) -> Weights:
    """V_k = 0 and W_k ~ N(0,1)^{m×q}, independent from layer to layer.

    >>> import torch
    >>> from cotflow import Sizes, independent
    >>> sizes = Sizes(depth=6, width=8, state=5, inputs=3, outputs=2)
    >>> W = independent(sizes, torch.Generator(), runs=(10,)).W
    >>> W.shape, torch.equal(W[:, 0], W[:, 1])
    (torch.Size([10, 6, 8, 5]), False)
    """
    _require_law("independent law", sizes, generator, dtype)
    shape = shape_of("independent law", runs, sizes.depth, sizes.width, sizes.state)
    W = torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
    return zero_output(sizes, W)


def smooth(
    sizes: Sizes,
    generator: torch.Generator,
    *,
    lengthscale: float = 1.0,
    runs: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
) -> Weights:
    """V_k = 0 and W_k = W(k/L), every entry of W an independent Gaussian process on [0, 1] of
    covariance exp(−(s−s′)²/(2·lengthscale²)) ([M] §4). One seed is one path at every depth.

    >>> import torch
    >>> from cotflow import Sizes, smooth
    >>> sizes = Sizes(depth=6, width=8, state=5, inputs=3, outputs=2)
    >>> W = smooth(sizes, torch.Generator(), runs=(10,)).W
    >>> W.shape, torch.equal(W[:, 0], W[:, 1])
    (torch.Size([10, 6, 8, 5]), False)
    """
    _require_law("smooth law", sizes, generator, dtype)
    *runs_, _, m, q = shape_of("smooth law", runs, sizes.depth, sizes.width, sizes.state)
    path = GaussianPath((*runs_, m, q), lengthscale, generator, dtype=dtype)
    s = torch.arange(1, sizes.depth + 1, dtype=dtype, device=generator.device) / sizes.depth
    return zero_output(sizes, path(s))


class GaussianPath:
    """s ↦ Σ_j √λ_j ξ_j φ_j(s), a Gaussian process of squared-exponential covariance on [0, 1].

    (λ_j, φ_j) are the eigenpairs of the covariance on a fixed grid, extended to every s by the
    covariance itself (Nyström). Eigenvalues below 1e-13 of the largest are dropped, so the
    covariance is reproduced to about 1e-6 in the standard deviation.

    Parameters
    ----------
    shape : entries, each an independent process. Called on s of shape (L,), the path returns
        ``(*runs, L, m, q)`` for ``shape = (*runs, m, q)``.
    """

    NODES = 400

    def __init__(
        self,
        shape: tuple[int, ...],
        lengthscale: float,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float64,
    ):
        lengthscale = real(lengthscale, "smooth law: expected a lengthscale > 0", positive)
        self.lengthscale = lengthscale
        self.dtype = dtype
        device = generator.device
        self._grid = torch.linspace(0.0, 1.0, self.NODES, dtype=torch.float64, device=device)
        values, vectors = torch.linalg.eigh(self._covariance(self._grid))
        vectors = vectors * vectors[0].sign()  # eigh leaves the signs open
        kept = int((values > 1e-13 * values[-1]).sum())
        # Modes first and largest first, so that a seed's leading modes do not depend on the cut.
        noise = torch.randn(kept, *shape, generator=generator, dtype=torch.float64, device=device)
        values, vectors = values[-kept:].flip(0), vectors[:, -kept:].flip(1)
        self._coefficients = torch.einsum("j...,gj->...g", noise, vectors / values.sqrt())

    def _covariance(self, s: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((s[:, None] - self._grid[None]) / self.lengthscale) ** 2)

    def __call__(self, s: Float[Tensor, " L"]) -> Tensor:
        kernel = self._covariance(s.to(torch.float64))
        values = torch.einsum("...g,lg->...l", self._coefficients, kernel)
        return values.movedim(-1, -3).to(self.dtype)
