"""The book's tree: where it is, and its chapters as notebooks without outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cotbook import parameters
from cotbook.errors import BadInput
from cotbook.run.text import code_cells, front_matter, prose, read

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(frozen=True)
class Source:
    """One chapter's text: ``book/<name>.md`` with a jupytext header and a parameters cell."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def paired(self) -> Path:
        """The committed notebook that belongs to this text."""
        return self.path.parent / "notebooks" / f"{self.name}.ipynb"

    @property
    def title(self) -> str:
        found = re.search(r"^# +(.+)$", prose(self.text), re.MULTILINE)
        return found[1].strip() if found else self.name

    @cached_property
    def parameters(self) -> tuple[parameters.Parameter, ...]:
        try:
            return parameters.read_cell(_parameters_cell(self.text) or "")
        except (ValueError, parameters.ParameterError) as error:
            raise BadInput(f"{self.path}: {error}") from None

    @property
    def cells(self) -> list[NotebookNode]:
        return self._parsed.cells

    @cached_property
    def _parsed(self) -> NotebookNode:
        import jupytext
        from jupytext.myst import MystMetadataParsingError

        try:
            return jupytext.reads(self.text, "md:myst")
        except (ValueError, yaml.YAMLError, MystMetadataParsingError) as error:
            raise BadInput(f"{self.path}: {error}") from None

    def notebook(self) -> NotebookNode:
        """The text as a notebook without outputs; the same text gives the same bytes."""
        import nbformat

        stem = re.sub(r"[^\w-]", "-", self.name, flags=re.ASCII)[:56]
        cells = []
        for index, cell in enumerate(self.cells):
            fields = {"source": cell.source, "metadata": cell.metadata, "id": f"{stem}-{index}"}
            make = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")
            cells.append(make(**fields))
        header = self._parsed.metadata.get("jupytext", {})
        metadata = {
            "jupytext": {"formats": header.get("formats", "")},
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
        text = read(path, "utf-8-sig")
        if not re.search(r"^jupytext:", front_matter(text), re.MULTILINE):
            continue
        try:
            if _parameters_cell(text) is not None:
                found[path.stem] = Source(path, text)
        except ValueError as error:
            raise BadInput(f"{path}: {error}") from None
    return found


def _parameters_cell(text: str) -> str | None:
    """The code of the first cell tagged ``parameters``, if there is one."""
    named = (cell for cell in code_cells(text) if "parameters" in cell.options)
    return next((cell.source for cell in named if "parameters" in cell.tags), None)


def chapter(root: Path, name: str, known: dict[str, Source] | None = None) -> Source:
    known = known or chapters(root)
    if name not in known:
        raise BadInput(f"unknown chapter {name!r}; {parameters.nearest(name, known)}")
    return known[name]
