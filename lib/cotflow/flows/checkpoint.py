"""A run kept in one file: written whole or not at all, and taken up by the same run only."""

from __future__ import annotations

import glob
import hashlib
import math
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

import cotflow.network.disk as disk
from cotflow.flows import lock
from cotflow.flows.fingerprint import fingerprint, surroundings
from cotflow.network.checks import require_kind
from cotflow.network.numbers import Number, plain, real, shown, whole

FORMAT = 2
# The file ends with the SHA-256 of all before it, as the comment of torch's zip archive.
DIGITS = 64
CHUNK = 1 << 20


class CheckpointError(ValueError):
    """The file cannot serve this run; says why."""


class NotWrittenError(CheckpointError, OSError):
    """The run could not be kept; what was kept before is still there."""


@dataclass
class Checkpoint:
    """Keeps a run of a flow or of a training in ``path``, and takes it up from there.

    The file is written whole or not at all, carries a checksum, is read without executing
    anything, and is refused by a run with other settings: the sentence names those that differ.
    Among them are the code of observers, clip and method, and the library itself. While a run is
    at work no other one is let near its path.

    Parameters
    ----------
    steps, seconds : keep after so many accepted steps, or so much time, whichever is first; None
        switches one off. The end of a run is always kept.

    >>> import tempfile
    >>> from cotflow import Checkpoint, gradient_flow, published
    >>> e = published("figure 2", depth=4, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept = Checkpoint(f"{folder}/run.pt", steps=100)
    ...     options = {"step": 0.25, "horizon": 1.0, "checkpoint": kept}
    ...     record = gradient_flow(e.net, e.weights, e.x, e.y, **options)
    >>> record.accepted
    4
    """

    path: str | os.PathLike[str]
    steps: Number | None = None
    seconds: Number | None = 60.0
    _run: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _last: tuple[int, float] = field(default=(0, 0.0), init=False, repr=False)
    _pace: tuple[float, float] = field(default=(math.inf, math.inf), init=False, repr=False)
    _lock: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        require_kind(self.path, (str, os.PathLike), "checkpoint: expected the path of a file")
        steps, seconds = math.inf, math.inf
        if self.steps is not None:
            steps = whole(self.steps, "checkpoint: expected steps ≥ 1", 1)
        if self.seconds is not None:
            expected = "checkpoint: expected seconds ≥ 0"
            seconds = real(self.seconds, expected, lambda s: 0 <= s <= math.inf)
        self._pace = steps, seconds

    def restore(self, run: Mapping[str, object], device: torch.device) -> dict[str, Any] | None:
        """What was kept of this very run, with its ``step``; None where there is no file.

        Raises
        ------
        CheckpointError : the file is no checkpoint, or that of another run, or in use.
        """
        path = Path(self.path)
        self._run = {name: fingerprint(value) for name, value in run.items()} | surroundings()
        self._acquire(path)
        try:
            kept = read(path, self._run, device)
        except BaseException:
            self.release()
            raise
        self._last = (0 if kept is None else kept["step"], time.monotonic())
        return kept

    def keep(self, step: int, content: Callable[[], Mapping[str, Any]], *, last: bool) -> None:
        """Write the run, if it is time for it."""
        (steps, seconds), (written, clock) = self._pace, self._last
        if step - written >= steps or time.monotonic() - clock >= seconds or last:
            head = {"format": FORMAT, "run": self._run, "step": step}
            write(head | dict(content()), Path(self.path))
            self._last = (step, time.monotonic())

    def release(self) -> None:
        """Let other runs near the path."""
        if self._lock is not None:
            handle, self._lock = self._lock, None
            lock.release(handle, beside(Path(self.path), "lock"))

    def _acquire(self, path: Path) -> None:
        """The lock, and what an earlier holder was writing when it was killed taken away."""
        try:
            if not path.parent.is_dir():
                raise CheckpointError(f"checkpoint: the folder {path.parent} does not exist")
            if not path.name or path.is_dir():
                raise CheckpointError(f"checkpoint: expected the path of a file, received {path}")
            self._lock = lock.acquire(beside(path, "lock"))
        except lock.Held:
            raise CheckpointError(
                f"checkpoint: another run is at work on {path}; wait for its end, or give "
                "another path"
            ) from None
        except CheckpointError:
            raise
        except (OSError, ValueError) as reason:  # a name that is too long, or with a zero byte
            raise CheckpointError(
                f"checkpoint: {shown(str(path))} cannot be kept there ({shown(str(reason))})"
            ) from None
        pattern = glob.escape(str(path.parent)) + "/" + glob.escape(f".{path.name}.")
        for left in glob.glob(pattern + "*.partial"):
            with suppress(OSError):
                os.unlink(left)


def beside(path: Path, ending: str) -> Path:
    """A hidden neighbour of the file."""
    return path.with_name(f".{path.name}.{ending}")


def read(path: Path, run: Mapping[str, str], device: torch.device) -> dict[str, Any] | None:
    """What :func:`write` left there for the run of those fingerprints, None if there is no file.

    Raises
    ------
    CheckpointError : the file is no checkpoint, or that of another run.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise CheckpointError(f"checkpoint: expected the path of a file, received {path}")
    try:
        with open(path, "rb") as file:
            kept, sound = loaded(file, path, device)
    except OSError as reason:
        raise CheckpointError(f"checkpoint: {path} cannot be read ({reason})") from None
    written = kept.get("format") if {"format", "run", "step"} <= kept.keys() else None
    if (sound and written is not None and written != FORMAT) or (not sound and written == 1):
        raise CheckpointError(
            f"checkpoint: {path} is of another version of cotflow (format {written}, this one "
            f"reads {FORMAT}); go on with that version, or give another path"
        )
    if not sound or written is None:
        raise CheckpointError(
            f"checkpoint: {path} is damaged or no checkpoint of a run; delete it to start anew"
        )
    others = [name for name in {**run, **kept["run"]} if run.get(name) != kept["run"].get(name)]
    if others:
        raise CheckpointError(
            f"checkpoint: {path} is of another run (other than here: {', '.join(others)}); "
            "give another path"
        )
    return kept


def loaded(file: IO[bytes], path: Path, device: torch.device) -> tuple[dict[str, Any], bool]:
    """What is in the file, if it is a mapping, and whether it ends with its checksum."""
    size = os.fstat(file.fileno()).st_size - DIGITS
    sound = size > 0 and checksum(file, size) == file.read()
    file.seek(0)
    try:
        kept = torch.load(file, map_location=device, weights_only=True)
    except Exception as reason:
        if sound:
            cause = " ".join(str(reason).split())[:200]
            raise CheckpointError(
                f"checkpoint: {path} is whole, but cannot be read here ({cause})"
            ) from reason
        kept = None
    return (kept if isinstance(kept, dict) else {}), sound


def checksum(file: IO[bytes], size: int) -> bytes:
    """SHA-256 of that many bytes from the start on, as digits; the file is left behind them."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write beside the file, force it to the disk, then rename: readers see the old or the new.

    Raises
    ------
    NotWrittenError : there was no room, for instance; nothing is left of the attempt.
    """
    content = storable(content)
    try:
        with disk.appearing(path, beside(path, f"{secrets.token_hex(8)}.partial")) as file:
            torch.save(content, file)
            seal(file)
    except (OSError, RuntimeError) as reason:
        # torch tells of its own confusion; what came before it is why.
        cause = [*(c for c in chain(reason) if isinstance(c, OSError)), reason][0]
        raise NotWrittenError(
            f"checkpoint: {path} could not be written ({cause}); what was kept before is whole, "
            "make room and start again to go on from there"
        ) from reason


def seal(file: IO[bytes]) -> None:
    """Append the checksum, as a comment of the zip archive, whose length its last bytes hold."""
    size = file.seek(-2, os.SEEK_END) + 2
    file.write(struct.pack("<H", DIGITS))
    digits = checksum(file, size)
    file.seek(0, os.SEEK_END)
    file.write(digits)


def chain(reason: BaseException | None) -> Iterator[BaseException]:
    """An error and those it came from."""
    while reason is not None:
        yield reason
        reason = reason.__cause__ or reason.__context__


def storable(value: Any) -> Any:
    """The same in plain numbers, strings, containers and tensors, all that is read back.

    Raises
    ------
    CheckpointError : there is something else in it.
    """
    if isinstance(value, Tensor):
        return value.detach()
    value = plain(value)
    if isinstance(value, Mapping):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([storable(item) for item in value])
    if value is None or isinstance(value, bool | int | float | str | bytes | complex):
        return value
    raise CheckpointError(
        f"checkpoint: expected numbers and tensors to keep, received {type(value).__name__}"
    )
