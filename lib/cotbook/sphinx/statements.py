"""Sphinx extension: the index of all statements, and a search that finds them by name.

Directive ``{theorem-index}``: every box of the book by chapter, with its number, its name and
whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains import ObjType
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from sphinx_proof.domain import ProofDomain
from sphinx_proof.nodes import NODE_TYPES

from cotbook.sphinx import tables
from cotbook.sphinx.executed import toc_order

# "Name of the result, [M] Prop. 3": the mark begins at a comma before a bracket.
OWN = re.compile(r"\[(?P<whose>[BMCR])\] (?P<name>.*?)(?:, in (?P<other>[a-z-]+))?")
TITLE = re.compile(r"(?P<name>.*?),\s+(?P<source>\[[BMCR]\].*)", re.DOTALL)


@dataclass(frozen=True)
class Statement:
    """A box: what kind it is, its number's counter, its name with formulas, whose it is."""

    docname: str
    label: str
    kind: str
    counter: str
    name: tuple[nodes.Node, ...]
    source: str

    def number(self, env: BuildEnvironment) -> str:
        numbers = env.toc_fignumbers.get(self.docname, {}).get(self.counter, {})
        return ".".join(map(str, numbers.get(self.label, ())))

    @property
    def plain(self) -> str:
        return "".join(node.astext() for node in self.name)


def of_claim(env: BuildEnvironment, docname: str, provenance: str) -> Statement | None:
    """The box that a claim's source names: "[M] Prop. 3" one with that mark, "[C] energy estimate"
    one whose name has these words, on the claim's page or on the one that follows ", in "."""
    for mark in provenance.split("; "):
        found = OWN.fullmatch(mark)
        if found is None:
            continue
        if other := found["other"]:
            page = f"{docname.rpartition('/')[0]}/{other}".removeprefix("/")
            if page in statements(env):
                docname = page
        name = _words(found["name"].split(",")[0])
        for box in statements(env).get(docname, ()):
            own = found["whose"] == "C"
            if _words(box.plain).find(name) >= 0 if own else _words(box.source) == _words(mark):
                return box
    return None


def _words(text: str) -> str:
    return re.sub(r"[$\\{}]", "", text).lower()


class Index(nodes.General, nodes.Element):
    """Holds the place of the index until every box has its number."""


class TheoremIndex(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [Index()]


def statements(env: BuildEnvironment) -> dict[str, list[Statement]]:
    if not hasattr(env, "cotflow_statements"):
        env.cotflow_statements = {}
    return env.cotflow_statements


def split(title: nodes.title, before: str, after: str) -> tuple[tuple[nodes.Node, ...], str]:
    """The name, in which formulas stay formulas, and the mark of provenance behind it.

    ``before`` and ``after`` are what the format of titles puts around both.
    """
    children = [node.deepcopy() for node in title.children]
    if isinstance(children[0], nodes.Text):
        children[0] = nodes.Text(children[0].lstrip().removeprefix(before))
    if isinstance(children[-1], nodes.Text):
        children[-1] = nodes.Text(children[-1].rstrip().removesuffix(after))
    name: list[nodes.Node] = []
    for node in children:
        match = TITLE.fullmatch(node.astext()) if isinstance(node, nodes.Text) else None
        if match:
            return (*name, nodes.Text(match["name"])), match["source"]
        # Without its page, which the environment would otherwise keep whole.
        node.document = None
        name.append(node)
    return tuple(name), ""


def collect(app: Sphinx, doctree: nodes.document) -> None:
    found = []
    for box in doctree.findall(lambda node: isinstance(node, tuple(NODE_TYPES.values()))):
        before, after = app.config.proof_title_format.split("%t")
        name, source = split(box.next_node(nodes.title), before.strip(), after.strip())
        found.append(
            Statement(
                app.env.docname, box["label"], box["realtype"], box["countertype"], name, source
            )
        )
        # The extension gives one and the same id to the content of every box.
        for content in box.findall(nodes.section):
            if content["ids"] == ["proof-content"]:
                content["ids"] = [f"{box['label']}-content"]
    statements(app.env)[app.env.docname] = found


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    statements(env).pop(docname, None)


def pages(app: Sphinx, env: BuildEnvironment) -> Iterable[str]:
    """The index is written anew with every build."""
    return (name for name in env.found_docs if name.endswith("/theorems"))


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """One table a chapter, in the order of the book."""
    for index in list(doctree.findall(Index)):
        shown: list[nodes.Node] = []
        for chapter in toc_order(app.env):
            rows = []
            for box in statements(app.env).get(chapter, ()):
                numbered = nodes.Text(f"{box.kind.title()} {box.number(app.env)}".strip())
                link = make_refnode(app.builder, docname, chapter, box.label, numbered)
                source = nodes.inline("", box.source or "setting", classes=["cotflow-source"])
                rows.append((link, [node.deepcopy() for node in box.name], source))
            if rows:
                uri = app.builder.get_relative_uri(docname, chapter)
                title = app.env.titles[chapter].astext()
                shown.append(nodes.rubric("", "", tables.link(title, uri)))
                head = ("statement", "name", "whose it is")
                shown.append(tables.table(rows, head, ["cotflow-statements"]))
        index.replace_self(shown)


class SearchableProofs(ProofDomain):
    """The boxes as objects, which the search of the built book finds by the words of their name."""

    object_types: ClassVar = {kind: ObjType(kind.title(), "ref") for kind in NODE_TYPES}

    def get_type_name(self, type: ObjType, primary: bool = False) -> str:
        return type.lname

    def get_objects(self) -> Iterator[tuple[str, str, str, str, str, int]]:
        for found in statements(self.env).values():
            for box in found:
                # A dot would be read as the border between a module and a name.
                name = f"{box.plain}, {box.source}".strip(", ").replace(".", "․")
                yield name, name, box.kind, box.docname, box.label, 0


def setup(app: Sphinx) -> dict:
    app.setup_extension("sphinx_proof")
    app.add_node(Index)
    app.add_directive("theorem-index", TheoremIndex)
    app.add_domain(SearchableProofs, override=True)
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-updated", pages)
    app.connect("doctree-resolved", fill)
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
