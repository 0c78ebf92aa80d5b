"""Which code produced a result: hashes of the sources and the versions they ran with."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from importlib import metadata
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1]


def versions() -> dict[str, str]:
    """Installed version of every dependency that may decide a result, and of Python."""
    required = [
        entry
        for entry in metadata.requires("cotflow") or ()
        if not re.search(r'extra == "(bench|sweep|upkeep)"', entry)
    ]
    names = sorted({re.match(r"[\w.-]+", entry)[0] for entry in required})
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def machine() -> str:
    """Processor, number of cores and system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def file_hash(*paths: Path) -> str:
    """First 12 hex digits of the SHA-256 of the files' contents, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def library_hash() -> str:
    """Hash of every file of the library, by its path, and of the versions it runs with.

    A cached execution is valid only while this value stays the same.
    """
    files = sorted(path for path in LIBRARY.rglob("*") if path.is_file() and _is_source(path))
    names = [path.relative_to(LIBRARY).as_posix() for path in files]
    text = f"{names} {file_hash(*files)} {versions()}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_source(path: Path) -> bool:
    """Everything but what Python, editors and the desktop leave beside the sources."""
    inside = path.relative_to(LIBRARY).parts
    return "__pycache__" not in inside and not any(name.startswith(".") for name in inside)
