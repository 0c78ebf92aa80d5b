"""Files that appear whole or not at all, also when the machine stops in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def appearing(path: Path, partial: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A new file ``partial`` to write to, with these permissions; it is forced to the disk and
    takes the place of ``path`` when the block ends. Nothing is left of a block that fails.

    Raises
    ------
    OSError : there was no room, for instance, or something at ``partial`` already.
    """
    try:
        # A file of its own, whatever stands there already.
        with open(partial, "x+b", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":
        with suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
