"""Chapters are executed side by side, before any page is read.

MyST-NB executes a page when it reads it, one after the other. Here every chapter without a valid
cached execution is executed first, on all cores, and left in the cache where MyST-NB finds it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.config import NbParserConfig
from myst_nb.core.read import create_nb_reader
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.util import logging

from cotbook.provenance import chapter_hash, imported, surroundings
from cotbook.run import kernel
from cotbook.sphinx.heartbeat import heartbeat

logger = logging.getLogger(__name__)


class ExecutionFailed(SphinxError):
    """A chapter stopped before its end."""

    category = "Execution failed"


@dataclass
class Page:
    """A page with code cells."""

    docname: str
    path: Path
    notebook: nbformat.NotebookNode

    @property
    def code(self) -> list[str]:
        return [cell.source for cell in self.notebook.cells if cell.cell_type == "code"]

    @cached_property
    def key(self) -> str:
        """Of the sources and the environment as they are before the page is executed."""
        return " ".join([chapter_hash(self.code), *surroundings()])

    def is_cached(self, cache: JupyterCacheAbstract) -> bool:
        """Whether the cache holds a whole execution of these cells with today's sources."""
        try:
            record = cache.match_cache_notebook(self.notebook)
            cache.get_cache_bundle(record.pk)
        except (KeyError, ValueError):  # none, or one whose writing was interrupted
            return False
        return record.data.get("key") == self.key


def page(env: BuildEnvironment, docname: str) -> Page | None:
    """The page, if it is a notebook; it is read as MyST-NB will read it."""
    path = Path(env.doc2path(docname))
    text = path.read_text(encoding="utf-8-sig")
    reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
    found = Page(docname, path, reader.read(text)) if reader else None
    return found if found and found.code else None


def execute_all(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Execute what is about to be read and has no valid cached execution."""
    config: NbParserConfig = env.mystnb_config
    if config.execution_mode != "cache":
        return
    cache = get_cache(config.execution_cache_path)
    pages = [found for found in map(partial(page, env), docnames) if found]
    waiting = [found for found in pages if not found.is_cached(cache)]
    failed = []
    with closing(side_by_side(last_first(env, waiting), config)) as ended:
        for done, result in ended:
            if isinstance(result, ExecutionResult) and result.err is None:
                data = {"execution_seconds": result.time, "key": done.key}
                bundle = CacheBundleIn(result.nb, str(done.path), data=data)
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                logger.info(f"Executed {done.docname} in {result.time:.0f} s")
            else:
                failed.append(done.docname)
                complain(done, result, config)
    if failed and config.execution_raise_on_error:
        raise ExecutionFailed(", ".join(sorted(failed)))


def note_sources(app: Sphinx, doctree: nodes.document) -> None:
    """Have the page read again when a module changes that its own cells import."""
    found = page(app.env, app.env.docname)
    for path in imported(found.code) if found else ():
        app.env.note_dependency(str(path))


def complain(page: Page, result: ExecutionResult | Exception, config: NbParserConfig) -> None:
    """The warning that MyST-NB would give."""
    error = result if isinstance(result, Exception) else result.err
    shown = f"Executing notebook failed: {type(error).__name__}"
    if config.execution_show_tb:
        trace = str(error) if isinstance(result, Exception) else result.exc_string
        shown += f"\n{trace}"
    logger.warning(f"{shown} [mystnb.exec]", location=page.docname, type="mystnb", subtype="exec")


def last_first(env: BuildEnvironment, pages: Iterable[Page]) -> list[Page]:
    """The book's last chapter first: later chapters compute more, and the longest ones, begun
    last, would keep one core at work and the others waiting."""
    toc = {name: place for place, name in enumerate(env.external_site_map)}
    return sorted(pages, key=lambda page: toc.get(page.docname, -1), reverse=True)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Kernel(kernel.Kernel):
    """A kernel that can be ended from another thread than the one that waits for it."""

    begun: ClassVar[list[Kernel]] = []

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.begun.append(self)

    @classmethod
    def end_all(cls) -> None:
        for begun in cls.begun:
            process = getattr(begun.provisioner, "process", None)
            if process is not None and process.poll() is None:
                process.kill()


def side_by_side(
    pages: list[Page], config: NbParserConfig
) -> Iterator[tuple[Page, ExecutionResult | Exception]]:
    """Each page with what came of its execution, in the order in which they end.

    All kernels end with the generator, by Ctrl-C for instance.
    """
    if not pages:
        return
    workers = min(cores(), len(pages))
    logger.info(f"Executing notebooks: {len(pages)}, {workers} at a time")
    working: dict[str, float] = {}

    def execute(page: Page) -> ExecutionResult:
        working[page.docname] = time.monotonic()
        try:
            return single_nb_execution(
                page.notebook,
                cwd=str(page.path.parent),
                timeout=config.execution_timeout,
                allow_errors=config.execution_allow_errors,
                kernel_manager_class=Kernel,
            )
        finally:
            del working[page.docname]

    with heartbeat(working), ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(execute, page): page for page in pages}
        try:
            for future in as_completed(futures):
                yield futures[future], future.exception() or future.result()
        finally:
            stop(pool, futures)


def stop(pool: ThreadPoolExecutor, futures: Iterable[Future]) -> None:
    """Start nothing more, and end what runs, a kernel that is only now starting included."""
    pool.shutdown(wait=False, cancel_futures=True)
    while not all(future.done() for future in futures):
        Kernel.end_all()
        time.sleep(0.1)
