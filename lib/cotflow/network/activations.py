"""Activations σ with their derivatives, and the constants that bounds ask for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.checks import require_tensor
from cotflow.network.numbers import shown


@dataclass(frozen=True)
class Activation:
    """σ : R → R, applied entry by entry.

    Attributes
    ----------
    value, derivative : z ↦ σ(z) and z ↦ σ′(z).
    lipschitz : C_σ′ = sup|σ′|, and sup σ′.
    lowest : inf σ′, and −C_σ′ unless something else is said.
    curvature : C_σ″ = sup|σ″|, infinite where σ′ jumps.
    bound : C_σ = sup|σ|, infinite where σ is unbounded.

    >>> import torch
    >>> from cotflow import COS, GELU, IDENTITY, RELU, TANH
    >>> [sigma(torch.zeros(2, 3)).shape for sigma in (GELU, TANH)]
    [torch.Size([2, 3]), torch.Size([2, 3])]
    >>> RELU(torch.tensor([-1.0, 2.0])).tolist(), IDENTITY.lipschitz, COS.bound
    ([0.0, 2.0], 1.0, 1.0)
    """

    name: str
    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    lipschitz: float
    curvature: float
    bound: float
    lowest: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.lowest):
            object.__setattr__(self, "lowest", -self.lipschitz)

    def __call__(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        require_tensor(z, "activation: expected a torch tensor")
        if not z.is_floating_point():
            raise TypeError(f"activation: expected a tensor of real numbers, received {z.dtype}")
        return self.value(z)


def _gelu_derivative(z: Tensor) -> Tensor:
    density = torch.exp(z.square().mul_(-0.5)).mul_(1.0 / math.sqrt(2.0 * math.pi))
    return torch.erf(z * math.sqrt(0.5)).add_(1.0).mul_(0.5).add_(density.mul_(z))


# Functions with names, so that an activation can be pickled.
def _tanh_derivative(z: Tensor) -> Tensor:
    return 1.0 - torch.tanh(z).square()


def _relu_derivative(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


def _cos_derivative(z: Tensor) -> Tensor:
    return torch.sin(z).neg_()


# σ′ of GELU is largest at z = √2, where σ″(z) = (2 − z²)·density vanishes.
GELU = Activation(
    "gelu",
    torch.nn.functional.gelu,
    _gelu_derivative,
    lipschitz=0.5 * (1.0 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi),
    curvature=math.sqrt(2.0 / math.pi),
    bound=math.inf,
    lowest=0.5 * math.erfc(1.0) - math.exp(-1.0) / math.sqrt(math.pi),
)
TANH = Activation(
    "tanh",
    torch.tanh,
    _tanh_derivative,
    lipschitz=1.0,
    curvature=4.0 / (3.0 * math.sqrt(3.0)),
    bound=1.0,
    lowest=0.0,
)
RELU = Activation(
    "relu",
    torch.relu,
    _relu_derivative,
    lipschitz=1.0,
    curvature=math.inf,
    bound=math.inf,
    lowest=0.0,
)
IDENTITY = Activation(
    "identity",
    torch.clone,
    torch.ones_like,
    lipschitz=1.0,
    curvature=0.0,
    bound=math.inf,
    lowest=1.0,
)
COS = Activation(
    "cos",
    torch.cos,
    _cos_derivative,
    lipschitz=1.0,
    curvature=1.0,
    bound=1.0,
    lowest=-1.0,
)

# Those that kernels compute themselves; a place in the row is a kernel's name for it.
COVERED = (GELU, TANH, RELU, IDENTITY)
ACTIVATIONS = {a.name: a for a in (GELU, TANH, RELU, IDENTITY, COS)}


def activation(name: str) -> Activation:
    """The activation of that name: gelu (exact, no tanh approximation), tanh, relu,
    identity, cos."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation: expected one of {known}, received {shown(name)}")
    return ACTIVATIONS[name]
