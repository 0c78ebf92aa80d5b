"""A chapter's text as the command line reads it: front matter, code cells, prose.

To name a chapter, its title and its parameters takes no notebook, and jupytext is slow to load.
Where a notebook is made, jupytext reads the same text; tests hold the two readers together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from cotbook.errors import BadInput
from cotbook.parameters import OnceLoader, load_yaml

_FRONT = re.compile(r"---+[ \t]*\n(.*?)^(?:---+|\.\.\.)[ \t]*$", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(?P<marks>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)$")


@dataclass(frozen=True)
class CodeCell:
    """A fence ``{code-cell}``: its options as they are written, in YAML, and its code."""

    options: str
    source: str

    @property
    def tags(self) -> list[str]:
        """Raises ValueError where the options are no mapping in YAML."""
        try:
            options = load_yaml(self.options, OnceLoader) or {}
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from None
        if not isinstance(options, dict):
            raise ValueError(f"expected options like ':tags: [hide-input]', received {options!r}")
        return list(options.get("tags") or ())


def read(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file of the book.

    Raises
    ------
    BadInput : it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}") from None


def front_matter(text: str) -> str:
    """The YAML between the lines ``---`` at the very beginning, or nothing."""
    found = _FRONT.match(text)
    return found[1] if found else ""


def prose(text: str) -> str:
    """The lines outside the front matter and the code cells."""
    return "\n".join(part for part in _parts(text) if isinstance(part, str))


def code_cells(text: str) -> Iterator[CodeCell]:
    return (part for part in _parts(text) if isinstance(part, CodeCell))


def _parts(text: str) -> Iterator[str | CodeCell]:
    """Lines of prose and code cells, in their order.

    A fence ends with a line of at least as many of its marks, so a longer one shows a shorter.
    """
    found = _FRONT.match(text)
    lines = iter(text[found.end() if found else 0 :].splitlines())
    for line in lines:
        fence = _FENCE.match(line)
        if not fence:
            yield line
            continue
        end = re.compile(rf" {{0,3}}{fence['marks'][0]}{{{len(fence['marks'])},}}[ \t]*$")
        inside = []
        for within in lines:
            if end.match(within):
                break
            inside.append(within)
        if line.lstrip("`~").startswith("{code-cell}"):
            yield _code_cell(inside)
        else:
            yield from (line, *inside)


def _code_cell(lines: list[str]) -> CodeCell:
    """Options come first: lines ``:key: value``, or a block between two lines ``---``."""
    if lines and lines[0].startswith("---"):
        count = next((i for i, line in enumerate(lines[1:]) if line.startswith("---")), len(lines))
        options, body = lines[1 : count + 1], lines[count + 2 :]
    else:
        stops = (i for i, line in enumerate(lines) if not line.lstrip().startswith(":"))
        count = next(stops, len(lines))
        options, body = [line.lstrip()[1:] for line in lines[:count]], lines[count:]
    if body and not body[0].strip():
        body = body[1:]
    return CodeCell("\n".join(options), "\n".join(body))
