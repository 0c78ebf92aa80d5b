"""Kernels forked from one process that has done what a chapter does first: its imports.

To load torch and matplotlib takes longer than many a chapter. A nursery is started as
:class:`cotbook.run.kernel.Kernel` starts a kernel; it imports what the chapter begins with, and
every kernel is a fork of it, with folder, variables and streams of its own. The nursery executes
no cell, computes nothing, opens no port and has one thread, so that a kernel sees nothing of the
others. Where the imports would not be the same in a nursery (they say something, fail, start
threads, touch a CUDA device) it is of no use, and says why.
"""

from __future__ import annotations

import ast
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What looks neither at the shell nor at its surroundings when it is imported
INDIFFERENT = sys.stdlib_module_names | {
    *("cotflow", "cotbook", "IPython", "jaxtyping", "matplotlib", "mpmath", "numpy", "ot"),
    *("pooch", "pydantic", "scipy", "sklearn", "torch", "torchdiffeq", "yaml"),
}
Import = tuple[str, list[str]]


class Lost(RuntimeError):
    """The nursery was killed, and its kernels with it."""


def beginning(cells: Iterable[str]) -> list[Import]:
    """The imports (module, names) before the first statement of a chapter that does anything.

    Constants, annotations and functions do nothing. A module that may look around ends it too:
    what comes after could depend on it.
    """
    found: list[Import] = []
    for cell in cells:
        try:
            body = ast.parse(cell).body
        except (SyntaxError, ValueError):  # a magic command, or nonsense, of which the kernel tells
            return found
        for statement in body:
            match statement:
                case ast.Import(names=names):
                    wanted: list[Import] = [(alias.name, []) for alias in names]
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    wanted = [(module, [alias.name for alias in names])]
                case _ if _does_nothing(statement):
                    wanted = []
                case _:
                    return found
            if not all(module.partition(".")[0] in INDIFFERENT for module, _ in wanted):
                return found
            found += wanted
    return found


def _does_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.FunctionDef(decorator_list=[]):
            parts: list[ast.AST] = [statement.args]
        case ast.Assign(targets=targets):
            if not all(isinstance(target, ast.Name) for target in targets):
                return False
            parts = [statement.value]
        case ast.AnnAssign(target=ast.Name()) | ast.Expr():
            parts = [statement]
        case _:
            return False
    acts = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
    return not any(isinstance(node, acts) for part in parts for node in ast.walk(part))


class Nursery:
    """The nursery as seen by those who want kernels: the process that started it and its forks.

    Parameters
    ----------
    command : starts it; what :func:`cotbook.run.hatch.hatch` reads comes behind.
    imports : what it loads.
    environment : its variables; kernels get others.

    Attributes
    ----------
    lost : whether it ended before a kernel did; all its kernels have ended with it.
    """

    def __init__(
        self, command: Sequence[str], imports: Sequence[Import], environment: Mapping[str, str]
    ):
        self.lost = False
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), json.dumps(imports)],
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def answer(self) -> str:
        """Wait until it has loaded: why it is of no use, or nothing.

        Raises Lost if it ended before.
        """
        said = self.control.recv(1 << 16)
        if not said:
            self.lost = True
            raise Lost("the process that starts kernels did not live to do so")
        return said.decode().removeprefix("\n")

    def kernel(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> Forked:
        return Forked(self, [list(arguments), dict(environment), folder])

    def close(self) -> None:
        """End it, with all its kernels."""
        self.control.close()
        self.process.kill()
        self.process.wait()


class Forked:
    """A kernel's process, as :class:`subprocess.Popen` shows one, but no child of this one.

    The connection to the nursery is the kernel's life: when it closes, however, the kernel ends.
    """

    stdin = stdout = stderr = None

    def __init__(self, nursery: Nursery, request: Any):
        self.returncode: int | None = None
        self._nursery = nursery
        self._link, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(nursery.control, [b"kernel"], [theirs.fileno(), 1, 2])
            self._link.sendall(json.dumps(request).encode() + b"\n")
            self._lines = self._link.makefile("rb")
            self.pid = int(self._lines.readline())
        except (OSError, ValueError):
            nursery.lost = True
            raise Lost("the process that starts kernels was killed") from None

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            watch = select.poll()
            watch.register(self._link, select.POLLIN)
            if watch.poll(0):
                self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            line = self._lines.readline()
            self._nursery.lost = not line
            self.returncode = int(line or -signal.SIGKILL)
            self._lines.close()
            self._link.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)
