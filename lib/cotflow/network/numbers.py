"""Numbers as they come, from Python, NumPy or torch, made plain."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from typing import Any, SupportsFloat

from torch import Tensor

Number = SupportsFloat


def plain(value: Any) -> Any:
    """The Python number of one entry without axes; what is none comes back as it is."""
    if isinstance(value, Tensor):
        value = value.detach()
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        try:
            return value.item()
        except (RuntimeError, TypeError, ValueError):  # without data
            return value
    return value


def shown(value: object) -> str:
    """A value for a sentence: short, and on one line."""
    value = plain(value)
    if hasattr(value, "shape"):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return " ".join(reprlib.repr(value).split())


def positive(number: float) -> bool:
    """Whether it is finite and > 0."""
    return 0.0 < number < math.inf


def real(value: object, expected: str, valid: Callable[[float], bool] = math.isfinite) -> float:
    """``value`` as a float.

    Raises
    ------
    ValueError : it is no number, or not a valid one: "``expected``, received …".
    """
    number = plain(value)
    try:
        if isinstance(number, bool) or not isinstance(number, SupportsFloat):
            raise TypeError
        if getattr(number, "shape", ()) != ():
            raise TypeError
        found = float(number)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{expected}, received {shown(value)}") from None
    if not valid(found):
        raise ValueError(f"{expected}, received {shown(value)}")
    return found


def whole(value: object, expected: str, least: int, most: int | None = None) -> int:
    """``value`` as an int that is at least so much, and at most so much.

    Raises
    ------
    ValueError : as :func:`real`, and for a number with a fraction.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int):
        number = int(real(value, expected, float.is_integer))
    if number < least or (most is not None and number > most):
        raise ValueError(f"{expected}, received {shown(value)}")
    return int(number)
