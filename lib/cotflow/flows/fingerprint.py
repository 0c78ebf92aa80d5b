"""What a run is made of, told apart by SHA-256 and the same in every process."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cotflow.network.numbers import plain

PACKAGE = Path(__file__).resolve().parents[1]


def fingerprint(value: object) -> str:
    """SHA-256 of a setting of a run: what it is, never where in memory.

    Numbers count by their value, whether Python's or NumPy's; tensors and arrays bit by bit;
    containers, dataclasses and partials by what they hold; a function by its compiled code,
    its defaults, its closure, and the functions, classes and values of the user's own that it
    refers to; an object by its class, and by its attributes if the class is the user's own. What
    belongs to an installed package counts by its name: see :func:`surroundings`.
    """
    return _Reader().of(value, given=True)


@functools.cache
def surroundings() -> dict[str, str]:
    """Fingerprints of what every run stands on: this library, torch and Python.

    All of the library's sources count, since an observer may call any of them.
    """
    sources = sorted(
        p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".c", ".h") and p.is_file()
    )
    return {
        "the sources of cotflow": _joined(
            *(part for path in sources for part in (path.name, path.read_bytes()))
        ),
        "the version of torch": fingerprint(torch.__version__),
        "the version of Python": fingerprint(list(sys.version_info[:2])),
    }


class _Reader:
    """Fingerprints of values that refer to each other."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[object, str]] = {}
        self.open: set[int] = set()

    def of(self, value: Any, *, given: bool = False) -> str:
        """The fingerprint; ``given`` stands for itself, other things of packages for a name."""
        value = value if isinstance(value, Tensor | np.ndarray) else plain(value)
        if value is None or isinstance(value, bool | str | bytes | complex):
            return _joined(type(value).__name__, repr(value))
        if isinstance(value, int | float):
            number = float(value) if abs(value) <= 2**53 else value
            return _joined("number", repr(number))
        if isinstance(value, Tensor):
            flat = value.detach().resolve_conj().resolve_neg().cpu().reshape(-1)
            flat = flat.clone(memory_format=torch.contiguous_format)
            content = flat.view(torch.uint8).numpy() if flat.numel() else b""
            return _joined("tensor", f"{value.dtype} {tuple(value.shape)}", content)
        if isinstance(value, np.ndarray) and value.dtype != object:
            content = np.ascontiguousarray(value).tobytes()
            return _joined("array", f"{value.dtype} {value.shape}", content)
        if id(value) in self.open:
            return _joined("itself")
        if id(value) not in self.known:
            self.open.add(id(value))
            # Kept with its fingerprint, so that no other object gets its identity.
            self.known[id(value)] = (value, _joined(*self.parts(value, given)))
            self.open.remove(id(value))
        return self.known[id(value)][1]

    def parts(self, value: Any, given: bool) -> Iterator[str]:
        """Of what the fingerprint of something compound is made."""
        kind = type(value)
        if isinstance(value, Mapping):
            yield "mapping"
            yield from sorted(self.of(k) + self.of(v) for k, v in value.items())
        elif isinstance(value, list | tuple | np.ndarray):
            yield "sequence"
            yield from (self.of(item) for item in value)
        elif isinstance(value, set | frozenset):
            yield "set"
            yield from sorted(self.of(item) for item in value)
        elif isinstance(value, functools.partial):
            yield "partial"
            yield self.of(value.func, given=given)
            yield self.of(value.args)
            yield self.of(value.keywords)
        elif isinstance(value, MethodType):
            yield "method"
            yield self.of(value.__func__, given=given)
            yield self.of(value.__self__, given=True)
        elif isinstance(value, FunctionType) and (given or _own(value.__module__)):
            yield "function"
            yield from self.function(value)
        elif isinstance(value, type | FunctionType | BuiltinFunctionType | ModuleType):
            yield _name(value)
            if isinstance(value, type):
                yield from self.classes(value)
        elif given and callable(getattr(value, "__wrapped__", None)):
            yield self.of(value.__wrapped__, given=True)
        else:
            yield _name(kind)
            yield from self.classes(kind)
            if is_dataclass(value):
                attributes = {item.name: getattr(value, item.name) for item in fields(value)}
            elif isinstance(value, torch.nn.Module):
                own = {name: item for name, item in vars(value).items() if name[0] != "_"}
                attributes = own | dict(value.state_dict())
            else:
                attributes = vars(value) if hasattr(value, "__dict__") else {}
                attributes = attributes if given or _own(kind.__module__) else {}
            yield from (self.of(name) + self.of(item) for name, item in sorted(attributes.items()))

    def function(self, value: FunctionType) -> Iterator[str]:
        """Code, defaults, closure."""
        yield from self.code(value.__code__, value.__globals__)
        yield self.of(value.__defaults__)
        yield self.of(value.__kwdefaults__)
        for cell in value.__closure__ or ():
            try:
                yield self.of(cell.cell_contents)
            except ValueError:
                yield "nothing yet"

    def code(self, code: CodeType, names: dict[str, Any]) -> Iterator[str]:
        """Instructions and constants, not where they stand, and the user's own they refer to."""
        arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
        yield _joined(code.co_code, code.co_exceptiontable, repr((arguments, code.co_flags)))
        yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from self.code(constant, names)
            elif isinstance(constant, frozenset):
                yield repr(sorted(map(repr, constant)))
            else:
                yield repr(constant)
        found: object = None
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                found = names.get(instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(
                found, ModuleType
            ):
                found = getattr(found, instruction.argval, None)
            else:
                found = None
            if found is not None and not isinstance(found, ModuleType):
                yield self.of(found)

    def classes(self, kind: type) -> Iterator[str]:
        """The code of the user's own classes among a class and those it stands on."""
        for one in kind.__mro__:
            if not _own(one.__module__):
                continue
            for name, item in sorted(vars(one).items()):
                written = name in ("__call__", "__post_init__") or (
                    name == "__init__" and not is_dataclass(one)
                )
                if name.startswith("__") and not written:
                    continue
                parts = [getattr(item, at, None) for at in ("__func__", "fget", "func")]
                inner = next((part for part in parts if part is not None), item)
                yield name + self.of(inner)


@functools.cache
def _own(module: str | None) -> bool:
    """Whether a module is the user's, rather than Python's or an installed package's."""
    if module == "__main__" or module is None:
        return module is not None
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == __package__.partition(".")[0]:
        return False
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is None or not any(Path(file).resolve().is_relative_to(f) for f in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Where packages are."""
    paths = sysconfig.get_paths()
    found = [Path(paths[kind]) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(path.resolve() for path in (*found, Path(torch.__file__).parents[1]))


def _name(value: Any) -> str:
    """Of the user's own things without the module, which is another one in another script."""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    module = getattr(value, "__module__", None)
    return str(name) if _own(module) else f"{module}.{name}"


def _joined(*parts: str | bytes | Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = memoryview(part.encode() if isinstance(part, str) else part)
        digest.update(f"{content.nbytes}:".encode())
        digest.update(content)
    return digest.hexdigest()
