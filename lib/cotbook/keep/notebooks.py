"""The committed notebooks: written from the chapters' text, with the outputs that are checked."""

from __future__ import annotations

import os
from collections.abc import Iterable

import nbformat
from nbformat import NotebookNode

from cotbook import parameters
from cotbook.errors import DoesNotHold, Unfinished
from cotbook.run.runs import execute, workshop_beside
from cotbook.run.tree import Source, tags

CHECKED = "nbval-check-output"


def regenerate(source: Source) -> int:
    """Execute a chapter's text at its defaults into its paired notebook; count the checked cells.

    Of the outputs only the text of cells tagged ``nbval-check-output`` is kept.
    """
    parameters.validate(source.parameters, {})
    with workshop_beside(source.paired) as workshop:
        executed = execute(source, workshop, {})
        if executed.failure:
            kind = Unfinished if executed.failure.crash else DoesNotHold
            raise kind(executed.failure.sentence)
        notebook, checked = source.notebook(), 0
        code = [cell for cell in executed.notebook.cells if cell.cell_type == "code"]
        blank = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, (cell, done) in enumerate(zip(blank, code, strict=True), start=1):
            cell.execution_count = count
            if CHECKED in tags(cell):
                cell.outputs = _text(done.outputs, f"cell [{count}] of {source.name}", count)
                checked += bool(cell.outputs)
        nbformat.write(notebook, workshop / "notebook.ipynb")
        os.replace(workshop / "notebook.ipynb", source.paired)
    return checked


def _text(outputs: Iterable[NotebookNode], where: str, count: int) -> list[NotebookNode]:
    """Streams, one for each name, and plain texts; nbval compares these and passes over images."""
    kept: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        if output.output_type == "stream":
            if output.name in streams:
                streams[output.name].text += output.text
            else:
                streams[output.name] = nbformat.v4.new_output(
                    "stream", name=output.name, text=output.text
                )
                kept.append(streams[output.name])
            continue
        rich = set(output.data) - {"text/plain", "image/png", "image/jpeg"}
        if rich:
            raise DoesNotHold(
                f"{where} is tagged {CHECKED} and shows {', '.join(sorted(rich))}, "
                "where only printed text and plain results can be compared"
            )
        if "text/plain" in output.data:
            numbered = {"execution_count": count} if output.output_type == "execute_result" else {}
            plain = {"text/plain": output.data["text/plain"]}
            kept.append(nbformat.v4.new_output(output.output_type, data=plain, **numbered))
    return kept


def committed(source: Source) -> list[NotebookNode] | None:
    """The cells of the paired notebook; None where there is no valid one."""
    try:
        notebook = nbformat.read(source.paired, as_version=4)
        nbformat.validate(notebook)
    except Exception:  # the reader stumbles over a damaged file in every way
        return None
    cells: list[NotebookNode] = notebook.cells
    return cells


def differs(source: Source) -> bool:
    """Whether the paired notebook is missing, damaged, or has other cells than the text."""

    def essence(cells: list[NotebookNode]) -> list[tuple]:
        return [(cell.cell_type, cell.source, tags(cell)) for cell in cells]

    cells = committed(source)
    return cells is None or essence(cells) != essence(source.cells)


def complaints(source: Source) -> list[str]:
    """Why a paired notebook may not be committed as it is."""
    if differs(source):
        return [f"{source.name}: the notebook differs from the text"]
    found = []
    for index, cell in enumerate(committed(source) or [], start=1):
        outputs = cell.get("outputs", [])
        kinds = {kind for output in outputs for kind in output.get("data", {})} - {"text/plain"}
        if kinds or "attachments" in cell:
            kept = ", ".join(sorted(kinds)) or "an attachment"
            found.append(f"{source.name}: cell {index} of the notebook holds {kept}")
        elif outputs and CHECKED not in tags(cell):
            found.append(f"{source.name}: cell {index} of the notebook has outputs, unchecked")
    return found
