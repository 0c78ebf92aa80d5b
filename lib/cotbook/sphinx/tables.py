"""The ledger and the execution record as docutils nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from docutils import nodes

from cotbook import render
from cotbook.claims import KINDS, PLURALS, Claim, Entry, counts
from cotbook.records import ChapterRecord

Content: TypeAlias = str | nodes.Node | Iterable[nodes.Node]


def statement(text: str) -> list[nodes.Node]:
    """Text in which $…$ is mathematics."""
    return inline(render.pieces(text))


def inline(pieces: Iterable[render.Piece]) -> list[nodes.Node]:
    """Text, with powers of ten raised and formulas as mathematics."""
    return [node for piece in pieces for node in _nodes(piece)]


def _nodes(piece: render.Piece) -> list[nodes.Node]:
    if isinstance(piece, render.Formula):
        return [nodes.math(piece.tex, piece.tex)]
    if isinstance(piece, str):
        return [nodes.Text(render.unset(piece))]
    mantissa = render.signed(piece.mantissa)
    if piece.exponent is None:
        return [nodes.Text(mantissa)]
    power = render.signed(str(piece.exponent))
    return [nodes.Text(f"{mantissa}·10"), nodes.superscript("", power)]


def link(text: Content, uri: str) -> nodes.reference:
    return nodes.reference("", "", *as_nodes(text), refuri=uri, internal=True)


def as_nodes(content: Content) -> list[nodes.Node]:
    if isinstance(content, str):
        return [nodes.Text(render.unset(content))]
    return [content] if isinstance(content, nodes.Node) else list(content)


def listed(items: Iterable[Content], between: str = ", ") -> list[nodes.Node]:
    found: list[nodes.Node] = []
    for item in items:
        found += [*([nodes.Text(between)] if found else ()), *as_nodes(item)]
    return found


def table(
    rows: Sequence[Sequence[Content]], head: Sequence[str] = (), classes: Sequence[str] = ()
) -> nodes.table:
    """A table; without a head its first column names the rows."""

    def row(cells: Sequence[Content]) -> nodes.row:
        entries = (nodes.entry("", nodes.paragraph("", "", *as_nodes(cell))) for cell in cells)
        return nodes.row("", *entries)

    columns = len(head or rows[0])
    group = nodes.tgroup(cols=columns)
    group += [nodes.colspec(colwidth=1) for _ in range(columns)]
    if head:
        group += nodes.thead("", row(head))
    else:
        group[0]["stub"] = 1
    group += nodes.tbody("", *map(row, rows))
    return nodes.table("", group, classes=list(classes))


def measured(claim: Claim) -> list[nodes.Node]:
    found = inline(render.measured(claim))
    if render.spread(claim):
        interval = nodes.inline("", render.unset(claim.interval), classes=["cotflow-interval"])
        found += [nodes.Text(" "), interval]
    return found


def verdict(entry: Entry) -> nodes.inline:
    classes = ["cotflow-mark", f"cotflow-{entry.verdict.replace(' ', '-')}"]
    return nodes.inline("", render.mark(entry.verdict), classes=classes)


def chosen(claims: Iterable[tuple[str, Entry]], uri: Callable[[str], str]) -> list[nodes.Node]:
    """A few claims, each with what was predicted and what was measured."""
    rows: list[list[Content]] = []
    for page, entry in claims:
        source = nodes.inline("", render.unset(entry.provenance), classes=["cotflow-source"])
        said = [*statement(entry.statement), nodes.Text(" "), source]
        numbers: list[Content] = ["–", "–"]
        if isinstance(entry, Claim):
            numbers = [inline(render.predicted(entry)), measured(entry)]
        rows.append([link(verdict(entry), f"{uri(page)}#{entry.anchor}"), said, *numbers])
    return [table(rows, ("verdict", "claim", "predicted", "measured"), ["cotflow-ledger"])]


def kinds(chapters: Iterable[ChapterRecord]) -> list[nodes.Node]:
    """What the kinds of claims are, and how many there are of each."""
    found = Counter(
        entry.kind for chapter in chapters for entry in chapter.claims if isinstance(entry, Claim)
    )
    rows = [[kind, said, str(found[kind])] for kind, said in KINDS.items()]
    return [table(rows, ("kind", "what it says", "claims"), ["cotflow-record"])]


def count(amount: int, one: str, many: str) -> str:
    return f"{amount} {one if amount == 1 else many}"


def summary(chapters: Sequence[ChapterRecord], ledger: str = "") -> list[nodes.Node]:
    """The ledger in one sentence of counts; what was not tested leads to its rows there."""
    found = counts(entry for chapter in chapters for entry in chapter.claims)
    untested = found.pop("not tested here", 0)
    verdicts = ", ".join(count(amount, word, PLURALS[word]) for word, amount in found.items())
    sentence = (
        f"{count(sum(found.values()), 'claim', 'claims')} measured in "
        f"{count(len(chapters), 'chapter', 'chapters')}{': ' * bool(found)}{verdicts}"
    )
    shown = nodes.paragraph("", sentence, classes=["cotflow-summary"])
    if untested:
        said = f"{count(untested, 'statement', 'statements')} named as not tested here"
        shown += nodes.Text("; ")
        rows = f"{ledger}?verdict=not+tested+here"
        shown += link(said, rows) if ledger else nodes.Text(said)
    shown += nodes.Text(".")
    return [shown]


def execution_record(
    chapters: Sequence[ChapterRecord], uri: Callable[[str], str]
) -> list[nodes.Node]:
    """When, where, how long and with which sources every chapter ran; then the versions."""
    tables: list[nodes.Node] = []
    for chapter in chapters:
        record = chapter.execution
        parameters = ", ".join(f"{key} = {value}" for key, value in record.parameters.items())
        rows = [
            ("started (UTC)", record.started.replace("T", " ").removesuffix("+00:00")),
            ("execution of its cells", f"{record.seconds:g} s"),
            ("machine", record.machine),
            ("device", record.device),
            ("threads", str(record.threads)),
            ("parameters", nodes.literal("", parameters) if parameters else "none"),
            ("hash of the source", nodes.literal("", chapter.source_hash)),
            ("hash of the library", nodes.literal("", record.library_hash)),
        ]
        tables.append(nodes.rubric("", "", link(chapter.title, uri(chapter.docname))))
        tables.append(table(rows, classes=["cotflow-record"]))
    if chapters:
        # All chapters share these: the hash of the library covers the versions.
        versions = chapters[0].execution.versions.items()
        tables.append(nodes.rubric("", "Versions"))
        tables.append(table(list(versions), ("package", "version"), ["cotflow-record"]))
    return tables
