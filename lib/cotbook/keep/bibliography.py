"""The bibliography: every citation is defined, every entry is cited and leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pybtex.database import BibliographyDataError, Entry, parse_file
from pybtex.exceptions import PybtexError
from pybtex.richtext import Text

from cotbook.errors import BadInput
from cotbook.run.text import read

CITATION = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
LEADS = ("doi", "url", "eprint")
ADDRESS = re.compile(r"https?://[^\s<>\"]+$")
# What a browser would execute
SPEAKING = re.compile(r"(?i)(java|vb)script\s*:|data:\w+/|<[a-z!/]")


def complaints(root: Path) -> list[str]:
    """One sentence for each thing that is wrong, in the order of pages, then of entries."""
    path = root / "book/references.bib"
    try:
        entries = _entries(path)
    except BibliographyDataError as error:
        return [f"{path.name}: {error}"]
    except (PybtexError, OSError) as error:
        raise BadInput(f"{path}: {error}") from None
    cited, found = set(), []
    for page in sorted((root / "book").rglob("*.md")):
        text = read(page)
        keys = [key.strip() for group in CITATION.findall(text) for key in group.split(",")]
        missing = sorted({key for key in keys if key not in entries})
        found += [f"{page.name}: no entry for the citation {key!r}" for key in missing]
        cited |= set(keys)
    for key, entry in entries.items():
        if key not in cited:
            found.append(f"{path.name}: no page cites {key!r}")
        found += _speaking(path, key, entry)
        if not any(entry.fields.get(field) for field in LEADS):
            found.append(f"{path.name}: {key!r} has none of {', '.join(LEADS)}")
    return found


def speaking(root: Path) -> list[str]:
    """A sentence for each field of an entry that would speak to the browser; files that are no
    bibliography are left to those who read them."""
    path = root / "book/references.bib"
    try:
        entries = _entries(path)
    except (PybtexError, OSError):
        return []
    return [sentence for key, entry in entries.items() for sentence in _speaking(path, key, entry)]


def short_names(root: Path) -> dict[str, str]:
    """Authors and year of each key: "Ada, 2024", "Ada and Bob, 2024", "Ada et al., 2024"."""
    try:
        entries = _entries(root / "book/references.bib")
    except (PybtexError, OSError):
        return {}
    found = {}
    for key, entry in entries.items():
        names = [" ".join(person.last_names) for person in entry.persons.get("author", ())]
        named = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        said = Text.from_latex(named).render_as("text")
        found[key] = ", ".join(filter(None, (said, entry.fields.get("year", ""))))
    return found


def _entries(path: Path) -> Mapping[str, Entry]:
    return parse_file(str(path), bib_format="bibtex", encoding="utf-8").entries


def _speaking(path: Path, key: str, entry: Entry) -> Iterator[str]:
    for field, value in entry.fields.items():
        if SPEAKING.search(value) or (field == "url" and not ADDRESS.match(value)):
            yield (
                f"{path.name}: {key!r}: {field}: expected text, or an address that begins "
                f"with https:// or http://, received {value!r}"
            )
