"""What keeps a run, so that it can be taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class Keeper(Protocol):
    """Where a run is kept: see :class:`cotflow.flows.checkpoint.Checkpoint`."""

    def restore(self, run: Mapping[str, object], device: torch.device) -> dict[str, Any] | None:
        """What was last kept of the run with these settings, or None where there is nothing.

        Parameters
        ----------
        run : settings by the name that a sentence gives them, such as "the step".
        """

    def keep(self, step: int, content: Callable[[], Mapping[str, Any]], *, last: bool) -> None:
        """Offered after every step; ``content()`` is what :meth:`restore` shall give back."""

    def release(self) -> None:
        """Called once the run is over, whether it came to its end or not."""
