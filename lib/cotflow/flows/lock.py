"""One holder of a path at a time, among all processes; a holder that dies holds no longer."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class Held(RuntimeError):
    """Somebody else has the lock."""


def acquire(path: Path) -> int | None:
    """The open lock file, for :func:`release`; None on a file system or system without locks.

    Raises
    ------
    Held : another process, or another part of this one, has it.
    OSError : there can be no file.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(path, flags, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise Held from None
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        # The holder before takes its file away: this one may be nobody's any more.
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def release(handle: int, path: Path) -> None:
    """Take the lock file away and let go of it."""
    path.unlink(missing_ok=True)
    os.close(handle)
