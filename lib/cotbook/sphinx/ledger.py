"""Sphinx extension: the book's ledger of claims and its record of execution.

Both are written at the end of a build from what the executed chapters recorded, so no number
and no verdict is ever typed by hand, and a result of another state of the library ends the build.

Directives
----------
``{ledger}`` : all claims in one picture and one table, which a reader filters and sorts; with
    ``:summary:`` one sentence of counts, with ``:kinds:`` what the kinds of claims are, and how
    many there are of each, with ``:only:`` the claims named there, as chapter/name, in one table.
``{execution-record}`` : when, where and with which versions each chapter ran.
``{published-sizes}`` : the committed runs at the published sizes beside this build's, claim by
    claim; with ``:summary:`` one sentence of counts.
``{teeth}`` : what planted errors did to the claims; one of the options ``:summary:``, ``:counts:``,
    ``:missed:``, ``:errors:``, ``:claims:`` and ``:idle:`` says what of it.

Roles
-----
``{claim}`words <chapter/name>` `` : a link to a claim's card; a claim nobody recorded is a warning.
``{measured}`chapter/name` `` : what this build has measured of it, as a link to its card.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.util import logging
from sphinx.util.docutils import ReferenceRole, SphinxDirective

from cotbook import render
from cotbook.claims import Claim, Entry
from cotbook.errors import BadInput
from cotbook.keep import bibliography, published
from cotbook.provenance import execution_hash, pages_hash, surroundings
from cotbook.records import ChapterRecord
from cotbook.sphinx import (
    cards,
    executed,
    execution,
    export,
    overview,
    sizes,
    statements,
    tables,
    teeth,
)

logger = logging.getLogger(__name__)


class Pending(nodes.General, nodes.Element):
    """Holds the place of a table until every chapter has been executed."""


class Ledger(SphinxDirective):
    option_spec: ClassVar = {
        "summary": directives.flag, "kinds": directives.flag, "only": directives.unchanged,
    }  # fmt: skip
    kind = "ledger"

    def run(self) -> list[nodes.Node]:
        kind = next(iter(self.options), self.kind)
        waiting(self.env).add(self.env.docname)
        return [Pending(kind=kind, only=self.options.get("only", "").split())]


class PublishedSizes(Ledger):
    option_spec: ClassVar = {"summary": directives.flag}
    kind = "published"

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(Path(self.env.srcdir) / published.RECORD))
        waiting(self.env).add(self.env.docname)
        return [Pending(kind=f"{self.kind}-summary" if "summary" in self.options else self.kind)]


class PendingClaim(nodes.Inline, nodes.TextElement):
    """Holds the place of a link until the claim it leads to is known."""


class ClaimRole(ReferenceRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        waiting(self.env).add(self.env.docname)
        node = PendingClaim(self.rawtext, self.title, target=self.target)
        self.set_source_info(node)
        return [node], []


class ExecutionRecord(Ledger):
    option_spec: ClassVar = {}
    kind = "execution-record"


class Teeth(SphinxDirective):
    option_spec: ClassVar = dict.fromkeys(teeth.SHOWN, directives.flag)

    def run(self) -> list[nodes.Node]:
        if len(self.options) != 1:
            raise self.error(f"expected one option among {', '.join(teeth.SHOWN)}")
        waiting(self.env).add(self.env.docname)
        return [PendingTeeth(kind=next(iter(self.options)))]


class PendingTeeth(nodes.General, nodes.Element):
    """Holds the place of what is on record of planted errors, likewise."""


class MeasuredRole(ReferenceRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        waiting(self.env).add(self.env.docname)
        node = PendingClaim(self.rawtext, "", target=self.target, measured=True)
        self.set_source_info(node)
        return [node], []


def waiting(env: BuildEnvironment) -> set[str]:
    """The pages that hold a table of this extension."""
    if not hasattr(env, "cotflow_pages"):
        env.cotflow_pages = set()
    return env.cotflow_pages


def key_cache(app: Sphinx, config: Config) -> None:
    """Give each state of the sources its own cache: jupyter-cache looks at the cells alone."""
    config.cotbook_hash = " ".join([pages_hash(), *surroundings()])
    caches = Path(app.outdir).parent / ".jupyter_cache"
    current = caches / execution_hash()
    for stale in set(caches.glob("*")) - {current}:
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    config.nb_execution_cache_path = str(current)


def refuse_speaking(app: Sphinx) -> None:
    """No entry of the bibliography speaks to the browser of those who read the pages."""
    if found := bibliography.speaking(Path(app.srcdir)):
        raise SphinxError("\n".join(found))


def lost_notebooks(app: Sphinx, env: BuildEnvironment, *changes: set[str]) -> list[str]:
    """Pages to read again because somebody removed their executed notebook."""
    known = getattr(env, "nb_metadata", {})
    return [
        name
        for name in known
        if known[name].get("exec_data")
        and name in env.found_docs
        and not executed.notebook_path(env, name).exists()
    ]


def refresh(app: Sphinx, env: BuildEnvironment) -> set[str]:
    """Check all records, and have every page with a table written again."""
    for docname in executed.toc_order(env):
        if executed.notebook_path(env, docname).exists():
            executed.restore_outputs(env, docname)
    executed.read(env)
    return waiting(env)


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    waiting(env).discard(docname)


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the tables where the directives stand."""
    for pending in list(doctree.findall(Pending)):
        chapters = executed.read(app.env)
        uri = partial(app.builder.get_relative_uri, docname)
        if pending["kind"] == "summary":
            home = ledger_page(app.env)
            shown = tables.summary(chapters, uri(home) if home else "")
        elif pending["kind"] == "kinds":
            shown = tables.kinds(chapters)
        elif pending["kind"] == "only":
            shown = tables.chosen(_chosen(chapters, pending["only"], docname), uri)
        elif pending["kind"] == "ledger":
            shown = [nodes.raw(text=overview.html(rows(app, chapters, uri)), format="html")]
        elif pending["kind"] == "execution-record":
            shown = tables.execution_record(chapters, uri)
        else:
            runs = published.read(Path(app.srcdir))
            known = [(chapter, runs.get(Path(chapter.docname).name)) for chapter in chapters]
            make = sizes.summary if pending["kind"] == "published-summary" else sizes.tables_of
            shown = make(known, uri)
        pending.replace_self(shown)


def _chosen(
    chapters: list[ChapterRecord], names: list[str], docname: str
) -> list[tuple[str, Entry]]:
    """Claims by their names, each with its page; one that nobody recorded is a warning."""
    known = {
        f"{entry.chapter}/{entry.name}": (chapter.docname, entry)
        for chapter in chapters
        for entry in chapter.claims
    }
    for name in names:
        if name not in known:
            logger.warning("no claim %r was recorded", name, location=docname)
    return [known[name] for name in names if name in known]


def rows(
    app: Sphinx, chapters: list[ChapterRecord], uri: Callable[[str], str]
) -> list[overview.Row]:
    """Every claim with its card, and with the box whose name it gives as its source."""

    def box(docname: str, entry: Entry) -> str:
        found = statements.of_claim(app.env, docname, entry.provenance)
        return f"{uri(found.docname)}#{found.label}" if found else ""

    return [
        overview.Row(entry, chapter.title, f"{page}#{entry.anchor}", box(chapter.docname, entry))
        for chapter in chapters
        for page in [uri(chapter.docname)]
        for entry in chapter.claims
    ]


def ledger_page(env: BuildEnvironment) -> str | None:
    return next((name for name in sorted(waiting(env)) if name.endswith("/ledger")), None)


def link_cards(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """From each card to its row in the ledger, and to the box that it names as its source."""
    shown = [node for node in doctree.findall(nodes.raw) if 'id="claim-' in node.astext()]
    home = ledger_page(app.env)
    if not shown or home is None:
        return
    known = {
        entry.anchor: entry
        for chapter in executed.read(app.env)
        if chapter.docname == docname
        for entry in chapter.claims
    }
    ledger = app.builder.get_relative_uri(docname, home)
    for node in shown:
        text = node.astext()
        for anchor in re.findall(r'id="(claim-[^"]+)"', text):
            entry = known[anchor]
            mark = render.mark(entry.verdict)
            before, found, after = text.partition(f'id="{anchor}"')
            row = f'<a href="{ledger}#{overview.row_id(entry)}" title="in the ledger">{mark}</a>'
            after = after.replace(mark, row, 1)
            box = statements.of_claim(app.env, docname, entry.provenance)
            source = f"<span>{render.written(entry.provenance)}</span>"
            if box:
                there = (
                    ""
                    if box.docname == docname
                    else app.builder.get_relative_uri(docname, box.docname)
                )
                link = f'<span><a href="{there}#{box.label}">{source[6:-7]}</a></span>'
                after = after.replace(source, link, 1)
            text = before + found + after
        node.rawsource, node[:] = text, [nodes.Text(text)]


def add_script(app: Sphinx, pagename: str, template: str, context: dict, doctree: object) -> None:
    if pagename.endswith("/ledger"):
        app.add_js_file("ledger.js", loading_method="defer")


def fill_teeth(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    pending = list(doctree.findall(PendingTeeth))
    if not pending:
        return
    uri = partial(app.builder.get_relative_uri, docname)
    try:
        campaign = teeth.read(Path(app.srcdir), executed.read(app.env), uri)
    except BadInput as error:
        raise SphinxError(str(error)) from None
    for each in pending:
        if campaign:
            each.replace_self(teeth.SHOWN[each["kind"]](campaign))
        else:
            each.replace_self(nodes.paragraph("", teeth.NOTHING))


def link_claims(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    pending = list(doctree.findall(PendingClaim))
    if not pending:
        return
    known = {
        f"{entry.chapter}/{entry.name}": (chapter.docname, entry)
        for chapter in executed.read(app.env)
        for entry in chapter.claims
    }
    for node in pending:
        if node["target"] not in known:
            logger.warning("no claim %r was recorded", node["target"], location=node)
            node.replace_self(nodes.Text(node.astext() or node["target"]))
            continue
        page, entry = known[node["target"]]
        uri = f"{app.builder.get_relative_uri(docname, page)}#{entry.anchor}"
        shown: tables.Content = node.astext()
        if node.get("measured"):
            number = [render.number(entry.measured)] if isinstance(entry, Claim) else ["not tested"]
            shown = tables.inline(number)
        node.replace_self(tables.link(shown, uri))


def check_anchors(app: Sphinx, exception: Exception | None) -> None:
    """Every claim of the ledger has its card on the chapter's page."""
    if exception or app.builder.name != "html":
        return
    for chapter in executed.read(app.env):
        page = Path(app.builder.get_outfilename(chapter.docname)).read_text(encoding="utf-8")
        for entry in chapter.claims:
            if f'id="{entry.anchor}"' not in page:
                raise executed.LedgerError(
                    f"{chapter.docname}: the ledger links to the claim {entry.name!r}, "
                    "whose card is not on the page; is its output hidden or removed by a tag?"
                )


def setup(app: Sphinx) -> dict:
    app.add_config_value("cotbook_hash", "", "env", str)
    app.add_node(Pending)
    app.add_directive("ledger", Ledger)
    app.add_directive("execution-record", ExecutionRecord)
    app.add_directive("published-sizes", PublishedSizes)
    app.add_node(PendingTeeth)
    app.add_directive("teeth", Teeth)
    app.add_node(PendingClaim)
    app.add_role("claim", ClaimRole())
    app.add_role("measured", MeasuredRole())
    app.connect("config-inited", key_cache)
    app.connect("builder-inited", refuse_speaking)
    app.connect("builder-inited", export.begin)
    app.connect("env-get-outdated", lost_notebooks)
    app.connect("env-purge-doc", forget)
    app.connect("env-before-read-docs", execution.execute_all)
    app.connect("doctree-read", execution.note_sources)
    app.connect("env-updated", refresh)
    app.connect("doctree-resolved", fill)
    app.connect("doctree-resolved", fill_teeth)
    app.connect("doctree-resolved", link_claims)
    app.connect("doctree-resolved", link_cards)
    app.connect("html-page-context", add_script)
    app.connect("build-finished", check_anchors)
    app.connect("build-finished", export.write)
    # Before sphinx_external_toc writes a front page where there is none.
    app.connect("build-finished", export.end, priority=100)
    cards.register()
    # Claims bring mathematics to pages whose own text may have none.
    app.set_html_assets_policy("always")
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
