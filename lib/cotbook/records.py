"""Reading what chapters recorded: in notebooks, in the folder of a run, in a built ledger.

Whatever was not written by a chapter of this book is refused with a sentence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from reprlib import repr as brief
from typing import Any, TypeVar

from cotbook.claims import (
    CASES_MIME,
    CLAIM_MIME,
    EXECUTION_MIME,
    Claim,
    Entry,
    Execution,
    Untested,
)

CLAIMS, EXECUTION, LEDGER = "claims.json", "execution.json", "ledger.json"
DIGEST = "claims_sha256"  # in the metadata of a run's notebook

T = TypeVar("T")


class RecordError(ValueError):
    """A file or an output that holds no record of this book, or a damaged one."""


@dataclass(frozen=True)
class ChapterRecord:
    """One executed chapter: its page, its claims in the order of the page, its execution."""

    docname: str
    title: str
    source_hash: str
    execution: Execution
    claims: tuple[Entry, ...]

    def page(self, claim: Entry) -> str:
        """Where the claim's card is, seen from the first page of the book."""
        return f"{self.docname}.html#{claim.anchor}"

    def to_json(self) -> dict[str, Any]:
        return {
            "chapter": self.docname,
            "title": self.title,
            "source_hash": self.source_hash,
            "execution": self.execution.to_json(),
            "claims": [claim.to_json() | {"page": self.page(claim)} for claim in self.claims],
        }


@dataclass(frozen=True)
class Ledger:
    """All executed chapters of a built book, in its order."""

    library_hash: str
    chapters: tuple[ChapterRecord, ...]

    def to_json(self) -> dict[str, Any]:
        chapters = [chapter.to_json() for chapter in self.chapters]
        return {"library_hash": self.library_hash, "chapters": chapters}


def of_notebook(notebook: Mapping[str, Any]) -> tuple[tuple[Entry, ...], tuple[Execution, ...]]:
    """The claims and the execution records that the cells of a notebook displayed."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    data = [output.get("data", {}) for output in outputs]
    rows = [row for shown in data for row in (shown, *shown.get(CASES_MIME, {}).get("rows", ()))]
    claims = tuple(entry(row[CLAIM_MIME]) for row in rows if CLAIM_MIME in row)
    executions = tuple(
        execution(shown[EXECUTION_MIME]) for shown in data if EXECUTION_MIME in shown
    )
    return claims, executions


def of_run(folder: Path) -> tuple[Entry, ...]:
    """The claims in the folder of a run: those of its notebook, as they were written."""
    path = folder / CLAIMS
    found = tuple(map(entry, _expect(load(path), list, str(path), "a list of claims")))
    shown, digest = _known_of_claims(folder)
    if not found:
        shown = _claims_of_notebook(folder)
    if shown not in (None, len(found)):
        raise RecordError(
            f"{path}: expected the claims of the notebook ({shown}), received {len(found) or '[]'}"
        )
    if digest and digest != sha256(path.read_bytes()).hexdigest():
        raise RecordError(f"{path}: expected what the run wrote, received another text")
    return found


def _known_of_claims(folder: Path) -> tuple[int | None, str | None]:
    """How many claims the notebook shows and the digest of their file, found without reading its
    figures; None for what it does not tell."""
    path = next(iter(sorted(folder.glob("*.ipynb"))), None)
    if path is None:
        return None, None
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    digests = re.findall(rf'"{DIGEST}": "([0-9a-f]{{64}})"'.encode(), text)
    return text.count(f'"{CLAIM_MIME}":'.encode()), digests[-1].decode() if digests else None


def _claims_of_notebook(folder: Path) -> int:
    """How many claims the executed notebook in the folder of a run recorded."""
    path = next(iter(sorted(folder.glob("*.ipynb"))), folder / "the executed notebook")
    notebook = load(path)
    try:
        return len(of_notebook(notebook)[0])
    except RecordError:  # such a run has no claims
        return 0
    except (LookupError, TypeError, AttributeError):
        raise RecordError(f"{path}: expected a notebook") from None


def of_book(html: Path) -> Ledger:
    """The ledger among the pages of a built book."""
    path = html / LEDGER
    content = ledger_content(path)
    chapters = []
    for found in content["chapters"]:
        named = found["chapter"]
        chapters.append(
            ChapterRecord(
                docname=named,
                title=_field(found, "title", str, named),
                source_hash=_field(found, "source_hash", str, named),
                execution=execution(_field(found, "execution", dict, named)),
                claims=tuple(map(entry, found["claims"])),
            )
        )
    return Ledger(_field(content, "library_hash", str, str(path)), tuple(chapters))


def ledger_content(path: Path) -> dict[str, Any]:
    """A ledger.json as plain data: chapters with their names, each with claims with theirs."""
    content = _expect(load(path), dict, str(path), "a ledger")
    for chapter in _field(content, "chapters", list, str(path)):
        name = _field(_expect(chapter, dict, str(path), "a chapter"), "chapter", str, str(path))
        for claim in _field(chapter, "claims", list, name):
            _field(_expect(claim, dict, name, "a claim"), "name", str, name)
    return content


def load(path: Path) -> Any:
    """The contents of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecordError(f"cannot read {path}: {reason}") from None


def entry(content: Any) -> Entry:
    """The claim, or the untested statement, that :meth:`cotbook.claims.Entry.to_json` wrote."""
    known = _expect(content, Mapping, "a claim", "a record")
    name = f"claim {known.get('name')!r}"
    kind = Untested if "reason" in known else Claim
    try:
        found = _build(kind, known, name)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(str(error)) from None
    if known.get("verdict") != found.verdict:
        raise RecordError(
            f"{name}: expected the verdict {found.verdict!r}, which follows from the record, "
            f"received {known.get('verdict')!r}"
        )
    return found


def execution(content: Any) -> Execution:
    """The record that :meth:`cotbook.claims.Execution.to_json` wrote."""
    known = _expect(content, Mapping, "an execution", "a record")
    return _build(Execution, known, f"execution of {known.get('chapter')!r}")


def _number(value: float | str) -> float:
    """A number, or the text that stands for one that JSON cannot write."""
    number = float(value)
    if isinstance(value, str) and math.isfinite(number):
        raise ValueError
    return number


# By the annotations of the records' fields
READERS: dict[str, tuple[type | tuple[type, ...], Callable[[Any], Any]]] = {
    "str": (str, str),
    "int": (int, int),
    "float": ((int, float, str), _number),
    "Relation": (str, str),
    "Kind": (str, str),
    "dict[str, str]": (Mapping, dict),
    "dict[str, Any]": (Mapping, dict),
}


def _build(kind: Callable[..., T], content: Mapping[str, Any], where: str) -> T:
    """A record from its fields; what else the content holds is passed over."""
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        expected, read = READERS[str(field.type)]
        value = _field(content, field.name, expected, where)
        try:
            values[field.name] = read(value)
        except (ValueError, OverflowError):
            raise RecordError(
                f"{where}: {field.name}: expected a number, received {brief(value)}"
            ) from None
    return kind(**values)


NAMES = {str: "a text", int: "a whole number", list: "a list", dict: "entries", Mapping: "entries"}


def _field(
    content: Mapping[str, Any], name: str, expected: type | tuple[type, ...], where: str
) -> Any:
    wanted = NAMES.get(expected, "a number") if isinstance(expected, type) else "a number"
    if name not in content:
        raise RecordError(f"{where}: {name}: expected {wanted}, received nothing")
    return _expect(content[name], expected, f"{where}: {name}", wanted)


def _expect(value: Any, expected: Any, where: str, wanted: str) -> Any:
    if not isinstance(value, expected) or isinstance(value, bool):
        raise RecordError(f"{where}: expected {wanted}, received {brief(value)}")
    return value
