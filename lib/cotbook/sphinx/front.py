"""Sphinx extension: what the front page says of the chapters.

Directive ``{chapter-map}``: a line "name: level; needed chapters; question" for each chapter makes
a row of a table, with the minutes that its text takes to read. A chapter without a line, or a line
without a chapter, is a warning.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from cotbook.sphinx import executed, tables

logger = logging.getLogger(__name__)
LINE = re.compile(r"(?P<name>[a-z-]+): (?P<level>[1-3]); (?P<needs>[a-z, -]*); (?P<question>.+)")
LEVELS = {"1": "●○○", "2": "●●○", "3": "●●●"}
# Words a minute of a mathematical text; a displayed formula counts as so many words.
WORDS, FORMULA = 160, 12


class Map(nodes.General, nodes.Element):
    """Holds the place of the table until every chapter is read."""


class ChapterMap(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        return [Map(lines=list(self.content))]


def count(app: Sphinx, doctree: nodes.document) -> None:
    """Minutes for the open text of a page: without proofs, which are closed, and without code."""
    words = 0
    for node in doctree.findall(nodes.paragraph):
        above: nodes.Node | None = node
        while above is not None and not (
            isinstance(above, nodes.Element) and above.get("design_component") == "dropdown"
        ):
            above = above.parent
        if above is None:
            words += len(node.astext().split())
    words += FORMULA * sum(1 for _ in doctree.findall(nodes.math_block))
    if not hasattr(app.env, "cotflow_minutes"):
        app.env.cotflow_minutes = {}
    app.env.cotflow_minutes[app.env.docname] = max(1, round(words / WORDS))


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for place in list(doctree.findall(Map)):
        folder = docname.rpartition("/")[0]
        chapters = (chapter.docname for chapter in executed.read(app.env))
        known = [page for page in chapters if page.rpartition("/")[0] == folder]
        said = {}
        for line in filter(None, place["lines"]):
            found = LINE.fullmatch(line)
            page = f"{folder}/{found['name']}" if found else ""
            if found is None or page not in known:
                logger.warning("expected a chapter's line, received %r", line, location=docname)
            else:
                said[page] = found
        for page in known:
            if page not in said:
                logger.warning("the map of chapters lacks %s", page, location=docname)
        rows = [_row(app, docname, folder, page, said[page]) for page in known if page in said]
        head = ("chapter", "its question", "level", "reading", "stands on")
        place.replace_self(tables.table(rows, head, ["cotflow-map"]))


def _row(
    app: Sphinx, docname: str, folder: str, page: str, found: re.Match[str]
) -> list[tables.Content]:
    def link(name: str) -> nodes.Node:
        title = app.env.titles[name].astext()
        return make_refnode(app.builder, docname, name, "", nodes.Text(title))

    named = filter(None, (part.strip() for part in found["needs"].split(",")))
    needs = tables.listed(link(f"{folder}/{name}") for name in named)
    level = nodes.inline("", LEVELS[found["level"]])
    minutes = f"{app.env.cotflow_minutes.get(page, 1)} min"
    return [link(page), tables.statement(found["question"]), level, minutes, needs or "–"]


def setup(app: Sphinx) -> dict:
    app.add_node(Map)
    app.add_directive("chapter-map", ChapterMap)
    app.connect("doctree-read", count)
    app.connect("doctree-resolved", fill)
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
