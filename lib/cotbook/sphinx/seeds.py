"""Sphinx extension: what became of the claims at other seeds, as ``cotflow reseed`` recorded it.

Directive
---------
``{other-seeds}`` : a row for each chapter, then the claims that ever missed; with ``:summary:``
one sentence. Without a record it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective

from cotbook.errors import BadInput
from cotbook.parameters import ParameterError
from cotbook.records import ChapterRecord
from cotbook.run import tree
from cotbook.seeds.record import RECORD, Miss, Row, begun, read, share, totals
from cotbook.sphinx import executed, tables
from cotbook.sphinx.ledger import waiting

COUNTED = ("chapter", "runs", "claims", "fail", "inconclusive")
MISSED = ("claim", "expected", "did not hold in", "worst measurement")
NONE = "No run with other seeds is on record."


class PendingSeeds(nodes.General, nodes.Element):
    """Holds the place of the tables until every chapter has been executed."""


class OtherSeeds(SphinxDirective):
    option_spec: ClassVar = {"summary": directives.flag}

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(Path(self.env.srcdir) / RECORD))
        waiting(self.env).add(self.env.docname)
        return [PendingSeeds(summary="summary" in self.options)]


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the tables where the directives stand."""
    pending = list(doctree.findall(PendingSeeds))
    if not pending:
        return
    try:
        rows = recorded(Path(app.srcdir))
        others = earlier(rows, Path(app.srcdir))
    except (BadInput, ParameterError) as error:
        raise SphinxError(str(error)) from None
    chapters, uri = executed.read(app.env), partial(app.builder.get_relative_uri, docname)
    for node in pending:
        node.replace_self(
            [summary(rows)] if node["summary"] else shown(rows, chapters, uri, others)
        )


def recorded(root: Path) -> dict[str, Row]:
    """The rows of the book's record; none where there is no record."""
    return read(root / RECORD) if (root / RECORD).exists() else {}


def earlier(rows: Mapping[str, Row], root: Path) -> list[str]:
    """Chapters of the record that, with the library and the versions, are others by now."""
    now = tree.chapters(root)
    return [
        name
        for name, row in rows.items()
        if name not in now or not row.same(begun(now[name], root, row.profile))
    ]


def summary(rows: Mapping[str, Row]) -> nodes.paragraph:
    """One sentence of counts."""
    drawn = [row for row in rows.values() if row.shifts]
    if not drawn:
        return nodes.paragraph("", NONE, classes=["cotflow-summary"])
    least, most = (pick(len(row.shifts) for row in drawn) for pick in (min, max))
    times = tables.count(most, "time", "times")
    times = times if least == most else f"{least} to {times}"
    _, verdicts, fails, open_ = totals(drawn)
    found = [f"{verdicts - fails - open_:,} hold"]
    if open_:
        found.append(f"{share(open_, verdicts)} {'is' if open_ == 1 else 'are'} inconclusive")
    found.append(tables.count(fails, "fails", "fail") if fails else "none fails")
    if stopped := sum(len(row.stopped) for row in rows.values()):
        found.append(f"and {tables.count(stopped, 'run', 'runs')} did not reach the end")
    sentence = f"{times} with other seeds: of {verdicts:,} verdicts {', '.join(found)}."
    return nodes.paragraph("", sentence, classes=["cotflow-summary"])


def shown(
    rows: Mapping[str, Row],
    chapters: Iterable[ChapterRecord],
    uri: Callable[[str], str],
    others: Sequence[str] = (),
) -> list[nodes.Node]:
    """A row for each chapter, a row for each claim that missed, and what else is to be said.

    Parameters
    ----------
    chapters : those of the book, for titles, statements and links.
    others : names of chapters whose runs had another version than the book.
    """
    if not rows:
        return [nodes.paragraph("", NONE)]
    pages = {chapter.docname.rpartition("/")[2]: chapter for chapter in chapters}
    order = [
        *(name for name in pages if name in rows),
        *(name for name in rows if name not in pages),
    ]
    counted: list[list[tables.Content]] = []
    missed: list[list[tables.Content]] = []
    said: list[str] = []
    for name in order:
        row, page = rows[name], pages.get(name)
        title = tables.link(page.title, uri(page.docname)) if page else name
        counts = (len(row.shifts), row.claims, row.count("fails"), row.count("inconclusive"))
        counted.append([title, *map(str, counts)])
        entries = {entry.name: entry for entry in page.claims} if page else {}
        for claim, misses in row.missed.items():
            statement: tables.Content = f"{name}/{claim}"
            if page and claim in entries:
                address = f"{uri(page.docname)}#{entries[claim].anchor}"
                statement = tables.link(tables.statement(entries[claim].statement), address)
            missed.append([statement, *_missed(misses, len(row.shifts))])
        said += [f"{name}: {row.fixed}."] if row.fixed else []
        said += [f"{name}, seeds + {shift}: {reason}." for shift, reason in row.stopped.items()]
    runs, verdicts, fails, open_ = totals(rows.values())
    of_all = (str(runs), f"{verdicts:,} verdicts", share(fails, verdicts), share(open_, verdicts))
    counted.append(["all", *of_all])
    found: list[nodes.Node] = [tables.table(counted, COUNTED, ["cotflow-record"])]
    if missed:
        found.append(nodes.rubric("", "Claims that missed"))
        found.append(tables.table(missed, MISSED, ["cotflow-record"]))
    if others:
        which = "all chapters" if len(others) == len(rows) else ", ".join(others)
        said.append(
            f"The runs of {which} had another version of the chapter, of the library or of a "
            "package than these pages."
        )
    return [*found, *(nodes.paragraph("", sentence) for sentence in said)]


def _missed(misses: Sequence[Miss], runs: int) -> list[tables.Content]:
    worst = max(misses, key=lambda miss: miss.excess)
    verdicts = [miss.verdict for miss in misses]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    how = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    often = f"{len(misses)} of {runs}: {how}"
    return [tables.inline(worst.allowed()), often, tables.inline(worst.found())]


def setup(app: Sphinx) -> dict:
    app.add_node(PendingSeeds)
    app.add_directive("other-seeds", OtherSeeds)
    app.connect("doctree-resolved", fill)
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
