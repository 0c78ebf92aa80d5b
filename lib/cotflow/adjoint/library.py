"""The kernel as a library: built by the machine's own C compiler, kept, and verified when loaded.

A file of the cache is the library and, behind it, a digest of the library and of all that made it:
compiler, flags, processor, source. A file that was cut off, damaged or put there is built anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from cotflow.network.disk import appearing

SOURCE = Path(__file__).with_name("kernel.c")
HEADER = SOURCE.with_name("elementary.h")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
         "-ffp-contract=fast", "-shared", "-fPIC", "-std=gnu11")  # fmt: skip
# Seconds that a compiler may take, many times what one needs.
PATIENCE = 120.0
# Seconds after which what a killed process has left in the cache is deleted.
ABANDONED = 3600.0
MARK = b"cotflow kernel "
# Why there is no kernel: it is asked for once a process.
_failures: list[str] = []


class CompilerMissing(RuntimeError):
    """No C compiler, or one that cannot build the kernel, or nowhere to keep it."""


class _Refused(CompilerMissing):
    """The compiler has answered, and the answer is no."""


@functools.cache
def command() -> tuple[str, ...]:
    """CC with its flags, or else cc, gcc or clang, whichever comes first."""
    asked = os.environ.get("CC", "").strip()
    try:
        words = shlex.split(asked)
    except ValueError:
        words = []
    if words and (program := shutil.which(words[0])):
        return (program, *words[1:])
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if not found:
        also = f", nor is CC={asked!r}" if asked else ""
        raise CompilerMissing(f"no C compiler (cc, gcc or clang) is on the PATH{also}")
    if asked:
        warn(f"CC={asked!r} names no program that is here: the kernel is built by {found}")
    return (found,)


def compiler() -> str:
    """The compiler's command in one line."""
    return shlex.join(command())


@functools.cache
def target() -> str:
    """All that the compiler predefines: its version, and the processor that it will build for."""
    return _compile("-march=native", "-dM", "-E", "-x", "c", os.devnull)


def register_bytes() -> int:
    """Width of the processor's widest vector register that the compiler will use."""
    macros = target()
    return 64 if "__AVX512F__" in macros else 32 if "__AVX__" in macros else 16


@functools.cache
def loaded(element_size: int, *options: str, source: Path = SOURCE) -> ctypes.CDLL:
    """The kernel for reals of so many bytes, from the user's cache or from the compiler; or
    another source with the same flags.

    Raises
    ------
    CompilerMissing : why there is none; after that nothing is tried again in this process.
    """
    if not _failures:
        try:
            # Registers for sums: of 32, or of 16.
            sums = 20 if register_bytes() == 64 or "__aarch64__" in target() else 10
            lanes = register_bytes() // element_size
            return _loaded(source, *FLAGS, f"-DLANES={lanes}", f"-DACC={sums}", *options)
        except (CompilerMissing, OSError) as error:
            _failures.append(str(error))
    raise CompilerMissing(_failures[0])


def _loaded(source: Path, *options: str) -> ctypes.CDLL:
    texts = [path.read_text("utf-8") for path in (source, HEADER)]
    # Another processor must not load what -march=native built here.
    parts = [*command(), "", target(), platform.node(), cpu(), *options, *texts]
    key = "\0".join(parts).encode(errors="surrogateescape")
    cache = _cache()
    path = cache / f"{hashlib.sha256(key).hexdigest()[:20]}.so"
    if not verified(path, key):
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep(_built(source, options), path, key)
    return ctypes.CDLL(str(path))


def verified(path: Path, key: bytes) -> bool:
    """Whether the file is what this process would have built, and nobody else could write it."""
    try:
        with path.open("rb") as file:
            found, content = os.fstat(file.fileno()), file.read()
    except OSError:
        return False
    body, seal = content[:-SEAL], content[-SEAL:]
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022 and seal == _seal(body, key)


def _seal(body: bytes, key: bytes) -> bytes:
    return MARK + hashlib.sha256(hashlib.sha256(key).digest() + body).digest()


SEAL = len(_seal(b"", b""))


def _cache() -> Path:
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    with contextlib.suppress(RuntimeError):
        folder = asked if asked.is_absolute() else Path.home() / ".cache"
        if folder.is_absolute():
            return folder / "cotflow"
    raise CompilerMissing(
        "this user has no home folder to keep the kernel in (XDG_CACHE_HOME can name another)"
    )


def _built(source: Path, options: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="cotflow-") as folder:
        output = Path(folder) / "kernel.so"
        _compile(*options, f"-I{HEADER.parent}", str(source), "-o", str(output))
        return output.read_bytes()


def _keep(body: bytes, path: Path, key: bytes) -> None:
    """Whole or not at all, also when the machine stops in the middle."""
    for left in path.parent.glob("*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    with appearing(path, path.with_suffix(f".{secrets.token_hex(8)}.partial"), 0o700) as file:
        file.write(body + _seal(body, key))


def _compile(*arguments: str) -> str:
    """What the compiler prints."""
    status, output, messages = _run((*command(), *arguments))
    if status is None:
        raise CompilerMissing(f"{compiler()} took more than {PATIENCE:g} s to build the kernel")
    if status != 0:
        why = messages or f"exit status {status}"
        raise _Refused(f"{compiler()} could not build the kernel: {why}")
    return output


def _run(arguments: Sequence[str]) -> tuple[int | None, str, str]:
    """(exit status, output, messages); a status of None is that of a program that took too long."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        # A group of its own: a compiler has children, and they end with it.
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=messages,
            start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        texts = []
        for file in (output, messages):
            file.seek(0)
            texts.append(file.read().decode(errors="replace").strip())
    return status, texts[0], _printable(texts[1])


def _printable(text: str, limit: int = 2000) -> str:
    """Without what would speak to a terminal, and not endless."""
    kept = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
    return kept if len(kept) <= limit else f"{kept[:limit]} …"


def cpu() -> str:
    """The processor's feature flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@functools.cache
def warn(reason: str) -> None:
    """Once a process for each reason."""
    warnings.warn(reason, stacklevel=3)
