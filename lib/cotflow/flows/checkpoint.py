"""A run kept in one file: written whole or not at all, and taken up by the same run only."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1


class CheckpointError(ValueError):
    """The file cannot serve this run; says why."""


def fingerprint(value: object) -> str:
    """SHA-256 of a run's settings: numbers and names as written, tensors bit by bit.

    A function counts by its name only: what a lambda does is not seen.
    """
    digest = hashlib.sha256()

    def add(value: object) -> None:
        digest.update(f"{type(value).__name__}(".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        elif is_dataclass(value):
            for item in fields(value):
                digest.update(f"{item.name}=".encode())
                add(getattr(value, item.name))
        elif isinstance(value, Mapping):
            for name in sorted(value):
                digest.update(f"{name}=".encode())
                add(value[name])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            digest.update(getattr(value, "__qualname__", repr(value)).encode())
        digest.update(b")")

    add(value)
    return digest.hexdigest()


@dataclass
class Checkpoint:
    """Keeps a run of a flow or of a training in ``path``, and takes it up from there.

    The file is written whole or not at all, read without executing anything, and refused by a run
    with other settings.

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
    steps: int | None = None
    seconds: float | None = 60.0
    _run: str = field(default="", init=False, repr=False)
    _last: tuple[int, float] = field(default=(0, 0.0), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"checkpoint: expected steps ≥ 1, received {self.steps}")
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"checkpoint: expected seconds ≥ 0, received {self.seconds}")

    def restore(self, run: Mapping[str, object], device: torch.device) -> dict[str, Any] | None:
        """What was kept of this very run, with its ``step``; None where there is no file.

        Raises
        ------
        CheckpointError : the file is no checkpoint, or that of another run.
        """
        self._run = fingerprint(run)
        kept = read(Path(self.path), self._run, device)
        self._last = (0 if kept is None else kept["step"], time.monotonic())
        return kept

    def keep(self, step: int, content: Callable[[], Mapping[str, Any]], *, last: bool) -> None:
        """Write the run, if it is time for it."""
        written, clock = self._last
        due = self.steps is not None and step - written >= self.steps
        due |= self.seconds is not None and time.monotonic() - clock >= self.seconds
        if due or last:
            head = {"format": FORMAT, "run": self._run, "step": step}
            write(head | dict(content()), Path(self.path))
            self._last = (step, time.monotonic())


def read(path: Path, run: str, device: torch.device) -> dict[str, Any] | None:
    """What :func:`write` left there for the run of that fingerprint, None if there is no file.

    Raises
    ------
    CheckpointError : the file is no checkpoint, or that of another run.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"checkpoint: the folder {path.parent} does not exist")
    if not path.exists():
        return None
    with open(path, "rb") as file:
        try:
            kept = torch.load(file, map_location=device, weights_only=True)
            if not (isinstance(kept, dict) and isinstance(kept["step"], int)):
                raise TypeError("no checkpoint of a run")
            known = kept["format"] == FORMAT and kept["run"]
        except Exception as reason:
            raise CheckpointError(
                f"checkpoint: {path} is damaged or no checkpoint of a run; delete it to start anew"
            ) from reason
    if known != run:
        raise CheckpointError(
            f"checkpoint: {path} is of another run (network, data, initial weights, method, "
            "step, tolerance, horizon, times or observables differ); give another path"
        )
    return kept


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write beside the file, force it to the disk, then rename: readers see the old or the new."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
