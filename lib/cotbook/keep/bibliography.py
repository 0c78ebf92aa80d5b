"""The bibliography: every citation is defined, every entry is cited and leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from pybtex.database import BibliographyDataError, parse_file
from pybtex.exceptions import PybtexError

from cotbook.errors import BadInput

CITATION = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
LEADS = ("doi", "url", "eprint")
ADDRESS = re.compile(r"https?://[^\s<>\"]+$")
# What a browser would execute
SPEAKING = re.compile(r"(?i)(java|vb)script\s*:|data:\w+/|<[a-z!/]")


def complaints(root: Path) -> list[str]:
    """One sentence for each thing that is wrong, in the order of pages, then of entries."""
    path = root / "book/references.bib"
    try:
        entries = parse_file(str(path), bib_format="bibtex").entries
    except BibliographyDataError as error:
        return [f"{path.name}: {error}"]
    except (PybtexError, OSError) as error:
        raise BadInput(f"{path}: {error}") from None
    cited, found = set(), []
    for page in sorted((root / "book").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        keys = [key.strip() for group in CITATION.findall(text) for key in group.split(",")]
        missing = sorted({key for key in keys if key not in entries})
        found += [f"{page.name}: no entry for the citation {key!r}" for key in missing]
        cited |= set(keys)
    for key, entry in entries.items():
        if key not in cited:
            found.append(f"{path.name}: no page cites {key!r}")
        for field, value in entry.fields.items():
            if SPEAKING.search(value) or (field == "url" and not ADDRESS.match(value)):
                found.append(
                    f"{path.name}: {key!r}: {field}: expected text, or an address that begins "
                    f"with https:// or http://, received {value!r}"
                )
        if not any(entry.fields.get(field) for field in LEADS):
            found.append(f"{path.name}: {key!r} has none of {', '.join(LEADS)}")
    return found
