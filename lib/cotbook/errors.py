"""Errors that a person can act on: the command prints their sentence and no traceback."""

from __future__ import annotations

import errno
from pathlib import Path

# Of the machine, not of what was asked for
EXHAUSTED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
}


class BadInput(ValueError):
    """A request that cannot be met, refused before anything is written: exit code 2."""


class DoesNotHold(RuntimeError):
    """A claim does not hold, or a check does not: exit code 1."""


class Unfinished(RuntimeError):
    """Something stopped before its end, a chapter or the disk: exit code 3."""


def cannot_write(folder: Path, error: Exception) -> BadInput | Unfinished:
    """The refusal of a folder that cannot be written in, or that has no room."""
    reason = getattr(error, "strerror", None) or str(error)
    kind = Unfinished if getattr(error, "errno", None) in EXHAUSTED else BadInput
    return kind(f"cannot write in {folder}: {reason}")
