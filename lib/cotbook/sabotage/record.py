"""The record of planted errors, errors × chapters: ``book/sabotage/record.json``, an error a line.

A result says by a digest of which library, which code of the chapter, which values and which edit
it is. So a campaign can be done in parts and renewed in parts, and words ask for no renewal.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cotbook.errors import BadInput
from cotbook.provenance import LIBRARY, sources
from cotbook.run.edit import Edit
from cotbook.run.profiles import values_of
from cotbook.run.system import change
from cotbook.run.text import code_cells
from cotbook.run.tree import Source
from cotbook.sabotage.catalogue import Error

RECORD = Path("book/sabotage/record.json")
# Fields of a claim that change no number.
WORDS = ("statement", "provenance", "kind", "loose", "companion")


@dataclass(frozen=True)
class Tried:
    """What a chapter made of an error.

    Attributes
    ----------
    state : digest of all that decides it, :func:`state`.
    fails, inconclusive : names of claims.
    stopped : why the chapter did not reach its end, if it did not.
    """

    chapter: str
    profile: str
    state: str
    fails: tuple[str, ...] = ()
    inconclusive: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def silent(self) -> bool:
        return not (self.fails or self.inconclusive or self.stopped)


@dataclass
class Noticed:
    """What became of an error in all chapters where it was tried; claims as "chapter/claim"."""

    tried: list[Tried] = field(default_factory=list)

    @property
    def fails(self) -> list[str]:
        return [f"{each.chapter}/{name}" for each in self.tried for name in each.fails]

    @property
    def inconclusive(self) -> list[str]:
        return [f"{each.chapter}/{name}" for each in self.tried for name in each.inconclusive]

    @property
    def stopped(self) -> list[str]:
        return [each.chapter for each in self.tried if each.stopped]

    @property
    def silent(self) -> list[str]:
        return [each.chapter for each in self.tried if each.silent]

    @property
    def caught(self) -> bool:
        return any(each.fails for each in self.tried)

    @property
    def executed(self) -> bool:
        return bool(self.tried)


Record = dict[str, Noticed]


def read(path: Path) -> Record:
    """What is on record by the names of the errors; nothing where there is no such file.

    Raises
    ------
    BadInput : the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Noticed([_tried(each) for each in tried])
            for name, tried in content["errors"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: expected a record of planted errors: {error}") from None


def _tried(content: Mapping[str, Any]) -> Tried:
    names = {key: tuple(content.get(key, ())) for key in ("fails", "inconclusive")}
    return Tried(**{**content, **names})


def write(path: Path, record: Record) -> None:
    """An error a line, in the order of their names."""
    rows = []
    for name in sorted(record):
        tried = [_row(each) for each in record[name].tried]
        rows.append(f"  {json.dumps(name)}: {json.dumps(tried, ensure_ascii=False)}")
    text = '{\n "errors": {\n' + ",\n".join(rows) + "\n }\n}\n"
    change(path, text)


def _row(tried: Tried) -> dict[str, Any]:
    return {key: value for key, value in asdict(tried).items() if value}


def state(edit: Edit, source: Source, root: Path, profile: str) -> str:
    """Digest of what decides what a chapter makes of an error: code alone, no words."""
    return _digest(asdict(edit), code(source, root, profile))


def current(tried: Tried, error: Error, book: Mapping[str, Source], root: Path) -> bool:
    """Whether the library, the chapter and the edit are still those of a result."""
    if tried.chapter not in book:
        return False
    try:
        return tried.state == state(error.edit, book[tried.chapter], root, tried.profile)
    except BadInput:  # the profile is no more
        return False


@functools.cache
def code(source: Source, root: Path, profile: str) -> str:
    """Digest of cotflow, of the chapter's code and of its values."""
    cells = [_shape(cell.source, WORDS) for cell in code_cells(source.text)]
    return _digest(library(), cells, values_of(root, profile, source.name))


@functools.cache
def library() -> str:
    """Digest of the code of cotflow."""
    texts = {path: path.read_text(encoding="utf-8") for path in sources("cotflow")}
    return _digest(
        {
            path.relative_to(LIBRARY).as_posix(): _shape(text) if path.suffix == ".py" else text
            for path, text in texts.items()
        }
    )


def _digest(*content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _shape(text: str, words: Sequence[str] = ()) -> Any:
    """Python without comments, docstrings and these words of claims; other text as it is."""
    try:
        return _node(ast.parse(text), words)
    except SyntaxError:
        return text


def _node(node: Any, words: Sequence[str]) -> Any:
    """The same in all versions of Python, whose trees differ in fields that are empty."""
    if isinstance(node, list):
        return [_node(each, words) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    match node:
        case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            if ast.get_docstring(node, clean=False) is not None:
                fields["body"] = node.body[1:]
        case ast.Call(keywords=keywords):
            fields["keywords"] = [each for each in keywords if each.arg not in words]
        case ast.Dict(keys=keys, values=values):
            pairs = [
                pair
                for pair in zip(keys, values, strict=True)
                if not (isinstance(pair[0], ast.Constant) and pair[0].value in words)
            ]
            fields = {"items": [value for pair in pairs for value in pair if value]}
    kept = {
        name: _node(value, words)
        for name, value in fields.items()
        if not (value is None or value == [] or name == "ctx")
    }
    return [type(node).__name__, kept]
