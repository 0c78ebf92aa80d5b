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
import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cotbook.run.system import end_with_parent

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
    command : starts it; what :func:`hatch` reads comes behind.
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


def hatch() -> list[Any]:
    """Be a nursery: load, say so, and fork a kernel for everyone who asks. Returns in a kernel.

    The command line holds the open file of the connection and the imports; in a kernel it holds
    the kernel's own arguments. Returned are the warning filters that came with the imports.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    before = list(warnings.filters)
    reason = _loaded(json.loads(sys.argv[2]))
    filters = [each for each in warnings.filters if each not in before]
    if provenance := sys.modules.get("cotbook.provenance"):
        provenance.versions()  # which it remembers
    gc.collect()
    gc.freeze()  # what is shared with the kernels is not touched by their collections
    with suppress(BrokenPipeError):
        control.send(f"\n{reason}".encode())
    kernels: list[_Kernel] = []
    watch = select.poll()
    watch.register(control, select.POLLIN)
    while True:
        ready = {number for number, _ in watch.poll()}
        for kernel in list(kernels):
            if kernel.end in ready:
                watch.unregister(kernel.end)
                kernel.tell()
            if kernel.link.fileno() in ready:
                kernels.remove(kernel)
                watch.unregister(kernel.link)
                if not kernel.told:
                    watch.unregister(kernel.end)
                kernel.bury()
        if control.fileno() not in ready:
            continue
        message, files, *_ = socket.recv_fds(control, 16, 3)
        if not message:  # nobody is left who could ask
            for kernel in kernels:
                kernel.bury()
            os._exit(0)
        nursery, pid = os.getpid(), os.fork()
        if not pid:
            control.close()
            for kernel in kernels:
                kernel.forget()
            _become_kernel(nursery, *files)
            return filters
        link, *streams = files
        for stream in streams:
            os.close(stream)
        kernel = _Kernel(pid, socket.socket(fileno=link))
        kernels.append(kernel)
        watch.register(kernel.end, select.POLLIN)
        watch.register(kernel.link, select.POLLRDHUP)


class _Kernel:
    """A kernel as its nursery sees it; it stays a zombie, and its number its own, until buried."""

    def __init__(self, pid: int, link: socket.socket):
        self.pid, self.link, self.told = pid, link, False
        self.end = os.pidfd_open(pid)
        self._send(pid)

    def tell(self) -> None:
        """Send the exit code."""
        self.told = True
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        exited = ended.si_code == os.CLD_EXITED
        self._send(ended.si_status if exited else -ended.si_status)

    def _send(self, number: int) -> None:
        with suppress(OSError):
            self.link.sendall(b"%d\n" % number)

    def bury(self) -> None:
        """End it and what it started, and forget it."""
        for end in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                end(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.forget()

    def forget(self) -> None:
        self.link.close()
        os.close(self.end)


def _become_kernel(nursery: int, file: int, out: int, err: int) -> None:
    os.setsid()
    end_with_parent(nursery)
    for stream, place in ((out, 1), (err, 2)):
        os.dup2(stream, place)
        os.close(stream)
    with socket.socket(fileno=file) as link, link.makefile("rb") as lines:
        line = lines.readline()
    if not line.endswith(b"\n"):
        os._exit(1)
    arguments, environment, folder = json.loads(line)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    # as in a fresh process: whoever draws without a seed draws something else in every kernel
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()


def come_first(filters: list[Any]) -> None:
    """Have these warning filters where they are if a cell imports what brought them."""
    rest = [each for each in warnings.filters if each not in filters]
    warnings.resetwarnings()
    warnings.filters[:] = [*filters, *rest]  # type: ignore[index]


def leave() -> None:
    """End a kernel as Python does, but leave to the system what the imports brought."""
    threading._shutdown()  # type: ignore[attr-defined]
    with suppress(BaseException):
        atexit._run_exitfuncs()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _loaded(imports: Iterable[Import]) -> str:
    """Import; why the forks of this process would not be what fresh ones are, or nothing."""
    kept = [(os.dup(stream), stream) for stream in (1, 2)]
    with open(os.memfd_create("said"), "w+b") as said:
        for _, stream in kept:
            os.dup2(said.fileno(), stream)
        error = ""
        try:
            for module, names in imports:
                _import(module, names)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for copy, stream in kept:
                os.dup2(copy, stream)
                os.close(copy)
        said.seek(0)
        words = " ".join(said.read().decode(errors="replace").split())
    if error or words:
        return f"its imports say {error or words}"
    return _unforkable()


def _import(module: str, names: Iterable[str]) -> None:
    found = importlib.import_module(module)
    for name in names:
        if name != "*" and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")


def _unforkable() -> str:
    """A trial: libraries that know of forks have stopped their threads by then."""
    pid = os.fork()
    if not pid:
        torch = sys.modules.get("torch")
        os._exit(bool(torch and torch.cuda._is_in_bad_fork()))
    if os.waitpid(pid, 0)[1]:
        return "its imports use a CUDA device"
    if threads := len(os.listdir("/proc/self/task")) - 1:
        return f"its imports start threads ({threads})"
    return ""
