"""Which code produced a result: hashes of the sources and the versions they ran with."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import platform
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1]
# What every chapter computes and draws with; the rest of cotbook shapes no number and no picture.
SHAPING = (
    "cotflow",
    "cotbook/__init__.py",
    "cotbook/chapter.py",
    "cotbook/claims.py",
    "cotbook/parameters.py",
    "cotbook/figures",
)


# Numbers of threads, and what picks other instructions or another compiler: sums are rounded
# otherwise. Torch's own threads a chapter sets.
ROUNDING = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "MKL_DYNAMIC"),
    *("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *(
        "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA",
        "DNNL_MAX_CPU_ISA",
        "ONEDNN_DEFAULT_FPMATH_MODE",
    ),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),
    *("GLIBC_TUNABLES", "LD_PRELOAD", "CC"),
)


def surroundings() -> list[str]:
    """The variables of `ROUNDING` that are set, as NAME=value: what may change a last digit."""
    return [f"{name}={os.environ[name]}" for name in ROUNDING if os.environ.get(name)]


def surround(named: Iterable[str]) -> None:
    """Set these variables, as `surroundings` names them, and no other of `ROUNDING`."""
    for name in ROUNDING:
        os.environ.pop(name, None)
    os.environ.update(entry.split("=", 1) for entry in named)


def versions() -> dict[str, str]:
    """Installed version of all that a chapter's kernel may load, and of Python.

    These are the requirements of cotflow as a notebook needs it and of the kernel, those of
    the requirements, and so on.
    """
    places = [Path(entry) for entry in sys.path if entry and os.path.isdir(entry)]
    return dict(_versions(tuple((str(place), place.stat().st_mtime_ns) for place in places)))


@functools.cache
def _versions(places: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """The same as long as nothing is installed or removed in these places."""
    found: dict[str, str] = {}
    waiting = ["ipykernel", *_requirements("cotflow", extra="notebook")]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # one for another system or interpreter
            continue
        waiting += _requirements(name)
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


def _requirements(package: str, extra: str | None = None) -> Iterator[str]:
    """Names, each in its one normal form, of what a package needs, with or without an extra."""
    for entry in _declared(package):
        wanted = re.search(r"""extra\s*==\s*["']([\w.-]+)""", entry)
        if wanted is None or wanted[1] == extra:
            yield re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", entry)[0]).lower()


def _declared(package: str) -> list[str]:
    """Requirements as the installed package states them, or this library where it only lies."""
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        project = LIBRARY.parent / "pyproject.toml"
        if package != "cotflow" or not project.is_file():
            return []
        stated = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        extras = stated["optional-dependencies"].items()
        marked = [f"{entry}; extra == '{extra}'" for extra, more in extras for entry in more]
        return [*stated["dependencies"], *marked]


def machine() -> str:
    """Processor, number of cores and system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
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


def execution_hash() -> str:
    """Hash of the sources that shape a chapter's numbers and pictures, and of the versions.

    The sources are the files of `SHAPING`, by path and content. A cached execution is valid
    only while this value and the chapter's own cells stay the same.
    """
    return _hash(sources(*SHAPING), versions())


def chapter_hash(cells: Iterable[str]) -> str:
    """The execution hash, and the other modules of cotbook that the chapter itself imports."""
    own = imported(cells)
    return _hash(own, execution_hash()) if own else execution_hash()


def pages_hash() -> str:
    """Hash of all of cotbook: pages are written anew when it changes."""
    return _hash(sources("cotbook"))


def imported(cells: Iterable[str]) -> list[Path]:
    """Files of the modules of cotbook outside `SHAPING` that cells import, directly or not.

    A module's data, files beside it with the same stem, belong to it.
    """
    shaping = set(sources(*SHAPING))
    found: set[Path] = set()
    waiting = [name for cell in cells for name in _imports(cell)]
    while waiting:
        for path in set(_files(waiting.pop())) - shaping - found:
            found.add(path)
            if path.suffix == ".py":
                waiting += _imports(path.read_text(encoding="utf-8"))
    return sorted(found)


def sources(*parts: str) -> list[Path]:
    """Files of these folders and files of the library, without what tools leave beside them."""
    found = (
        path
        for part in parts
        for path in (LIBRARY / part, *(LIBRARY / part).rglob("*"))
        if path.is_file() and _is_source(path)
    )
    return sorted(found)


def _hash(files: Iterable[Path], *more: object) -> str:
    files = list(files)
    names = [path.relative_to(LIBRARY).as_posix() for path in files]
    text = " ".join(map(str, [names, file_hash(*files), *more]))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_source(path: Path) -> bool:
    """Everything but what Python, installers, editors and the desktop leave there."""
    inside = path.relative_to(LIBRARY).parts
    left = any(name.startswith(".") or name.endswith((".egg-info", "~")) for name in inside)
    return "__pycache__" not in inside and not left


def _imports(code: str) -> Iterator[str]:
    """Names below cotbook that a piece of Python imports, among them some that are no modules."""
    lines = (line for line in code.splitlines() if not line.startswith(("%", "!")))
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:  # the kernel will say so
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module), level=0):
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            case _:
                continue
        yield from (name for name in names if name.startswith("cotbook."))


def _files(name: str) -> Iterator[Path]:
    """The module of that name with its data, and the packages around it."""
    path = LIBRARY.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        yield from (beside for beside in path.parent.glob(f"{path.name}.*") if _is_source(beside))
    for folder in (path, *path.parents):
        if folder == LIBRARY:
            break
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"
