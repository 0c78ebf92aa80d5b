"""Frozen dataclasses of tensors that are mapped, moved and selected together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from cotflow.network.checks import device_here, require_tensor


def require_numbers(values: Tensor, what: str, name: str) -> None:
    """Refuse what is no tensor, not real, not finite, or without an entry."""
    require_tensor(values, f"{what}: expected {name} as a torch tensor")
    if not values.is_floating_point() or values.is_meta:
        where = " without values" if values.is_meta else ""
        kind = str(values.dtype).removeprefix("torch.")
        raise ValueError(f"{what}: expected real floating-point {name}, received {kind}{where}")
    if not values.numel():
        raise ValueError(
            f"{what}: expected {name}, at least one, received shape {tuple(values.shape)}"
        )
    wrong = ~torch.isfinite(values)
    if bool(wrong.any()):
        raise ValueError(
            f"{what}: expected finite {name}, received {int(wrong.sum())} that are not among "
            f"{values.numel()}"
        )


# Not Self, which jaxtyping cannot check.
T = TypeVar("T", bound="Tensors")


@dataclass(frozen=True)
class Tensors:
    """Fields that are tensors, or None; leading axes are independent runs."""

    def tensors(self) -> dict[str, Tensor]:
        """By name, those that are there."""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def map(self: T, function: Callable[..., Tensor], *others: T) -> T:
        """function(u, …) for each tensor u, with its namesakes in the others."""
        named = {
            name: function(value, *(getattr(other, name) for other in others))
            for name, value in self.tensors().items()
        }
        return replace(self, **named)

    def run(self: T, index: int) -> T:
        """One of the runs on the first axis."""
        return self.map(lambda value: value[index])

    def to(
        self: T, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> T:
        """The same with another dtype or on another device."""
        if device is not None:
            device = device_here(device, type(self).__name__.lower())
        return self.map(lambda value: value.to(dtype=dtype, device=device))
