"""The book's tree: where it is, and its chapters as notebooks without outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from cotbook import parameters


class BadInput(ValueError):
    """A request that cannot be met, refused before anything is written."""


@dataclass(frozen=True)
class Source:
    """One chapter's text: ``book/<name>.md`` with a jupytext header and a parameters cell."""

    path: Path
    cells: list[NotebookNode]
    header: dict

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def paired(self) -> Path:
        """The committed notebook that belongs to this text."""
        return self.path.parent / "notebooks" / f"{self.name}.ipynb"

    @property
    def title(self) -> str:
        text = "\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")
        found = re.search(r"^# +(.+)$", text, re.MULTILINE)
        return found[1].strip() if found else self.name

    @cached_property
    def parameters(self) -> tuple[parameters.Parameter, ...]:
        cell = next(cell for cell in self.cells if "parameters" in tags(cell))
        try:
            return parameters.read_cell(cell.source)
        except parameters.ParameterError as error:
            raise BadInput(f"{self.path}: {error}") from None

    def notebook(self) -> NotebookNode:
        """The text as a notebook without outputs; the same text gives the same bytes."""
        stem = re.sub(r"[^\w-]", "-", self.name, flags=re.ASCII)[:56]
        cells = []
        for index, cell in enumerate(self.cells):
            fields = {"source": cell.source, "metadata": cell.metadata, "id": f"{stem}-{index}"}
            make = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")
            cells.append(make(**fields))
        metadata = {
            "jupytext": {"formats": self.header.get("formats", "")},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def book_root(start: Path | None = None) -> Path:
    """Nearest folder at or above ``start`` (by default the current one) that holds ``_toc.yml``."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "_toc.yml").is_file():
            return folder
    raise BadInput(f"no book here: neither {start} nor a folder above it holds _toc.yml")


def chapters(root: Path) -> dict[str, Source]:
    """The executable chapters of a book by name, in alphabetical order."""
    found = {}
    for path in sorted((root / "book").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if not re.match(r"---\n(?:.*\n)*?jupytext:", text):
            continue
        try:
            notebook = jupytext.reads(text, "md:myst")
        except ValueError as error:
            raise BadInput(f"{path}: {error}") from None
        if any("parameters" in tags(cell) for cell in notebook.cells):
            found[path.stem] = Source(path, notebook.cells, notebook.metadata.get("jupytext", {}))
    return found


def chapter(root: Path, name: str, known: dict[str, Source] | None = None) -> Source:
    known = known or chapters(root)
    if name not in known:
        raise BadInput(f"unknown chapter {name!r}; {parameters.nearest(name, known)}")
    return known[name]
