"""Two step functions of one variable on their common refinement, found in integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Pieces:
    """The intervals of [0, 1] on which two step functions are constant together.

    Attributes
    ----------
    first, second : the index of the step of either function.
    length : of the interval.
    """

    first: Int[Tensor, " pieces"]
    second: Int[Tensor, " pieces"]
    length: Float[Tensor, " pieces"]


def common_refinement(steps: int, others: int) -> Pieces:
    """Pieces between all k/steps, k = 0..steps, and j/others, j = 0..others, in increasing order.

    >>> from cotflow.transport.step_functions import common_refinement
    >>> pieces = common_refinement(2, 3)
    >>> pieces.first.tolist(), pieces.second.tolist()
    ([0, 0, 1, 1], [0, 1, 1, 2])
    """
    # Breakpoints in units of 1/(steps·others).
    whole = partial(torch.arange, dtype=torch.int64, device="cpu")
    multiples = whole(steps + 1) * others, whole(others + 1) * steps
    points: Tensor = torch.unique(torch.cat(multiples))
    starts = points[:-1]
    return Pieces(
        first=starts // others,
        second=starts // steps,
        length=points.diff().to(torch.float64) / (steps * others),
    )
