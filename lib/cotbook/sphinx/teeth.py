"""What planted errors did to the claims, from the committed record, as docutils nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from docutils import nodes

from cotbook.claims import Claim
from cotbook.records import ChapterRecord
from cotbook.run.tree import chapters
from cotbook.sabotage import catalogue, record
from cotbook.sabotage.campaign import counted, toothless
from cotbook.sabotage.catalogue import Error
from cotbook.sabotage.record import Noticed, Record, current
from cotbook.sphinx import tables
from cotbook.sphinx.tables import Content, count

# Parts of the library, by their folders.
PARTS = {
    "network": "Networks",
    "adjoint": "The gradient",
    "flows": "Flows",
    "transport": "Distances",
    "limits": "The limit of depth",
    "bounds": "Bounds",
    "certificates": "Certificates",
    "measure": "What is measured",
    "convolution": "Networks on images",
    "book": "Formulas on the pages",
}
NOTHING = "No campaign of planted errors is on record."


@dataclass(frozen=True)
class Campaign:
    """The record beside the catalogue and the claims of this build."""

    errors: Sequence[Error]
    found: Record
    old: int
    claims: Mapping[str, tuple[str, Claim]]
    titles: Mapping[str, str]

    def link(self, name: str) -> nodes.Node:
        """A claim, leading to its card if this build has it."""
        shown = nodes.literal("", name.partition("/")[2])
        return tables.link(shown, self.claims[name][0]) if name in self.claims else shown


def read(
    root: Path, executed: Iterable[ChapterRecord], uri: Callable[[str], str]
) -> Campaign | None:
    """None where nothing is on record.

    Raises
    ------
    BadInput : the record or the catalogue is damaged.
    """
    found = record.read(root / record.RECORD)
    if not found:
        return None
    errors = [each for each in catalogue.read(root, named=found) if each.name in found]
    book = chapters(root)
    old = sum(
        not all(current(tried, each, book, root) for tried in found[each.name].tried)
        for each in errors
    )
    pages = {chapter.docname.rpartition("/")[2]: chapter for chapter in executed}
    claims = {
        f"{name}/{claim.name}": (f"{uri(chapter.docname)}#{claim.anchor}", claim)
        for name, chapter in pages.items()
        for claim in chapter.claims
        if isinstance(claim, Claim)
    }
    titles = {name: chapter.title for name, chapter in pages.items()}
    return Campaign(errors, found, old, claims, titles)


def summary(campaign: Campaign) -> list[nodes.Node]:
    """The campaign in one sentence of counts."""
    errors = counted(campaign.errors, campaign.found)
    caught = len(errors) - len(toothless(errors, campaign.found))
    sentence = (
        f"Of {count(len(errors), 'planted error', 'planted errors')} the claims caught {caught}."
    )
    return [nodes.paragraph("", sentence, classes=["cotflow-summary"])]


def counts(campaign: Campaign) -> list[nodes.Node]:
    """How many errors there are of which sort."""
    errors, found = campaign.errors, campaign.found
    equivalent = sum(bool(each.equivalent) for each in errors)
    nowhere = sum(not (found[each.name].executed or each.equivalent) for each in errors)
    caught = sum(found[each.name].caught and not each.equivalent for each in errors)
    missed = len(toothless(errors, found))
    sentence = (
        f"{count(len(errors), 'error was', 'errors were')} planted: {caught} made a claim fail, "
        f"{missed} did not, {equivalent} leave every statement true, "
        f"{nowhere} stand where no chapter computes."
    )
    if campaign.old:
        sentence += (
            f" Of {count(campaign.old, 'error', 'errors')} the result is of an earlier state of "
            "the library or of a chapter."
        )
    return [nodes.paragraph("", sentence)]


def missed(campaign: Campaign) -> list[nodes.Node]:
    """Errors that no claim caught, those that leave all true, those that nothing executes."""
    errors, found = campaign.errors, campaign.found
    survivors = toothless(errors, found)
    same = [each for each in errors if each.equivalent]
    nowhere = [each for each in errors if not (found[each.name].executed or each.equivalent)]
    shown: list[nodes.Node] = []
    for title, chosen, second, cell in (
        ("Caught by no claim", survivors, "what became of it", _outcome),
        ("With which every statement stays true", same, "why", lambda each, _: each.equivalent),
        ("Where no chapter computes", nowhere, "place", lambda each, _: _place(each)),
    ):
        shown.append(nodes.rubric("", title))
        if chosen:
            rows = [(_said(each), cell(each, found[each.name])) for each in chosen]
            shown.append(tables.table(rows, ("error", second), ["cotflow-teeth"]))
        else:
            shown.append(nodes.paragraph("", "None."))
    return shown


def by_error(campaign: Campaign) -> list[nodes.Node]:
    """For each part of the library, its errors and the claims that each made fail."""
    shown: list[nodes.Node] = []
    ordered = sorted(campaign.errors, key=lambda each: list(PARTS).index(_part(each)))
    for part, group in groupby(ordered, key=_part):
        errors = list(group)
        caught = sum(campaign.found[each.name].caught for each in errors)
        rows = [
            (
                [nodes.inline("", "", *_said(each), ids=[_anchor(each)])],
                _edit(each),
                _claims(campaign, campaign.found[each.name]),
            )
            for each in errors
        ]
        title = f"{PARTS[part]}: {count(len(errors), 'error', 'errors')}, {caught} caught"
        head = ("what is wrong", "where, and what becomes of what", "claims that fail")
        shown += _folded(title, tables.table(rows, head, ["cotflow-teeth"]))
    return shown


def by_claim(campaign: Campaign) -> list[nodes.Node]:
    """For each chapter, its claims with the errors that each caught."""
    caught = _caught(campaign)
    shown: list[nodes.Node] = []
    for chapter, title in campaign.titles.items():
        names = [name for name in campaign.claims if name.partition("/")[0] == chapter]
        with_teeth = [name for name in names if caught.get(name)]
        if not with_teeth:
            continue
        rows = [(campaign.link(name), _errors(caught[name])) for name in with_teeth]
        head = (
            f"{title}: {len(with_teeth)} of {count(len(names), 'claim', 'claims')} caught an error"
        )
        shown += _folded(head, tables.table(rows, ("claim", "errors"), ["cotflow-teeth"]))
    return shown


def idle(campaign: Campaign) -> list[nodes.Node]:
    """Claims that caught nothing, without those that are true by construction."""
    caught = _caught(campaign)
    rows: list[Sequence[Content]] = []
    for chapter, title in campaign.titles.items():
        names = [
            name
            for name, (_, claim) in campaign.claims.items()
            if name.partition("/")[0] == chapter and claim.kind != "identity" and name not in caught
        ]
        if names:
            rows.append((title, tables.listed([campaign.link(name) for name in names])))
    if not rows:
        return [nodes.paragraph("", "None.")]
    return [tables.table(rows, ("chapter", "claims"), ["cotflow-teeth"])]


SHOWN: dict[str, Callable[[Campaign], list[nodes.Node]]] = {
    "summary": summary,
    "counts": counts,
    "missed": missed,
    "errors": by_error,
    "claims": by_claim,
    "idle": idle,
}


def _part(error: Error) -> str:
    first, _, rest = error.edit.place.partition("/")
    return first if first == "book" else rest.split("/")[1]


def _caught(campaign: Campaign) -> dict[str, list[Error]]:
    caught: dict[str, list[Error]] = {}
    for error in campaign.errors:
        for name in campaign.found[error.name].fails:
            caught.setdefault(name, []).append(error)
    return caught


def _anchor(error: Error) -> str:
    return nodes.make_id(f"error-{error.name}")


def _said(error: Error) -> list[nodes.Node]:
    """What is wrong then; of an error made by rule, its kind and where."""
    if error.edit.line:
        return [nodes.Text(f"{error.breaks} in "), *_place(error)]
    return [nodes.Text(error.breaks)]


def _place(error: Error) -> list[nodes.Node]:
    line = f", line {error.edit.line}" if error.edit.line else ""
    return [nodes.literal("", error.edit.place.removeprefix("lib/")), nodes.Text(line)]


def _edit(error: Error) -> list[nodes.Node]:
    old, new = (nodes.literal("", each.strip()) for each in (error.edit.old, error.edit.new))
    becomes = [nodes.Text(" → "), new] if error.edit.new.strip() else [nodes.Text(" is left out")]
    return [*_place(error), nodes.Text(": "), old, *becomes]


def _claims(campaign: Campaign, noticed: Noticed) -> list[nodes.Node]:
    shown: list[nodes.Node] = []
    for tried in noticed.tried:
        if tried.fails:
            links = [campaign.link(f"{tried.chapter}/{name}") for name in tried.fails]
            title = campaign.titles.get(tried.chapter, tried.chapter)
            shown += [nodes.Text(f"{'; ' * bool(shown)}{title}: "), *tables.listed(links)]
    return shown or [nodes.Text("none")]


def _outcome(error: Error, noticed: Noticed) -> list[nodes.Node]:
    parts = {
        "inconclusive": noticed.inconclusive,
        "stopped": noticed.stopped,
        "nothing seen in": noticed.silent,
    }
    said = "; ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names)
    return [nodes.Text(said)]


def _errors(errors: Iterable[Error]) -> list[nodes.Node]:
    return tables.listed((tables.link(_said(each), f"#{_anchor(each)}") for each in errors), "; ")


def _folded(title: str, *content: nodes.Node) -> list[nodes.Node]:
    """A part of the page that opens at its title."""
    summary = f"<summary>{escape(title)}</summary>"
    return [
        nodes.raw("", f'<details class="cotflow-teeth">{summary}', format="html"),
        *content,
        nodes.raw("", "</details>", format="html"),
    ]
