"""What the system is asked for: to end a process with its parent, to hold a folder for one process,
to change a file at once.

A process asks before it imports anything that takes time; nothing of this library is needed here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEATHSIG = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies (Linux): no orphan computes on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def change(path: Path, text: str) -> None:
    """Write a file that others see as the old one or as the new one, never as a part."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether this process has the file or folder for itself; the system lets go when it ends.

    Raises OSError where there is nothing to hold, or where the disk knows no locks.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
