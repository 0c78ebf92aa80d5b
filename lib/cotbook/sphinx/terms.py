"""Sphinx extension: the table of symbols, and definitions that appear on pointing at a word.

Directive ``{notation}``: the table of ``notation.yml`` beside the page.

On every other page the first occurrence of each term of the glossary, and of each symbol of the
table, leads to its definition and carries it along for ``cotflow.js``. No page is edited for it.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from cotbook.sphinx import tables

GLOSSARY, NOTATION = "book/glossary", "book/notation"
PLAIN = (GLOSSARY, NOTATION, "book/theorems", "book/bibliography", "book/execution-record")
# Where a definition would disturb: other links, code, titles, captions, boxes that open.
CLOSED = (nodes.reference, nodes.literal, nodes.title, nodes.caption, nodes.table, nodes.raw)


@dataclass(frozen=True)
class Definition:
    docname: str
    anchor: str
    text: str


class Defined(nodes.Inline, nodes.TextElement):
    """A word or a formula that shows its definition."""


def visit(translator, node: Defined) -> None:
    definition = html.escape(node["definition"])
    # A formula is drawn without text: what it means is its name.
    name = f' aria-label="{definition}"' if isinstance(node[0], nodes.math) else ""
    translator.body.append(
        f'<a class="cotflow-term" href="{html.escape(node["uri"])}" '
        f'data-definition="{definition}"{name}>'
    )


def depart(translator, node: Defined) -> None:
    translator.body.append("</a>")


# The table of symbols


def settings(env: BuildEnvironment) -> dict:
    path = Path(env.srcdir) / f"{NOTATION}.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def symbols(env: BuildEnvironment) -> list[dict]:
    return settings(env).get("symbols", [])


class Notation(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(Path(self.env.srcdir) / f"{NOTATION}.yml"))
        return [Symbols()]


class Symbols(nodes.General, nodes.Element):
    """Holds the place of the table until the titles of all pages are known."""


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for place in list(doctree.findall(Symbols)):
        rows = []
        for entry in symbols(app.env):
            page = f"book/{entry['where']}"
            title = app.env.titles.get(page)
            where = (
                tables.link(title.astext(), app.builder.get_relative_uri(docname, page))
                if title
                else nodes.Text("")
            )
            meaning = nodes.inline("", "", ids=[f"symbol-{entry['id']}"])
            meaning += tables.statement(entry["meaning"])
            rows.append(
                (
                    tables.statement(", ".join(f"${symbol}$" for symbol in entry["symbol"])),
                    [meaning],
                    tables.statement(entry["first"]),
                    tables.statement(entry["second"]),
                    where,
                )
            )
        head = ("symbol", "meaning", "in [B]", "in [M]", "introduced in")
        place.replace_self(tables.table(rows, head, ["cotflow-notation"]))


# The glossary


def terms(env: BuildEnvironment) -> dict[str, Definition]:
    if not hasattr(env, "cotflow_terms"):
        env.cotflow_terms = {}
    return env.cotflow_terms


def collect(app: Sphinx, doctree: nodes.document) -> None:
    if app.env.docname != GLOSSARY:
        return
    terms(app.env).clear()
    for item in doctree.findall(nodes.definition_list_item):
        text = " ".join(next(item.findall(nodes.definition)).astext().split())
        for term in item.findall(nodes.term):
            terms(app.env)[term.astext()] = Definition(GLOSSARY, term["ids"][0], text)


# Words and formulas on the pages


def visible(node: nodes.Node) -> bool:
    """Whether the node stands in open running text."""
    inside_paragraph = False
    parent = node.parent
    while parent is not None:
        if isinstance(parent, (*CLOSED, Defined)) or "dropdown" in " ".join(
            [type(parent).__name__, *parent.get("classes", ())]
        ):
            return False
        inside_paragraph = inside_paragraph or isinstance(parent, nodes.paragraph)
        parent = parent.parent
    return inside_paragraph


def pattern(term: str) -> re.Pattern:
    """The term with its plurals, as a word; a capital may begin it."""
    first, rest = term[0], re.escape(term[1:]).replace(r"\ ", r"[\s-]")
    return re.compile(rf"(?<![\w-])[{first.lower()}{first.upper()}]{rest}(?:s|es)?(?![\w-])")


def wrap(app: Sphinx, docname: str, definition: Definition, *content: nodes.Node) -> Defined:
    uri = f"{app.builder.get_relative_uri(docname, definition.docname)}#{definition.anchor}"
    return Defined("", "", *content, uri=uri, definition=definition.text)


def mark_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    # Long terms first: in "conditional transport" nothing else is looked for.
    page, senses = docname.rpartition("/")[2], settings(app.env).get("other-senses", {})
    for term in sorted(terms(app.env), key=len, reverse=True):
        elsewhere = senses.get(term, ())
        if elsewhere == "everywhere" or page in elsewhere:
            continue
        definition, wanted = terms(app.env)[term], pattern(term)
        for text in doctree.findall(nodes.Text):
            match = wanted.search(text.astext())
            if match is None or not visible(text):
                continue
            whole, (start, end) = text.astext(), match.span()
            pieces = [
                nodes.Text(whole[:start]),
                wrap(app, docname, definition, nodes.Text(whole[start:end])),
                nodes.Text(whole[end:]),
            ]
            text.parent.replace(text, [piece for piece in pieces if piece.astext()])
            break


def here(entry: dict, docname: str) -> bool:
    page = docname.rpartition("/")[2]
    return page in entry.get("only", [page]) and page not in entry.get("except", [])


def mark_symbols(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    wanted = {
        form: Definition(NOTATION, f"symbol-{entry['id']}", entry["hover"])
        for entry in symbols(app.env)
        if "hover" in entry and here(entry, docname)
        for form in (*entry["symbol"], *entry.get("forms", ()))
    }
    seen: set[str] = set()
    for formula in list(doctree.findall(nodes.math)):
        definition = wanted.get(formula.astext())
        if definition is None or definition.anchor in seen or not visible(formula):
            continue
        seen.add(definition.anchor)
        formula.replace_self(wrap(app, docname, definition, formula.deepcopy()))


def define(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if app.builder.name != "html" or docname in PLAIN or docname.startswith("book/api/"):
        return
    if GLOSSARY in app.env.found_docs:
        mark_terms(app, doctree, docname)
    if NOTATION in app.env.found_docs:
        mark_symbols(app, doctree, docname)


def setup(app: Sphinx) -> dict:
    app.add_node(Defined, html=(visit, depart))
    app.add_node(Symbols)
    app.add_directive("notation", Notation)
    app.connect("doctree-read", collect)
    app.connect("doctree-resolved", fill)
    # After all other links stand.
    app.connect("doctree-resolved", define, priority=900)
    app.add_js_file("cotflow.js", loading_method="defer")
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
