"""What every distance asks of its two families of layers, in sentences, and their scale."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.checks import require_tensor
from cotflow.network.numbers import shown
from cotflow.network.tensors import require_numbers

Masses = tuple[Float[Tensor, "*runs L m"], Float[Tensor, "*runs L m2"]]


def require_layers(
    mu: Tensor, nu: Tensor, masses: Masses | None = None, *, what: str = "conditional distance"
) -> None:
    """Two families of the same runs, layers, Ω and device, none empty, all numbers finite.

    Masses are finite, ≥ 0 and of sum 1 in every layer, up to a rounding m·ε of their own precision.
    """
    for family in (mu, nu):
        require_tensor(family, f"{what}: expected two families of atoms as torch tensors")
    if mu.ndim < 3 or mu.shape[:-2] != nu.shape[:-2] or mu.shape[-1] != nu.shape[-1]:
        raise ValueError(
            f"{what}: expected two families with the same runs, layers and particle "
            f"dimension, received shapes {tuple(mu.shape)} and {tuple(nu.shape)}"
        )
    require_one_place(mu, nu, what)
    for family in (mu, nu):
        require_atoms(family, what)
    if masses is not None:
        expected = f"{what}: expected masses as two torch tensors"
        if not isinstance(masses, tuple | list) or len(masses) != 2:
            raise TypeError(f"{expected}, received {shown(masses)}")
        for mass in masses:
            require_tensor(mass, expected)
        for family, mass in zip((mu, nu), masses, strict=True):
            _require_masses(family, mass, what)


def require_one_place(mu: Tensor, nu: Tensor, what: str) -> None:
    """Both on one device, which holds numbers."""
    if mu.device != nu.device or mu.is_meta:
        raise ValueError(
            f"{what}: expected two families of numbers on one device, received {mu.device} and "
            f"{nu.device}"
        )


def require_atoms(family: Tensor, what: str) -> None:
    """A family of shape (*runs, L, m, p), none of them 0, of real and finite numbers."""
    require_tensor(family, f"{what}: expected a family of atoms as a torch tensor")
    if family.ndim < 3 or 0 in family.shape:
        raise ValueError(
            f"{what}: expected atoms of shape (*runs, L, m, p), at least one of each, received "
            f"shape {tuple(family.shape)}"
        )
    require_numbers(family, what, "atoms")


def _require_masses(family: Tensor, mass: Tensor, what: str) -> None:
    if mass.shape != family.shape[:-1]:
        raise ValueError(
            f"{what}: expected masses of shape {tuple(family.shape[:-1])}, one an atom, received "
            f"{tuple(mass.shape)}"
        )
    require_numbers(mass, what, "masses")
    if bool((mass < 0).any()):
        raise ValueError(f"{what}: expected masses ≥ 0, received {float(mass.min()):.3g}")
    sums = mass.detach().to("cpu", torch.float64).sum(-1)
    off = (sums - 1.0).abs()
    if float(off.max()) > max(mass.shape[-1], 8) * torch.finfo(mass.dtype).eps:
        raise ValueError(
            f"{what}: expected masses of sum 1 in every layer, received a layer of sum "
            f"{float(sums.flatten()[off.argmax()]):.10g}"
        )


def power_of_two(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The power of two 2^k ≤ max|v| < 2^{k+1} over these axes, which stay with length 1; 1 for 0.

    To divide by it is exact: sums of squares, and their roots, neither overflow nor vanish, and
    are multiplied back to the same bits.
    """
    largest = values.detach().abs().amax(axes, keepdim=True)
    mantissa = torch.frexp(torch.where(largest > 0, largest, torch.ones_like(largest))).mantissa
    return torch.where(largest > 0, largest, torch.ones_like(largest)) / (2.0 * mantissa)


def root_of_squares(values: Tensor, axes: tuple[int, ...], count: int) -> Tensor:
    """(Σ v² / count)^{1/2} over these axes, at every scale."""
    power = power_of_two(values, axes)
    scaled = ((values / power).square().sum(axes) / count).sqrt()
    return scaled * power.squeeze(axes)
