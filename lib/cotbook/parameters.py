"""A chapter's parameters: the types its cell is annotated with, and sentences for wrong values."""

from __future__ import annotations

import ast
import ctypes
import difflib
import io
import re
import reprlib
import sys
import tokenize
import typing
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError


class ParameterError(ValueError):
    """One sentence a line, each about one parameter."""


@dataclass(frozen=True)
class Phrase:
    """How a person would name one value of a type, and several of them.

    Of a list, both may say ``{entries}``, which stands for what its entries are called.
    """

    one: str
    many: str

    def about(self, entries: str) -> Phrase:
        return Phrase(self.one.format(entries=entries), self.many.format(entries=entries))


def _cuda_devices() -> int:
    """How many torch sees; without a driver there is none, and torch need not load to say so."""
    if "torch" not in sys.modules and not _has_gpu_driver():
        return 0
    import torch

    return torch.cuda.device_count()


def _has_gpu_driver() -> bool:
    if sys.platform != "linux" or Path("/dev/kfd").exists():  # AMD's, which ROCm calls cuda
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _device(name: str, info: Any) -> str:
    """The name itself, to be found here unless ``info`` says that another machine is meant."""
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", name)
    if not match:
        raise ValueError("'cpu', 'cuda' or 'cuda:N'")
    if name != "cpu" and not info.context:
        found = _cuda_devices()
        if int(match[1] or 0) >= found:
            seen = f"{found} CUDA device(s)" if found else "no CUDA device"
            raise ValueError(f"a device of this machine, where torch sees {seen}")
    return name


_FINITE_POSITIVE = Field(gt=0, allow_inf_nan=False)
_FROM_ONE = Phrase("a whole number ≥ 1", "whole numbers ≥ 1")
_POSITIVE = Phrase("a finite number > 0", "finite numbers > 0")

Depth = Annotated[int, Field(ge=1), _FROM_ONE]
Width = Annotated[int, Field(ge=1), _FROM_ONE]
Dimension = Annotated[int, Field(ge=1), _FROM_ONE]
Count = Annotated[int, Field(ge=1), _FROM_ONE]
Seed = Annotated[int, Field(ge=0), Phrase("a whole number ≥ 0", "whole numbers ≥ 0")]
Rate = Annotated[float, _FINITE_POSITIVE, _POSITIVE]
Time = Annotated[float, _FINITE_POSITIVE, _POSITIVE]
Activation = Literal["gelu", "tanh", "relu", "identity"]
Dtype = Literal["float32", "float64"]
Dataset = Literal["digits", "mnist", "cifar10"]
Variant = Literal["text", "released"]
Precision = Literal["full", "mixed"]
Device = Annotated[str, AfterValidator(_device), Phrase("'cpu', 'cuda' or 'cuda:N'", "devices")]


def _arranged(least: int, holds: Callable[[list[Any]], bool]) -> AfterValidator:
    """Accepts lists of ``least`` entries or more of which ``holds`` is true."""

    def accepted(values: list[Any]) -> list[Any]:
        if len(values) < least or not holds(values):
            raise AssertionError
        return values

    return AfterValidator(accepted)


T = TypeVar("T")
Several = Annotated[
    list[T],
    _arranged(2, lambda values: all(a != b for a, b in combinations(values, 2))),
    Phrase("a list of at least two {entries}, all different", "lists of different {entries}"),
]
Increasing = Annotated[
    list[T],
    _arranged(2, lambda values: all(a < b for a, b in pairwise(values))),
    Phrase("a list of at least two {entries}, increasing", "increasing lists of {entries}"),
]
Decreasing = Annotated[
    list[T],
    _arranged(2, lambda values: all(a > b for a, b in pairwise(values))),
    Phrase("a list of at least two {entries}, decreasing", "decreasing lists of {entries}"),
]
Doubling = Annotated[
    list[T],
    _arranged(3, lambda values: all(2 * a == b for a, b in pairwise(values))),
    Phrase("a list of at least three {entries}, each twice the last", "doubling {entries}"),
]

_NON_EMPTY = Field(min_length=1)
Depths = Annotated[list[Depth], _NON_EMPTY]
Widths = Annotated[list[Width], _NON_EMPTY]
Counts = Annotated[list[Count], _NON_EMPTY]
Seeds = Annotated[list[Seed], _NON_EMPTY]
Rates = Annotated[list[Rate], _NON_EMPTY]

_BUILTIN = {
    int: Phrase("a whole number", "whole numbers"),
    float: Phrase("a finite number", "finite numbers"),
    str: Phrase("a text", "texts"),
    bool: Phrase("true or false", "true or false each"),
    list: Phrase("a list", "lists"),
}


_NAMED = {kind.__name__: kind for kind in _BUILTIN}
_LISTS = (list, Several, Increasing, Decreasing, Doubling)
_SHOWN = reprlib.Repr()
_SHOWN.maxlist = 20


def _is_parameter(annotation: Any) -> bool:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _is_parameter(inside[0])
    if origin is list:
        return all(_is_parameter(entry) for entry in inside)
    return origin is Literal or (isinstance(annotation, type) and annotation in _BUILTIN)


def _phrase(annotation: Any) -> Phrase:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        own = [entry for entry in inside[1:] if isinstance(entry, Phrase)]
        if typing.get_origin(inside[0]) is list:
            own = [phrase.about(_phrase(_entries(annotation)).many) for phrase in own]
        return own[0] if own else _phrase(inside[0])
    if origin is list:
        entries = _phrase(inside[0]).many
        return Phrase(f"a non-empty list of {entries}", f"non-empty lists of {entries}")
    if origin is Literal:
        choice = ", ".join(map(str, inside))
        return Phrase(f"one of {choice}", f"values among {choice}")
    return _BUILTIN[annotation]


def _entries(annotation: Any) -> Any:
    """The annotation of a list's entries."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return typing.get_args(annotation)[0]


def _validated(name: str, annotation: Any, value: Any, elsewhere: bool) -> Any:
    if typing.get_origin(annotation) is list:
        annotation = Annotated[annotation, _NON_EMPTY]
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
        return adapter.validate_python(value, context=elsewhere)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    expected = _phrase(annotation).one
    if first["loc"]:
        expected = _phrase(_entries(annotation)).many
    if first["type"] == "value_error":
        expected = str(first["ctx"]["error"])
    raise ParameterError(f"{name}: expected {expected}, received {_SHOWN.repr(first['input'])}")


def _gather(checks: Iterable[tuple[str, Any, Any]], elsewhere: bool = False) -> dict[str, Any]:
    """Validated values by name; every problem found is in the error, not only the first."""
    values, problems = {}, []
    for name, annotation, value in checks:
        try:
            values[name] = _validated(name, annotation, value, elsewhere)
        except ParameterError as problem:
            problems.append(str(problem))
    if problems:
        raise ParameterError("\n".join(problems))
    return values


def _named(text: str, namespace: dict[str, Any]) -> Any:
    """The annotation that ``text`` names, ``Depth`` or ``Several[Depth]``; nothing is executed."""

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name):
                known = namespace.get(name, _NAMED.get(name))
                if known is not None:
                    return known
            case ast.Subscript(value=ast.Name() as kind, slice=entry):
                lists = value(kind)
                if any(lists is known for known in _LISTS):
                    return lists[value(entry)]
        raise ValueError(f"{text!r} is no type of parameters")

    try:
        return value(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(str(error)) from None


def check(namespace: dict[str, Any]) -> dict[str, Any]:
    """Current values of a notebook's annotated parameters, each checked against its annotation.

    Parameters
    ----------
    namespace : the notebook's ``globals()``. Variables annotated with something else than
        this module's types, ``int``, ``float``, ``str``, ``bool`` or lists of those are left alone.

    Raises
    ------
    ParameterError : one line for each value outside its type or range.
    """
    checks = []
    for name, annotation in _annotations(namespace).items():
        if isinstance(annotation, str):
            try:
                annotation = _named(annotation, namespace)
            except ValueError:
                continue
        if _is_parameter(annotation):
            if name not in namespace:
                raise ParameterError(f"{name}: expected a value, received an annotation only")
            checks.append((name, annotation, namespace[name]))
    return _gather(checks)


def _annotations(namespace: dict[str, Any]) -> dict[str, Any]:
    """What the variables of a notebook or a script are annotated with, or the text of it."""
    if "__annotate__" not in namespace:
        return namespace.get("__annotations__", {})
    # From Python 3.14 on. A notebook's statements are compiled one by one, so that the function
    # tells of the last one alone; the cells tell of all.
    if "In" not in namespace:
        return namespace["__annotate__"](1)
    found = {}
    for cell in namespace["In"]:
        with suppress(SyntaxError):
            for line in ast.parse(cell).body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    found[line.target.id] = ast.unparse(line.annotation)
    return found


@dataclass(frozen=True)
class Parameter:
    """One line ``name: annotation = default  # help`` of a chapter's parameters cell."""

    name: str
    annotation: str
    type: Any
    default: Any
    help: str


def read_cell(source: str) -> tuple[Parameter, ...]:
    """The parameters that a cell of source text declares, in its order."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"the parameters cell is not plain Python: {error.msg}") from None
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    return tuple(_declaration(line, comments.get(line.end_lineno, "")) for line in body)


def _declaration(line: ast.stmt, help: str) -> Parameter:
    if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
        raise ParameterError(
            "the parameters cell: expected lines like 'depth: Depth = 8', "
            f"received {ast.unparse(line)!r}"
        )
    name, annotation = line.target.id, ast.unparse(line.annotation)
    try:
        kind = _named(annotation, globals())
    except ValueError:
        kind = None
    if not _is_parameter(kind):
        raise ParameterError(f"{name}: expected a type of parameters, received {annotation!r}")
    try:
        default = ast.literal_eval(line.value)
    except ValueError:
        raise ParameterError(
            f"{name}: expected a literal default, received {ast.unparse(line.value)!r}"
        ) from None
    return Parameter(name, annotation, kind, default, help)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that resemble ``name``, or all of them when none does."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3)
    return f"nearest: {', '.join(close)}" if close else f"available: {', '.join(known) or 'none'}"


def validate(
    parameters: Iterable[Parameter], given: dict[str, Any], elsewhere: bool = False
) -> dict[str, Any]:
    """Effective values of all parameters: the given ones, and defaults for the rest.

    ``elsewhere`` says that another machine will use them, whose devices cannot be seen here.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    unknown = [
        f"unknown parameter {name!r}; {nearest(str(name), declared)}"
        for name in given
        if name not in declared
    ]
    if unknown:
        raise ParameterError("\n".join(unknown))
    checks = ((p.name, p.type, given.get(p.name, p.default)) for p in declared.values())
    return _gather(checks, elsewhere)


class OnceLoader(yaml.SafeLoader):
    """Safe YAML in which no key stands twice: the last one would win, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        content = super().construct_mapping(node, deep)
        if len(content) < len(node.value):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"expected every key once, received {twice!r} twice", node.start_mark
            )
        return content


class _Loader(OnceLoader):
    """YAML 1.2's plain scalars only: ``1e-2`` is a number, ``on`` and ``010`` are not surprises."""

    yaml_implicit_resolvers: typing.ClassVar = {}
    yaml_constructors: typing.ClassVar = {}


_PLAIN = {
    "null": (r"~|null|", lambda text: None),
    "bool": (r"true|false", lambda text: text == "true"),
    "int": (r"[-+]?[0-9]+", int),
    "float": (
        r"(?i:[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)(e[-+]?[0-9]+)?|[-+]?\.?inf|\.?nan)",
        lambda text: float(re.sub(r"\.(?=[a-z])", "", text.lower())),
    ),
    "str": (None, str),
}
for _tag, (_pattern, _read) in _PLAIN.items():
    _tag = f"tag:yaml.org,2002:{_tag}"
    if _pattern is not None:
        _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), None)
    _Loader.add_constructor(
        _tag, lambda loader, node, read=_read: read(loader.construct_scalar(node))
    )
_Loader.add_constructor("tag:yaml.org,2002:seq", yaml.SafeLoader.construct_yaml_seq)
_Loader.add_constructor("tag:yaml.org,2002:map", yaml.SafeLoader.construct_yaml_map)


def load_yaml(text: str, kind: type[OnceLoader] = _Loader) -> Any:
    """A YAML document of numbers, texts, lists and mappings."""
    loader = kind(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """A command line's value: ``8``, ``1e-2``, ``gelu`` or ``[8, 32]``; anything else is a text."""
    try:
        value = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return text if value is None else value
