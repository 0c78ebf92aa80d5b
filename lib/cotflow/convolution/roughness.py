"""Kernels across depth: gaps between successive layers, and an index blind to their size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.convolution.network import Layers
from cotflow.measure.observables import gaps, step_ratio


def kernels(layers: Layers) -> tuple[Tensor, Tensor]:
    """conv₁ and conv₂ as matrices, (*runs, L, c, 9c)."""
    return layers.conv1.flatten(-3), layers.conv2.flatten(-3)


def roughness(layers: Layers) -> Float[Tensor, "*runs"]:
    """ρ of (conv₁, conv₂) together, see :func:`cotflow.measure.observables.step_ratio`."""
    return step_ratio(torch.cat(kernels(layers), dim=-1))


def kernel_gaps(layers: Layers) -> Float[Tensor, "*runs gaps"]:
    """‖conv₁^{k+1} − conv₁^k‖_F + ‖conv₂^{k+1} − conv₂^k‖_F, k = 1..L−1."""
    first, second = kernels(layers)
    return gaps(first) + gaps(second)
