"""A new chapter from ``book/_template``: its text, its profiles and its place in the contents."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cotbook.errors import BadInput
from cotbook.run.runs import workshop_beside
from cotbook.run.text import read
from cotbook.run.tree import chapters

PROFILES = ("default", "smoke", "paper")


def new(root: Path, name: str, title: str, after: str | None = None) -> list[Path]:
    """Write the files of a chapter that passes every check, and return them.

    Parameters
    ----------
    name : lower-case words with hyphens; the text becomes ``book/<name>.md``.
    after : the chapter that it follows in the contents, by default the last one.

    Raises
    ------
    BadInput : the name is taken or malformed, or there is no such chapter; nothing was written.
    """
    text = root / "book" / f"{name}.md"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BadInput(f"expected a name like 'deep-limit', received {name!r}")
    if text.exists():
        raise BadInput(f"{text} is there already")
    contents = read(root / "_toc.yml")
    listed = re.findall(r"^ *- file: book/([\w-]+)$", contents, re.MULTILINE)
    placed = [entry for entry in listed if entry in chapters(root)]
    after = after or (placed[-1] if placed else "")
    if after not in placed:
        raise BadInput(f"expected a chapter of the contents to follow, received {after!r}")

    def filled(template: str) -> str:
        content = read(root / "book/_template" / template)
        return content.replace("NAME", name).replace("TITLE", title)

    # The text comes last: as long as it is missing, the same command completes the rest.
    written = {}
    for profile in PROFILES:
        path = root / "book/profiles" / f"{profile}.yml"
        there = read(path)
        if not re.search(rf"^{name}:", there, re.MULTILINE):
            written[path] = _insert(there, after, filled(f"{profile}.yml"))
    if name not in listed:
        line = re.compile(rf"^( *- file: book/){after}\n", re.MULTILINE)
        written[root / "_toc.yml"] = line.sub(rf"\g<0>\g<1>{name}\n", contents, count=1)
    written[text] = filled("chapter.md")
    _write_all(root / "book", written)
    return list(written)


def _insert(profile: str, after: str, block: str) -> str:
    """A profile's text with a block put behind the one of another chapter, or at the end."""
    found = re.search(rf"^{after}:.*\n(?:(?:[ \t].*)?\n)*", profile, re.MULTILINE)
    cut = found.end() if found else len(profile)
    parts = (profile[:cut], block, profile[cut:])
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def _write_all(folder: Path, texts: dict[Path, str]) -> None:
    """All files or none; they are made in a workshop in ``folder`` and then put in their places."""
    before = {path: path.read_bytes() if path.exists() else None for path in texts}
    with workshop_beside(folder / "new") as workshop:
        for index, text in enumerate(texts.values()):
            (workshop / str(index)).write_text(text, encoding="utf-8")
        try:
            for index, path in enumerate(texts):
                os.replace(workshop / str(index), path)
        except BaseException:
            for path, content in before.items():
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(content)
            raise
