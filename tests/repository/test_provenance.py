"""A claim marked [C] names the box whose statement it tests, or says that it is only measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[2] / "book"
BOX = re.compile(r"^:{3,}\{prf:\w+\} (.*?)(?:, \[[BMCR]\].*)?$", re.MULTILINE)
MARK = re.compile(r'"(\[[BMCR]\] [^"]*)"')
OWN = re.compile(r"\[C\] (.*?)(?:, in (?P<other>[a-z-]+))?$")


def plain(text: str) -> str:
    return re.sub(r"[$\\{}]", "", text).lower()


TITLES = {
    page.stem: [plain(title) for title in BOX.findall(page.read_text())]
    for page in sorted(BOOK.glob("*.md"))
}


def marks(name: str) -> Iterator[str]:
    for mark in sorted(set(MARK.findall((BOOK / f"{name}.md").read_text()))):
        yield from (part for part in re.split(r"; ", mark) if part.startswith("[C] "))


def names_a_statement(mark: str, chapter: str) -> bool:
    """Up to the first comma the mark is "measured" or part of a box's title.

    >>> names_a_statement("[C] energy estimate, measured", "well-posedness")
    True
    >>> names_a_statement("[C] energy estimate", "geometry")
    False
    """
    found = OWN.fullmatch(mark)
    if found is None:
        return False
    name = plain(found[1]).split(",")[0]
    return name == "measured" or any(
        name in title for title in TITLES.get(found["other"] or chapter, ())
    )


@pytest.mark.parametrize("chapter", [name for name, titles in TITLES.items() if titles])
def test_every_mark_of_our_own_names_a_box(chapter):
    assert [mark for mark in marks(chapter) if not names_a_statement(mark, chapter)] == []
