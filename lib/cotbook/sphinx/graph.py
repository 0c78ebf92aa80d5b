"""Sphinx extension: which statement rests on which, read from the references inside proofs.

Directive ``{statement-graph}``: a picture of all statements by chapter with these references, and
the same as a table. Below every box a line says what it rests on, what uses it, and which claims
measure it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from sphinx_proof.nodes import NODE_TYPES

from cotbook import render
from cotbook.claims import Entry
from cotbook.sphinx import executed, statements, tables
from cotbook.sphinx.statements import Statement

BOXES = tuple(NODE_TYPES.values())
SETTINGS = ("definition", "assumption", "axiom", "notation")
PROOFS = ("proof", "sketch")
LEFT, COLUMN, ROW, TOP, HALF = 110, 54, 58, 34, 23
SHORT = {
    "theorem": "Thm", "proposition": "Prop", "lemma": "Lem", "corollary": "Cor",
    "definition": "Def", "assumption": "Asm", "example": "Ex", "remark": "Rem",
}  # fmt: skip


class Place(NamedTuple):
    """What a page says of one of its statements: whether its proof is there, what that names."""

    proved: bool
    names: tuple[str, ...]


class Graph(nodes.General, nodes.Element):
    """Holds the place of the picture until every page is read."""


class StatementGraph(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [Graph()]


def places(env: BuildEnvironment) -> dict[str, dict[str, Place]]:
    if not hasattr(env, "cotflow_places"):
        env.cotflow_places = {}
    return env.cotflow_places


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Of every box the references to settings in it, and all references in its proof."""
    found: dict[str, Place] = {}
    label = ""
    for node in doctree.findall(lambda node: isinstance(node, (*BOXES, nodes.container))):
        if isinstance(node, BOXES):
            label = node["label"]
            found[label] = Place(False, tuple(_named(node)))
        elif label and node.get("design_component") == "dropdown":
            title = node.next_node(nodes.rubric)
            if title is not None and title.astext().lower().startswith(PROOFS):
                proved = found[label].proved or title.astext().lower().startswith("proof")
                found[label] = Place(
                    proved, (*found[label].names, *(f"!{n}" for n in _named(node)))
                )
    places(app.env)[app.env.docname] = found


def _named(node: nodes.Node) -> Iterator[str]:
    for reference in node.findall(addnodes.pending_xref):
        if reference.get("refdomain") == "prf":
            yield reference["reftarget"]


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    places(env).pop(docname, None)


def pages(app: Sphinx, env: BuildEnvironment) -> Iterable[str]:
    """Lines below the boxes of all pages speak of other pages."""
    return [name for name, found in places(env).items() if found]


def known(env: BuildEnvironment) -> dict[str, Statement]:
    """Every statement by its label, in the order of the book."""
    return {
        box.label: box
        for page in executed.toc_order(env)
        for box in statements.statements(env).get(page, ())
    }


def edges(env: BuildEnvironment) -> dict[str, list[str]]:
    """What each statement rests on: what its proof names, and the settings that its box names."""
    boxes = known(env)
    found = {}
    for page in places(env).values():
        for label, place in page.items():
            names = []
            for name in place.names:
                plain = name.removeprefix("!")
                if plain not in boxes or plain == label:
                    continue
                if name.startswith("!") or boxes[plain].kind in SETTINGS:
                    names.append(plain)
            found[label] = list(dict.fromkeys(names))
    return found


def circle(rests: dict[str, list[str]]) -> list[str]:
    """Statements that rest on one another in a circle; nothing where there is none."""
    done: set[str] = set()

    def walk(label: str, path: list[str]) -> list[str]:
        if label in path:
            return path[path.index(label) :]
        if label in done:
            return []
        for below in rests.get(label, ()):
            if found := walk(below, [*path, label]):
                return found
        done.add(label)
        return []

    return next((found for label in rests if (found := walk(label, []))), [])


def claims(env: BuildEnvironment) -> dict[str, list[tuple[str, Entry]]]:
    """The claims that name each statement as their source, each with its page."""
    found: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    for chapter in executed.read(env):
        for entry in chapter.claims:
            if box := statements.of_claim(env, chapter.docname, entry.provenance):
                found[box.label].append((chapter.docname, entry))
    return found


def check(app: Sphinx, env: BuildEnvironment) -> None:
    if found := circle(edges(env)):
        raise executed.LedgerError(
            f"statements rest on one another in a circle: {', '.join(found)}"
        )


@dataclass(frozen=True)
class View:
    """The statements as one page shows them.

    Attributes
    ----------
    boxes : every statement by its label, in the order of the book.
    rests, uses : by label, what a statement rests on, and what rests on it.
    measured : by label, the claims about it, each with its page.
    """

    app: Sphinx
    docname: str
    boxes: dict[str, Statement]
    rests: dict[str, list[str]]
    uses: dict[str, list[str]]
    measured: dict[str, list[tuple[str, Entry]]]

    @classmethod
    def of(cls, app: Sphinx, docname: str) -> View:
        rests, uses = edges(app.env), defaultdict(list)
        for label, below in rests.items():
            for name in below:
                uses[name].append(label)
        return cls(app, docname, known(app.env), rests, uses, claims(app.env))

    def standing(self, box: Statement) -> str:
        """How the book answers for a statement."""
        if box.kind in SETTINGS:
            return "setting"
        place = places(self.app.env).get(box.docname, {}).get(box.label)
        if place and place.proved:
            return "proved here"
        if box.source.startswith(("[B]", "[M]", "[R]")):
            return "proved elsewhere"
        return "measured" if self.measured.get(box.label) else "remark"

    def links(self, labels: Iterable[str]) -> list[nodes.Node]:
        return tables.listed(self.link(self.boxes[label]) for label in labels)

    def link(self, box: Statement) -> nodes.reference:
        text = nodes.Text(f"{box.kind.title()} {box.number(self.app.env)}".strip())
        link = make_refnode(self.app.builder, self.docname, box.docname, box.label, text)
        link["reftitle"] = box.plain
        return link

    def uri(self, page: str, anchor: str) -> str:
        return f"{self.app.builder.get_relative_uri(self.docname, page)}#{anchor}"


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    graphs = list(doctree.findall(Graph))
    boxes = [node for node in doctree.findall(lambda node: isinstance(node, BOXES))]
    if not graphs and not boxes:
        return
    view = View.of(app, docname)
    for box in boxes:
        if line := _line(view, box["label"]):
            box += line
    for graph in graphs:
        graph.replace_self([nodes.raw(text=_picture(view), format="html"), _table(view)])


def _line(view: View, label: str) -> nodes.paragraph | None:
    """Rests on …; used by …; measured by …"""
    claims = (
        tables.link(entry.name, view.uri(page, entry.anchor))
        for page, entry in view.measured.get(label, ())
    )
    parts = {
        "Rests on": view.links(view.rests.get(label, ())),
        "Used by": view.links(view.uses.get(label, ())),
        "Measured by": tables.listed(claims),
    }
    said = [[nodes.Text(f"{words} "), *found] for words, found in parts.items() if found]
    if not said:
        return None
    return nodes.paragraph("", "", *tables.listed(said, " · "), classes=["cotflow-neighbours"])


def _table(view: View) -> nodes.table:
    rows = [
        [
            [view.link(box), nodes.Text(" "), *(node.deepcopy() for node in box.name)],
            view.standing(box),
            view.links(view.rests.get(label, ())) or "–",
            view.links(view.uses.get(label, ())) or "–",
            str(len(view.measured.get(label, ())) or "–"),
        ]
        for label, box in view.boxes.items()
    ]
    head = ("statement", "standing", "rests on", "used by", "claims")
    return tables.table(rows, head, ["cotflow-statements"])


def _picture(view: View) -> str:
    """A row for each chapter, a node for each statement, a curve for each reference in a proof."""
    chapters = list(dict.fromkeys(box.docname for box in view.boxes.values()))
    order: dict[str, int] = defaultdict(int)
    at: dict[str, tuple[float, float]] = {}
    for label, box in view.boxes.items():
        column = order[box.docname]
        order[box.docname] += 1
        at[label] = LEFT + COLUMN * (column + 0.5), TOP + ROW * chapters.index(box.docname)
    width, height = LEFT + COLUMN * max(order.values()), TOP + ROW * len(chapters)
    drawn = [
        f'<text x="{LEFT - 14}" y="{TOP + ROW * i + 4}" text-anchor="end">'
        f"{render.written(page.rpartition('/')[2].replace('-', ' '))}</text>"
        for i, page in enumerate(chapters)
    ]
    drawn += [
        _curve(label, name, at[label], at[name])
        for label, below in view.rests.items()
        for name in below
    ]
    drawn += [_node(view, label, *at[label]) for label in view.boxes]
    keys = "".join(
        f'<span class="cotflow-key"><svg viewBox="0 0 24 14" aria-hidden="true">'
        f'<g class="cotflow-node cotflow-{state}{hollow}">'
        f'<rect x="1" y="1" width="22" height="12" rx="3"/></g></svg> {words}</span> '
        for state, hollow, words in (
            ("proved-here", "", "proved here and measured"),
            ("proved-here", " cotflow-hollow", "proved here, not measured"),
            ("proved-elsewhere", "", "proved elsewhere, measured here"),
            ("proved-elsewhere", " cotflow-hollow", "proved elsewhere, not measured"),
            ("setting", " cotflow-hollow", "definition or assumption"),
            ("remark", " cotflow-hollow", "remark or example"),
        )
    )
    return (
        '<figure class="cotflow-graph"><div tabindex="0" role="group" '
        'aria-label="picture, scrolls sideways">'
        f'<svg viewBox="0 0 {width} {height}" style="min-width:{width}px" role="group" '
        'aria-label="Statements and the references inside their proofs; the table below has the '
        f'same">{"".join(drawn)}</svg></div>'
        "<figcaption>Every statement of the book, a row for each chapter; a curve leads from a "
        "statement up or down to what its proof refers to. Pointing at a statement shows all that "
        f"it rests on, and all that rests on it. {keys}</figcaption></figure>"
    )


def _node(view: View, label: str, x: float, y: float) -> str:
    box, count = view.boxes[label], len(view.measured.get(label, ()))
    state, number = view.standing(box), box.number(view.app.env)
    how = tables.count(count, "claim", "claims") if count else "not measured"
    said = f"{box.kind.title()} {number}, {box.plain}: {state}, {how}"
    classes = f"cotflow-node cotflow-{state.replace(' ', '-')}{'' if count else ' cotflow-hollow'}"
    name = f"{SHORT.get(box.kind, box.kind.title())} {number}".strip()
    return (
        f'<a href="{escape(view.uri(box.docname, label))}" data-label="{escape(label)}" '
        f'tabindex="-1" aria-label="{escape(said)}" class="{classes}">'
        f"<title>{render.written(said)}</title>"
        f'<rect x="{x - HALF:.0f}" y="{y - 10:.0f}" width="{2 * HALF}" height="20" rx="4"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{escape(name)}</text></a>'
    )


def _curve(label: str, name: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (a, b) = start, end
    if y == b:
        lift = 12 + 0.06 * abs(a - x)
        path = (
            f"M{x:.0f} {y - 10:.0f}Q{(x + a) / 2:.0f} {y - 10 - 2 * lift:.0f} {a:.0f} {b - 10:.0f}"
        )
    else:
        sign = 1 if b > y else -1
        middle = (y + b) / 2
        path = (
            f"M{x:.0f} {y + 10 * sign:.0f}C{x:.0f} {middle:.0f} {a:.0f} {middle:.0f} "
            f"{a:.0f} {b - 10 * sign:.0f}"
        )
    return f'<path d="{path}" data-from="{escape(label)}" data-to="{escape(name)}"/>'


def add_script(app: Sphinx, pagename: str, template: str, context: dict, doctree: object) -> None:
    if pagename.endswith("/statement-graph"):
        app.add_js_file("graph.js", loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.setup_extension("cotbook.sphinx.statements")
    app.add_node(Graph)
    app.add_directive("statement-graph", StatementGraph)
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-updated", pages)
    app.connect("env-check-consistency", check)
    app.connect("doctree-resolved", fill)
    app.connect("html-page-context", add_script)
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
