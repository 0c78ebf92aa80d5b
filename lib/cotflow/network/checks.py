"""What an argument is, before anything is done with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cotflow.network.numbers import shown, whole

REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Beyond this many entries there is no tensor.
MOST = 2**62


def kind(value: object) -> str:
    """``module.Name`` of its class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def require_kind(value: object, wanted: type | tuple[type, ...], expected: str) -> None:
    """Raises TypeError "``expected``, received …" for an object of another class."""
    if not isinstance(value, wanted):
        raise TypeError(f"{expected}, received {kind(value)}")


def require_tensor(value: object, expected: str) -> None:
    """The same for what is no tensor in strided memory."""
    require_kind(value, Tensor, expected)
    if isinstance(value, Tensor) and value.layout != torch.strided:
        raise TypeError(f"{expected} in strided memory, received one of layout {value.layout}")


def require_values(value: object, expected: str) -> None:
    """The same for a tensor whose entries cannot be looked at."""
    require_tensor(value, expected)
    if isinstance(value, Tensor) and value.is_meta:
        raise TypeError(f"{expected} with values, received one on the device meta")


def require_dtype(value: object, what: str) -> None:
    """Raises TypeError for what is no dtype of real numbers."""
    if not isinstance(value, torch.dtype) or value not in REAL:
        raise TypeError(
            f"{what}: expected a dtype of real floating-point numbers, received {shown(value)}"
        )


def shape_of(what: str, runs: Any, *axes: int) -> tuple[int, ...]:
    """(*runs, *axes) in plain numbers, when there can be a tensor of that shape."""
    expected = f"{what}: expected runs as a tuple of whole numbers ≥ 0"
    require_kind(runs, (tuple, list), expected)
    shape = (*(whole(count, expected, 0) for count in runs), *axes)
    if math.prod(shape) > MOST:
        raise ValueError(f"{what}: expected a shape that memory can hold, received {shown(shape)}")
    return shape


def device_here(device: Any, what: str) -> torch.device:
    """The device of that name; raises ValueError "``what``: expected …" where there is none."""
    try:
        found = torch.device(device)
        torch.empty(0, dtype=torch.uint8, device=found)
        return found
    except (TypeError, ValueError, RuntimeError, AssertionError) as reason:
        said = str(reason).splitlines()[0][:80]
        raise ValueError(
            f"{what}: expected a device that is here, received {shown(device)} ({said})"
        ) from None
