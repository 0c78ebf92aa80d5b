"""What the chapters recorded about themselves, read from the notebooks that this build executed."""

from __future__ import annotations

import functools
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError

from cotbook.claims import Entry, Execution
from cotbook.provenance import execution_hash, file_hash
from cotbook.records import ChapterRecord, RecordError, of_notebook


class LedgerError(SphinxError):
    """The build has no valid record of what a page is about to show."""

    category = "Ledger error"


def notebook_path(env: BuildEnvironment, docname: str) -> Path:
    """Where MyST-NB leaves the notebook of a page."""
    return Path(env.mystnb_config.output_folder) / f"{docname}.ipynb"


def toc_order(env: BuildEnvironment, docname: str | None = None) -> list[str]:
    """Every page of the book, as the table of contents lists them."""
    docname = docname or env.config.root_doc
    children = env.toctree_includes.get(docname, ())
    return [docname, *(below for child in children for below in toc_order(env, child))]


def restore_outputs(env: BuildEnvironment, docname: str) -> None:
    """Put the cached outputs back into a page's notebook.

    When the outputs of a page come from the cache, MyST-NB shows them on the page but writes
    the notebook beside it without them.
    """
    path = notebook_path(env, docname)
    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") for cell in notebook.cells):
        return
    cache = get_cache(env.mystnb_config.execution_cache_path)
    try:
        _, notebook = cache.merge_match_into_notebook(notebook)
    except KeyError:
        return
    nbformat.write(notebook, path)


def has_parameters(notebook: nbformat.NotebookNode) -> bool:
    return any("parameters" in cell.metadata.get("tags", ()) for cell in notebook.cells)


@functools.lru_cache(maxsize=64)
def _recorded(path: Path, changed: int) -> tuple[tuple[Entry, ...], tuple[Execution, ...], bool]:
    """Claims, executions, and whether there are parameters, of a notebook as it was last changed:
    every page of a build asks for them."""
    notebook = nbformat.read(path, as_version=4)
    return *of_notebook(notebook), has_parameters(notebook)


def read(env: BuildEnvironment) -> list[ChapterRecord]:
    """The record of every executed chapter, in the order of the table of contents.

    Raises LedgerError where a record is missing, comes from another state of the library, or
    carries a verdict that a chapter is not allowed to end with.
    """
    current = execution_hash()
    chapters = []
    for docname in toc_order(env):
        path = notebook_path(env, docname)
        if not path.exists():
            continue
        try:
            claims, executions, parameters = _recorded(path, path.stat().st_mtime_ns)
        except RecordError as error:
            raise LedgerError(f"{docname}: {error}") from None
        if not (claims or executions or parameters):
            continue
        if len(executions) != 1:
            raise LedgerError(
                f"{docname}: expected one execution record, found {len(executions)}; "
                "a chapter ends with one cell that calls its `close()`"
            )
        chapter = ChapterRecord(
            docname=docname,
            title=env.titles[docname].astext(),
            source_hash=file_hash(Path(env.doc2path(docname))),
            execution=executions[0],
            claims=claims,
        )
        check(chapter, current)
        chapters.append(chapter)
    return chapters


def check(chapter: ChapterRecord, current: str) -> None:
    """Refuse records of another library or another chapter, and claims that do not hold."""
    records: tuple[Entry | Execution, ...] = (*chapter.claims, chapter.execution)
    for record in records:
        named = record.name if isinstance(record, Entry) else "execution record"
        where = f"{chapter.docname}, {named}"
        if record.library_hash != current:
            raise LedgerError(
                f"{where}: the result comes from library {record.library_hash}, the library is "
                f"now {current}; build again from `make clean`"
            )
        if record.chapter != chapter.docname.rpartition("/")[2]:
            raise LedgerError(f"{where}: the record says it belongs to {record.chapter!r}")
        if isinstance(record, Entry) and record.missed:
            raise LedgerError(f"{where}: {record.verdict}, and comes after the chapter's close")
