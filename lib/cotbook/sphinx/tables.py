"""The ledger and the execution record as docutils nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from docutils import nodes

from cotbook.chapter import MARKS, SIGNS, number
from cotbook.sphinx.executed import Executed

PLURALS = {"holds": "hold", "inconclusive": "inconclusive", "fails": "fail"}

Content = str | nodes.Node | Iterable[nodes.Node]


def statement(text: str) -> list[nodes.Node]:
    """Text in which $…$ is mathematics."""
    return [
        nodes.math(piece, piece) if i % 2 else nodes.Text(piece)
        for i, piece in enumerate(text.split("$"))
        if piece
    ]


def figure(value: float) -> list[nodes.Node]:
    """A number as on the claim's card, with its power of ten raised."""
    text, *power = re.split(r"\^", number(value))
    raised = [nodes.superscript("", power[0].replace("-", "−"))] if power else []
    return [nodes.Text(text.replace("-", "−")), *raised]


def link(text: Content, uri: str) -> nodes.reference:
    return nodes.reference("", "", *as_nodes(text), refuri=uri, internal=True)


def as_nodes(content: Content) -> list[nodes.Node]:
    if isinstance(content, str):
        return [nodes.Text(content)]
    return [content] if isinstance(content, nodes.Node) else list(content)


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


def measured(record: dict) -> list[nodes.Node]:
    shown = figure(record["measured"])
    if record["low"] != record["high"]:
        ends = (nodes.Text(" ["), *figure(record["low"]), nodes.Text(", "))
        shown += [*ends, *figure(record["high"]), nodes.Text("] ")]
        shown.append(nodes.inline("", record["interval"], classes=["cotflow-interval"]))
    return shown


def verdict(record: dict) -> nodes.inline:
    word = record["verdict"]
    return nodes.inline(
        "", f"{MARKS[word]} {word}", classes=["cotflow-mark", f"cotflow-{word.replace(' ', '-')}"]
    )


def claim_row(record: dict, uri: str) -> list[Content]:
    source = nodes.inline("", record["provenance"], classes=["cotflow-source"])
    said = [*statement(record["statement"]), nodes.Text(" "), source]
    mark = link(verdict(record), uri)
    if record["verdict"] == "not tested here":
        return [mark, said, "–", "–", "–"]
    predicted = [nodes.Text(f"{SIGNS[record['relation']]} "), *figure(record["predicted"])]
    return [mark, said, predicted, measured(record), figure(record["tolerance"])]


def anchor(record: dict) -> str:
    return f"claim-{record['chapter']}-{record['name']}"


def ledger(
    chapters: Iterable[Executed], title: Callable[[str], str], uri: Callable[[str], str]
) -> list[nodes.Node]:
    """One table of claims for each chapter; every verdict leads to the cell that found it."""
    head = ("verdict", "claim and its source", "predicted", "measured", "tolerance")
    shown: list[nodes.Node] = []
    for chapter in chapters:
        page = uri(chapter.docname)
        rows = [claim_row(record, f"{page}#{anchor(record)}") for record in chapter.claims]
        if rows:
            shown.append(nodes.rubric("", "", link(title(chapter.docname), page)))
            shown.append(table(rows, head, ["cotflow-ledger"]))
    return shown


def count(amount: int, one: str, many: str) -> str:
    return f"{amount} {one if amount == 1 else many}"


def summary(chapters: Sequence[Executed]) -> list[nodes.Node]:
    """The ledger in one sentence of counts."""
    verdicts = [record["verdict"] for chapter in chapters for record in chapter.claims]
    untested = verdicts.count("not tested here")
    found = ", ".join(
        count(verdicts.count(word), word, plural)
        for word, plural in PLURALS.items()
        if word in verdicts
    )
    sentence = (
        f"{count(len(verdicts) - untested, 'claim', 'claims')} measured in "
        f"{count(len(chapters), 'chapter', 'chapters')}{': ' * bool(found)}{found}"
    )
    if untested:
        sentence += f"; {count(untested, 'statement', 'statements')} named as not tested here"
    return [nodes.paragraph("", f"{sentence}.", classes=["cotflow-summary"])]


def execution_record(
    chapters: Sequence[Executed],
    title: Callable[[str], str],
    uri: Callable[[str], str],
    source: Callable[[str], str],
) -> list[nodes.Node]:
    """When, where, how long and with which sources every chapter ran; then the versions."""
    shown: list[nodes.Node] = []
    for chapter in chapters:
        record = chapter.execution
        parameters = ", ".join(f"{key} = {value}" for key, value in record["parameters"].items())
        rows = [
            ("started (UTC)", record["started"].replace("T", " ").removesuffix("+00:00")),
            ("execution of its cells", f"{record['seconds']:g} s"),
            ("machine", record["machine"]),
            ("device", record["device"]),
            ("threads", str(record["threads"])),
            ("parameters", nodes.literal("", parameters) if parameters else "none"),
            ("hash of the source", nodes.literal("", source(chapter.docname))),
            ("hash of the library", nodes.literal("", record["library_hash"])),
        ]
        shown.append(nodes.rubric("", "", link(title(chapter.docname), uri(chapter.docname))))
        shown.append(table(rows, classes=["cotflow-record"]))
    if chapters:
        # All chapters share these: the hash of the library covers the versions.
        versions = chapters[0].execution["versions"].items()
        shown.append(nodes.rubric("", "Versions"))
        shown.append(table(list(versions), ("package", "version"), ["cotflow-record"]))
    return shown
