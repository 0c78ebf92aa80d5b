"""Data sets: independent Gaussians, and the draws of [M]'s published experiments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cotflow.network.activations import GELU, Activation
from cotflow.network.checks import device_here, require_dtype, shape_of
from cotflow.network.initial import Sizes, zero_output
from cotflow.network.numbers import plain, shown, whole
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights


def gaussian_data(
    samples: int,
    inputs: int,
    outputs: int,
    generator: torch.Generator,
    *,
    runs: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """x_i ~ N(0, I_d) and y_i ~ N(0, I_{d′}), independent; shapes (*runs, n, d), (*runs, n, d′)."""

    def draw(size: int) -> Tensor:
        shape = (*runs, samples, size)
        return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)

    return draw(inputs), draw(outputs)


@dataclass(frozen=True)
class Experiment:
    """A network with its initial weights and its data."""

    net: ResidualNet
    weights: Weights
    x: Tensor
    y: Tensor


def _seeds(seed: Any) -> int | list[int]:
    """One seed or a list of them, in plain numbers."""
    expected = "published: expected a seed from −2⁶³ to 2⁶⁴ − 1, or several of them"
    seeds = plain(seed)
    if isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes | Mapping):
        several = [whole(each, expected, -(2**63), 2**64 - 1) for each in seeds]
        if not several:
            raise ValueError(f"{expected}, received none")
        return several
    return whole(seeds, expected, -(2**63), 2**64 - 1)


PUBLISHED = {"figure 1": (100, 32), "figure 2": (50, 64)}


def published(
    figure: str,
    depth: int,
    seed: int | Sequence[int],
    *,
    activation: Activation = GELU,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Experiment:
    """The released code of [M]'s §5.1, draw for draw, with N and m of "figure 1" or "figure 2".

    h ↦ h + V σ(W h)/L without 1/√m and 1/√q, A = B = I frozen, q = d = d′ = 16, and the loss is
    the mean over all N·d′ entries. One generator draws W (d×m), then for figure 2 a d×d matrix
    that is not used, then X, then Y, in float32. One iteration at rate 10⁻²·L is an Euler step
    10⁻² of this network's flow. Several seeds give as many runs on a leading axis.

    >>> from cotflow import published
    >>> e = published("figure 1", depth=8, seed=[0, 1, 2])
    >>> e.weights.W.shape, e.x.shape
    (torch.Size([3, 8, 32, 16]), torch.Size([3, 100, 16]))
    """
    if not isinstance(figure, str) or figure not in PUBLISHED:
        raise ValueError(
            f"published: expected one of {sorted(PUBLISHED)}, received {shown(figure)}"
        )
    require_dtype(dtype, "published")
    device = device_here(device, "published")
    seeds = _seeds(seed)
    samples, width = PUBLISHED[figure]
    sizes = Sizes(depth=depth, width=width, state=16, inputs=16, outputs=16)
    *_, depth, _, _ = shape_of("published", (), sizes.depth, width, 16)

    def draw(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        normal = partial(torch.randn, generator=generator, dtype=torch.float32, device="cpu")
        W = normal(16, width)
        if figure == "figure 2":
            normal(16, 16)
        x = normal(samples, 16)
        return W.mT, x, normal(samples, 16)

    draws: Iterable[Tensor]
    if isinstance(seeds, int):
        draws = draw(seeds)
    else:
        draws = (torch.stack(parts) for parts in zip(*map(draw, seeds), strict=True))
    W, x, y = (value.to(dtype=dtype, device=device) for value in draws)
    net = ResidualNet(
        activation,
        width_scaling="none",
        input_scaling="none",
        loss_factor=1.0 / sizes.outputs,
        trained=("V", "W"),
    )
    layers = W.unsqueeze(-3).expand(*W.shape[:-2], depth, *W.shape[-2:]).contiguous()
    return Experiment(net=net, weights=zero_output(sizes, layers), x=x, y=y)
