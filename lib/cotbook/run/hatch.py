"""A nursery's own process: it loads, forks, and its forks become kernels.

Only Python's own modules are loaded here, so that a kernel holds what its chapter asks for.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from cotbook.run.system import end_with_parent


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


def _loaded(imports: Iterable[tuple[str, list[str]]]) -> str:
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
