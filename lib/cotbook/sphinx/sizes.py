"""Runs at the published sizes beside those of the build, as docutils nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from docutils import nodes

from cotbook import render
from cotbook.claims import Claim, Entry, tally
from cotbook.keep.published import Published
from cotbook.records import ChapterRecord
from cotbook.sphinx import tables
from cotbook.sphinx.tables import Content

Known = Sequence[tuple[ChapterRecord, Published | None]]
ABSENT = "not run yet"


def summary(known: Known, uri: Callable[[str], str]) -> list[nodes.Node]:
    """How many chapters ran at the published sizes, and what became of their claims."""
    runs = [run for _, run in known if run]
    entries = [entry for run in runs for entry in run.claims]
    text = (
        f"At the published sizes {len(runs)} of {tables.count(len(known), 'chapter', 'chapters')} "
        f"ran: {tally(entries)}."
    )
    return [nodes.paragraph("", text, classes=["cotflow-summary"])]


def tables_of(known: Known, uri: Callable[[str], str]) -> list[nodes.Node]:
    """One table of chapters, then one of claims for each that ran."""
    rows: list[list[Content]] = []
    found: list[nodes.Node] = []
    for chapter, run in known:
        name = tables.link(chapter.title, uri(chapter.docname))
        here = f"{chapter.execution.seconds:.0f} s"
        if run is None:
            rows.append([name, here, ABSENT, "–", "–"])
            continue
        when = f"{run.day}, torch {run.torch}, {tables.count(run.threads, 'thread', 'threads')}"
        rows.append([name, here, _duration(run.seconds), tally(run.claims), when])
        found += _claims(chapter, run, uri)
    head = ("chapter", "this build", "published sizes", "its claims there", "when and with what")
    return [tables.table(rows, head, ["cotflow-record"]), *found]


def _claims(chapter: ChapterRecord, run: Published, uri: Callable[[str], str]) -> list[nodes.Node]:
    now = {entry.name: entry for entry in chapter.claims}
    there = {entry.name: entry for entry in run.claims}
    rows = []
    for name in dict.fromkeys([*now, *there]):
        here, large = now.get(name), there.get(name)
        shown = here or large
        if not isinstance(shown, Claim):
            continue
        said: Content = tables.statement(shown.statement)
        if here:
            said = [tables.link(nodes.literal("", name), f"{uri(chapter.docname)}#{here.anchor}")]
            said += [nodes.Text(" "), *tables.statement(shown.statement)]
        rows.append([said, _measured(here), _measured(large)])
    changed = ", ".join(f"{key} = {value}" for key, value in run.parameters.items())
    return [
        nodes.rubric("", "", tables.link(chapter.title, uri(chapter.docname))),
        nodes.paragraph("", "", nodes.literal("", changed)),
        tables.table(rows, ("claim", "this build", "published sizes"), ["cotflow-ledger"]),
    ]


def _measured(entry: Entry | None) -> Content:
    if not isinstance(entry, Claim):
        return "–"
    prediction = render.predicted(entry)
    return [
        tables.verdict(entry),
        nodes.Text(" "),
        *tables.measured(entry),
        nodes.Text(" ("),
        *tables.inline(prediction),
        nodes.Text(")"),
    ]


def _duration(seconds: float) -> str:
    """As a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
