"""Sphinx extension: the book's ledger of claims and its record of execution.

Both are written at the end of a build from what the executed chapters recorded, so no number
and no verdict is ever typed by hand, and a result of another state of the library ends the build.

Directives
----------
``{ledger}`` : a table of claims for each chapter; with ``:summary:`` one sentence of counts.
``{execution-record}`` : when, where and with which versions each chapter ran.
``{teeth}`` : what planted errors did to the claims; one of the options ``:summary:``, ``:counts:``,
    ``:missed:``, ``:errors:``, ``:claims:`` and ``:idle:`` says what of it.

Role
----
``{claim}`words <chapter/name>` `` : a link to a claim's card; a claim nobody recorded is a warning.
"""

from __future__ import annotations

import shutil
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

from cotbook.errors import BadInput
from cotbook.keep import bibliography
from cotbook.provenance import execution_hash, pages_hash, surroundings
from cotbook.sphinx import cards, executed, execution, export, tables, teeth

logger = logging.getLogger(__name__)


class Pending(nodes.General, nodes.Element):
    """Holds the place of a table until every chapter has been executed."""


class Ledger(SphinxDirective):
    option_spec: ClassVar = {"summary": directives.flag}
    kind = "ledger"

    def run(self) -> list[nodes.Node]:
        kind = "summary" if "summary" in self.options else self.kind
        waiting(self.env).add(self.env.docname)
        return [Pending(kind=kind)]


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
            shown = tables.summary(chapters)
        elif pending["kind"] == "ledger":
            shown = tables.ledger(chapters, uri)
        else:
            shown = tables.execution_record(chapters, uri)
        pending.replace_self(shown)


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
            node.replace_self(nodes.Text(node.astext()))
            continue
        page, entry = known[node["target"]]
        uri = f"{app.builder.get_relative_uri(docname, page)}#{entry.anchor}"
        node.replace_self(tables.link(node.astext(), uri))


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
    app.add_node(PendingTeeth)
    app.add_directive("teeth", Teeth)
    app.add_node(PendingClaim)
    app.add_role("claim", ClaimRole())
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
    app.connect("build-finished", check_anchors)
    app.connect("build-finished", export.write)
    # Before sphinx_external_toc writes a front page where there is none.
    app.connect("build-finished", export.end, priority=100)
    cards.register()
    # Claims bring mathematics to pages whose own text may have none.
    app.set_html_assets_policy("always")
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
