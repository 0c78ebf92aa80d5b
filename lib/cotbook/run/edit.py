"""A small change of a source, so that a chapter can be executed with a planted error."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from cotbook.errors import BadInput
from cotbook.provenance import LIBRARY
from cotbook.run.tree import Source


@dataclass(frozen=True)
class Edit:
    """At ``place``, ``old`` becomes ``new``.

    Attributes
    ----------
    place : a file below the book's folder, "lib/cotflow/…" or "book/CHAPTER.md".
    line, column : where ``old`` begins, counted from 1 and from 0; without them it stands there
        exactly once.
    """

    place: str
    old: str
    new: str
    line: int | None = None
    column: int | None = None

    def applied(self, text: str) -> str:
        """The text with the error.

        Raises
        ------
        BadInput : ``old`` is not where it should be.
        """
        if self.line is None or self.column is None:
            count = text.count(self.old)
            if count != 1:
                raise BadInput(f"{self.place}: expected {self.old!r} once, found it {count} times")
            return text.replace(self.old, self.new)
        lines = text.splitlines(keepends=True)
        start = sum(map(len, lines[: self.line - 1])) + self.column
        if not text.startswith(self.old, start):
            at = f"line {self.line}, column {self.column}"
            raise BadInput(f"{self.place}: expected {self.old!r} at {at}")
        return text[:start] + self.new + text[start + len(self.old) :]

    @property
    def chapter(self) -> str | None:
        """The chapter whose text it changes, if it is not the library's."""
        path = Path(self.place)
        return path.stem if path.parts[0] == "book" else None


def planted(edit: Edit, source: Source, folder: Path) -> tuple[Source, Path]:
    """The chapter and the library, one of them with the error; a changed library is a copy in
    ``folder``."""
    if edit.chapter:
        changed = edit.applied(source.text) if edit.chapter == source.name else source.text
        return replace(source, text=changed), LIBRARY
    copy = folder.resolve() / "lib"
    for package in ("cotflow", "cotbook"):
        shutil.copytree(LIBRARY / package, copy / package)
    path = copy.parent / edit.place
    path.write_text(edit.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
    return source, copy
